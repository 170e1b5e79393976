from .checked import Export as Export
from .checked import export_run as export_run
from .formats import ExportError as ExportError
from .formats import Format as Format
from .onnx_file import load_onnx as load_onnx
from .onnx_file import save_onnx as save_onnx
from .pt2_file import load_pt2 as load_pt2
from .pt2_file import save_pt2 as save_pt2
