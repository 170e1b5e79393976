"""One small finished run, made by the command, that tests copy or read."""

from __future__ import annotations

import pytest

from bmrs_pyro.runs import RunDirectory

# counts how often it is executed, so that a test can tell that it was not
SOURCE = """
import builtins
from torch import nn

builtins.bmrs_executions = getattr(builtins, "bmrs_executions", 0) + 1

def network(input_shape, num_classes):
    hidden = [nn.Linear(64, 12), nn.Tanh(), nn.Linear(12, 8), nn.Tanh()]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(8, num_classes))
"""


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    from bmrs_pyro.cli.app import app

    folder = tmp_path_factory.mktemp("reliability")
    source, out = folder / "network.py", folder / "run"
    source.write_text(SOURCE)
    options = [
        "--batch-size",
        "16",
        "--lr",
        "1e-3",
        "--posterior-lr-factor",
        "50",
        "--kl-weight",
        "mean:0.3",
        "--quiet",
    ]
    options += ["--epochs", "4", "--fine-tune-epochs", "1"]
    app(["fit", str(source), "--out", str(out), *options], standalone_mode=False)
    return RunDirectory(out)
