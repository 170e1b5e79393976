"""The experiment with trained networks on a few random images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bmrs_pyro.experiments.trained import runs as trained
from bmrs_pyro.experiments.trained.page import plot, trained_page

KEYS = {"dataset", "accuracy", "dense_accuracy", "macs", "parameters", "seconds", "version"}


@pytest.fixture
def data_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    random = np.random.default_rng(0)
    y = np.arange(800) % 10
    x = (random.integers(0, 60, (800, 32, 32, 3)) + 19 * y[:, None, None, None]).astype(np.uint8)
    np.savez(tmp_path / "cifar10.npz", x_train=x[:600], y_train=y[:600], x_test=x[600:], y_test=y[600:])
    small = trained.Setting(lambda: trained.vgg((4, 6, 6, 8, 8, 12)), 16, 0.5, 6)
    monkeypatch.setattr(trained, "NETWORKS", {"vgg": small})
    monkeypatch.setattr(trained, "CUTS", 2)
    return str(tmp_path)


@pytest.mark.parametrize(
    "contender",
    [
        "dense",
        "bmrs-path",
        "bmrs-path-teacher",
        "bmrs-laplace",
        *(f"torch-pruning-{name}" for name in ("taylor-local", "lamp-iterative")),
    ],
)
def test_every_contender_meets_its_budget(contender: str, data_root: str) -> None:
    if contender.startswith("torch-pruning"):
        pytest.importorskip("torch_pruning")
    (config,) = trained.grid(["vgg"], [contender], [40], [1], 1)
    result = trained.run(config, data_root=data_root, cache=data_root)
    assert result.keys() >= KEYS
    if contender == "dense":
        assert result["macs"] == 100
    else:
        assert 15 < result["macs"] <= 40
    page = trained_page([{**config, **result}])
    assert f"{result['accuracy']:.2f}" in page
    assert len(plot([{**config, **result}], "vgg").axes) == 1


@pytest.mark.parametrize("contender", ["bmrs-path", "torch-pruning-magnitude-local"])
def test_a_transformer_loses_heads_and_neurons(
    contender: str, data_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if contender.startswith("torch-pruning"):
        pytest.importorskip("torch_pruning")
    cycle = trained.Cycle("adamw", weight_decay=0.05)
    small = trained.Setting(lambda: trained.build("vit-64x1", (3, 8, 8), 10), 8, 0.5, 2, cycle=cycle)
    monkeypatch.setattr(trained, "NETWORKS", {"vit": small})
    (config,) = trained.grid(["vit"], [contender], [60], [1], 1)
    result = trained.run(config, data_root=data_root, cache=data_root)
    assert result.keys() >= KEYS
    assert 30 < result["macs"] <= 60


def test_resnet20_has_its_number_of_parameters() -> None:
    count = sum(parameter.numel() for parameter in trained.resnet20().parameters())
    assert 0.27e6 < count < 0.28e6
