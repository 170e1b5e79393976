from .sealed import NewerFormat as NewerFormat
from .sealed import WriteError as WriteError
from .sealed import load_tensors as load_tensors
from .sealed import save_tensors as save_tensors
from .sealed import seal as seal
from .sealed import unseal as unseal
from .sealed import write_atomically as write_atomically
