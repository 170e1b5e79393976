"""Export: files of the small network that run elsewhere, each checked by running it.

Start with :func:`export_run`.
"""

from bmrs_pyro.export.checked import Export as Export
from bmrs_pyro.export.checked import ExportError as ExportError
from bmrs_pyro.export.checked import Format as Format
from bmrs_pyro.export.checked import export_run as export_run
from bmrs_pyro.export.onnx_file import load_onnx as load_onnx
from bmrs_pyro.export.onnx_file import save_onnx as save_onnx
from bmrs_pyro.export.pt2_file import load_pt2 as load_pt2
from bmrs_pyro.export.pt2_file import save_pt2 as save_pt2
