"""Layers that share a weight, beside a family that can be pruned: through every file of a run and back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from bmrs_pyro import load
from bmrs_pyro.files.sealed import load_tensors, save_tensors
from bmrs_pyro.runs import RunDirectory
from tests.cli.test_commands import command

SOURCE = """
from torch import nn

def network(input_shape, num_classes):
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    return nn.Sequential(
        first, nn.Tanh(), second, nn.Tanh(), nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, num_classes)
    )
"""


def test_shared_storage_is_written_once_for_each_name(tmp_path: Path) -> None:
    whole = torch.randn(4, 6)
    tensors: dict[str, Tensor] = {
        "a": whole,
        "b": whole,
        "row": whole[1],
        "turned": whole.T,
        "c": whole.clone(),
    }
    save_tensors(tmp_path / "tied.safetensors", tensors, {})
    found, _ = load_tensors(tmp_path / "tied.safetensors")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], value) for name, value in tensors.items())


def test_a_run_with_tied_weights_ends_resumes_and_loads(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(300, 4)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int64)
    np.savez(tmp_path / "data.npz", x_train=x, y_train=y, x_test=x[:50], y_test=y[:50])
    (tmp_path / "tied.py").write_text(SOURCE)
    fit = ["fit", "tied.py", "--data", "data.npz", "--out", "run", "--epochs", 4, "--fine-tune-epochs", 1]
    fit += ["--batch-size", 16, "--kl-weight", "mean:0.1", "--max-params", 100, "--quiet"]
    assert command(*fit, cwd=tmp_path).stderr == ""
    report = command("report", "run", "--json", cwd=tmp_path)
    assert report.returncode == 0, report.stderr
    assert json.loads(report.stdout)["families"]["theta.4"]["kept"] < 16

    run = RunDirectory(tmp_path / "run")
    small: Any = load(run.path)
    network: Any = run.network()[0].net
    for net in (small, network):
        assert net[0].weight is net[2].weight
    stored = load_file(run.path / "compact.safetensors")
    assert torch.equal(stored["0.weight"], stored["2.weight"])
    assert torch.equal(small[0].weight, network[0].weight)

    resumed = tmp_path / "again"
    shutil.copytree(run.path, resumed)
    for name in ("network.safetensors", "compact.safetensors", "reduction.json"):
        (resumed / name).unlink()  # as after a kill behind the last epoch
    fit[fit.index("run")] = "again"
    assert command(*fit, "--resume", cwd=tmp_path).stderr == ""
    again = load_file(resumed / "compact.safetensors")
    assert again.keys() == stored.keys()
    assert all(torch.equal(again[name], value) for name, value in stored.items())

    # and as the trained network of another run
    weights = ["--weights", "run/dense-tied.safetensors"]
    save_tensors(run.path / "dense-tied.safetensors", run.dense().state_dict(), {})
    fit[fit.index("again")] = "third"
    assert command(*fit, *weights, cwd=tmp_path).stderr == ""
    third: Any = RunDirectory(tmp_path / "third").dense()
    assert third[0].weight is third[2].weight
