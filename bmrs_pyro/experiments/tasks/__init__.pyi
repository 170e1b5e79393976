from . import datasets as datasets
from . import demo as demo
from . import runs as runs
