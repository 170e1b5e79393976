"""A run belongs to its data: other data under the same name are refused by whatever would use them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from bmrs_pyro.files.sealed import seal, unseal
from bmrs_pyro.runs import RunDirectory
from tests.cli.test_commands import command

SOURCE = """
from torch import nn

def network(input_shape, num_classes):
    return nn.Sequential(nn.Linear(input_shape[0], 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, num_classes))
"""


def write(path: Path, *, features: int = 4, classes: int = 2, scale: float = 1.0, shift: float = 0.0) -> None:
    random = np.random.default_rng(0)
    x = (scale * random.normal(size=(100, features)) + shift).astype(np.float32)
    y = np.arange(100) % classes
    np.savez(path, x_train=x, y_train=y, x_test=x[:20], y_test=y[:20])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a network, data and a finished run."""
    (tmp_path / "net.py").write_text(SOURCE)
    write(tmp_path / "data.npz")
    assert fit(tmp_path).returncode == 0
    return tmp_path


def fit(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    options = ["--epochs", 1, "--fine-tune-epochs", 1, "--quiet"]
    return command("fit", "net.py", "--data", "data.npz", "--out", "run", *options, *more, cwd=folder)


def test_other_data_are_refused_by_whatever_reads_them(folder: Path) -> None:
    before = (folder / "run" / "compact.safetensors").read_bytes()
    for other, change in (
        ({"features": 5}, "examples have shape (5,), not (4,)"),
        ({"classes": 3}, "there are 3 classes, not 2"),
        ({"shift": 0.01}, "the mean of channel 0 is"),
        ({"scale": 1.01}, "the mean of channel 0 is"),
    ):
        write(folder / "data.npz", **other)
        for result in (
            fit(folder, "--resume"),
            command("evaluate", "run", cwd=folder),
            command("compare", "run", cwd=folder),
            command("prune", "run", cwd=folder),
            command("report", "run", "--html", "page.html", cwd=folder),
        ):
            assert result.returncode == 2
            assert result.stderr.startswith("error: data.npz holds other data than run was made with: ")
            assert change in result.stderr
            assert result.stderr.count("\n") == 1
    assert (folder / "run" / "compact.safetensors").read_bytes() == before
    assert not (folder / "page.html").exists()

    write(folder / "data.npz")
    assert fit(folder, "--resume").returncode == 0


@pytest.mark.parametrize("part", ["train", "test"])
def test_other_labels_and_single_values_are_told(part: str, folder: Path) -> None:
    for name in ("y", "x"):
        write(folder / "data.npz")
        arrays = dict(np.load(folder / "data.npz"))
        values = arrays[f"{name}_{part}"]
        if name == "y":
            values[:2] = values[:2][::-1].copy()
        else:
            values[3, 0] *= 1 + 1e-6
        np.savez(folder / "data.npz", **arrays)
        result = command("evaluate", "run", cwd=folder)
        assert result.returncode == 2
        assert "labels or inputs have other values, or another order" in result.stderr


@pytest.mark.filterwarnings("always:the small network is not scored")
def test_a_run_is_pruned_without_its_data_but_not_with_others(folder: Path) -> None:
    (folder / "net.py").write_text(SOURCE.replace("nn.BatchNorm1d(8), ", ""))  # nothing else needs the data
    assert fit(folder, "--out", "plain").returncode == 0
    before = (folder / "plain" / "compact.safetensors").read_bytes()
    write(folder / "data.npz", shift=0.01)
    result = command("prune", "plain", "--criterion", "l2", "--fraction", 0.9, cwd=folder)
    assert result.returncode == 2
    assert "holds other data than plain was made with" in result.stderr
    assert (folder / "plain" / "compact.safetensors").read_bytes() == before
    (folder / "data.npz").unlink()
    result = command("prune", "plain", "--criterion", "l2", "--fraction", 0.9, cwd=folder)
    assert result.returncode == 0
    assert "the small network is not scored: plain was made with the data data.npz" in result.stderr


def test_a_deviation_alone_is_told(folder: Path) -> None:
    # twice the distance from the mean of the part that is trained on
    mean = np.array(RunDirectory(folder / "run").config.mean)
    arrays = dict(np.load(folder / "data.npz"))
    for part in ("x_train", "x_test"):
        arrays[part] = (mean + 2 * (arrays[part] - mean)).astype(np.float32)
    np.savez(folder / "data.npz", **arrays)
    result = command("evaluate", "run", cwd=folder)
    assert "the std of channel 0 is" in result.stderr


def test_sums_in_another_order_are_the_same_data(folder: Path) -> None:
    """Another number of threads moves the moments by their last digits."""
    config = RunDirectory(folder / "run").config
    file = folder / "run" / "config.json"
    record = unseal(file.read_text())
    record["mean"] = [value * (1 + 1e-14) for value in record["mean"]]
    record["std"] = [value * (1 - 1e-14) for value in record["std"]]
    file.write_text(json.dumps(seal(record)))
    assert RunDirectory(folder / "run").config.mean != config.mean
    assert command("evaluate", "run", cwd=folder).returncode == 0


def test_data_that_are_not_found_are_named_with_their_run(folder: Path) -> None:
    said = "run was made with the data data.npz, which are not there"
    (folder / "elsewhere").mkdir()
    result = command("evaluate", "../run", cwd=folder / "elsewhere")
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert said in result.stderr
    (folder / "data.npz").rename(folder / "moved.npz")
    result = fit(folder, "--resume")
    assert result.returncode == 2
    assert said in result.stderr
