"""The comparison of five ways to fit weights: every method runs, and the command writes its record."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import bmrs_pyro.experiments.weights.bmr
from bmrs_pyro.cli import reproduce_weights
from bmrs_pyro.experiments.weights.bmr import METHODS, lenet, run, step_times


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with a tiny Fashion-MNIST: noise with the label written into a corner."""
    rng = np.random.default_rng(0)
    parts: dict[str, Any] = {}
    for part, count in (("train", 100), ("test", 20)):
        x, y = rng.integers(0, 60, (count, 28, 28), dtype=np.uint8), np.arange(count) % 10
        x[:, :3, :3] = 20 * y[:, None, None] + 60
        parts |= {f"x_{part}": x, f"y_{part}": y}
    folder = tmp_path_factory.mktemp("data")
    np.savez(folder / "fashion_mnist.npz", **parts)
    return folder


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs(method: str, root: Path) -> None:
    result = run(
        {
            "network": "lenet",
            "data": "fashion_mnist",
            "data_root": str(root),
            "method": method,
            "seed": 0,
            "epochs": 3,
            "warm_up": 1,
            "steps": 2,
            "batch": 20,
            "draws": 2,
        }
    )
    assert json.loads(json.dumps(result)) == result
    assert len(result["history"]) == 3
    assert result["weights"] == 61706  # LeNet's parameters, all of them random
    assert result["active"] <= result["weights"]
    assert result["parameters"][1] <= result["parameters"][0] == 61706


@pytest.mark.parametrize(
    ("shape", "parameters"), [((1, 28, 28), 61706), ((1, 32, 32), 61706), ((3, 32, 32), 550362)]
)
def test_lenet(shape: tuple[int, ...], parameters: int) -> None:
    net = lenet(shape, 10)
    assert net(torch.zeros(2, *shape)).shape == (2, 10)
    # 25·a·c + a, 25·a·b + b, 25·b·c + c, c·d + d, d·10 + 10 for features a-b-c-d
    assert sum(parameter.numel() for parameter in net.parameters()) == parameters


def test_command(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bmrs_pyro.experiments.weights.bmr, "_BLOCK", 2)
    monkeypatch.setattr(
        bmrs_pyro.experiments.weights.bmr, "step_times", partial(step_times, batch=5, rounds=1)
    )
    cell = {
        "network": "mlp",
        "data": "cifar10",
        "epochs": 2,
        "warm_up": 1,
        "steps": 1,
        "batch": 10,
        "draws": 1,
    }
    (tmp_path / "bmr.json").write_text(json.dumps([cell]))
    reproduce_weights.bmr(
        method=["flat", "flat"],
        seeds=1,
        epochs=2,
        warm_up=1,
        steps=1,
        batch_size=10,
        draws=1,
        data_root=root,
        cache=tmp_path / "cache",
        out=tmp_path,
    )
    earlier, record = json.loads((tmp_path / "bmr.json").read_text())
    assert earlier == cell
    assert {method: len(results) for method, results in record["results"].items()} == {"flat": 1}
    assert (tmp_path / "bmr-lenet-fashion_mnist.png").exists()
    assert len(list((tmp_path / "cache").glob("*.json"))) == 1
    assert "weights pruned" in capsys.readouterr().out


def test_unknown_names() -> None:
    with pytest.raises(
        ValueError, match="network 'resnet' is unknown here; use one of mlp, lenet, mixer, vit, "
    ):
        reproduce_weights.bmr(network=["resnet"])
    with pytest.raises(ValueError, match="--warm-up is 4; it must be at least 0 and less than --epochs=3"):
        reproduce_weights.bmr(epochs=3)
