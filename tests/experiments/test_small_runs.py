"""The VGG-like network's runs and those of both methods together, in miniature."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bmrs_pyro.cli.reproduce_studies import both, vgg
from bmrs_pyro.experiments.small_runs import build


def data(folder: Path, name: str, shape: tuple[int, ...]) -> Path:
    """Write a data set of noise whose labels stand in a corner."""
    rng = np.random.default_rng(0)
    parts: dict[str, Any] = {}
    for part, count in (("train", 300), ("test", 50)):
        x, y = rng.integers(0, 60, (count, *shape), dtype=np.uint8), np.arange(count) % 10
        x[:, :8, :8] = (20 * y + 60).reshape(-1, *[1] * len(shape))
        parts |= {f"x_{part}": x, f"y_{part}": y}
    np.savez(folder / f"{name}.npz", **parts)
    return folder


def test_networks_by_name_and_size() -> None:
    whole, narrow = (build(name, (3, 32, 32), 10) for name in ("vgg", "vgg-4"))
    widths = [3, 4, 4, 8, 8, 16, 16, 16, *[32] * 6]
    # 3 × 3 convolutions with bias and batch norm; then two linear layers, the first with batch norm
    expected = sum(9 * a * b + 3 * b for a, b in pairwise(widths)) + 32 * 32 + 3 * 32 + 330
    assert sum(parameter.numel() for parameter in narrow.parameters()) == expected
    assert sum(parameter.numel() for parameter in whole.parameters()) == 14_991_946  # docs/architectures.md
    assert narrow.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


@pytest.mark.filterwarnings("ignore:.*(min_keep|posteriors)")
def test_vgg(tmp_path: Path) -> None:
    root = data(tmp_path, "cifar10", (32, 32, 3))
    vgg(
        data_root=root,
        width=2,
        images=200,
        epochs=4,
        kl_weight="cost:5",
        cache=tmp_path / "cache",
        out=tmp_path,
    )
    dense, *pruned = json.loads((tmp_path / "vgg.json").read_text())
    assert dense["flops_ratio"] == dense["parameters_ratio"] == 1
    assert dense["widths"] == [2, 2, 4, 4, *[8] * 3, *[16] * 6, 16, 16]
    for row in pruned:
        assert row["flops_ratio"] >= 1
        assert all(left <= whole for left, whole in zip(row["widths"], dense["widths"], strict=True))
    assert "| 2 | bmrs-n | cost:5 | 200 | 4 | 1 |" in (tmp_path / "vgg.md").read_text()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*(min_keep|posteriors)")
def test_both(tmp_path: Path) -> None:
    root = data(tmp_path, "mnist", (28, 28))
    both(
        data_root=root,
        network=["lenet5_caffe"],
        dataset="mnist",
        images=200,
        epochs=8,
        cache=tmp_path / "cache",
        out=tmp_path,
    )
    rows = {row["method"]: row for row in json.loads((tmp_path / "both.json").read_text())}
    dense = rows["dense"]["parameters"][0]
    assert {method: row["parameters"][0] for method, row in rows.items()} == dict.fromkeys(rows, dense)
    assert (
        rows["dense"]["parameters"][1]
        == rows["weights"]["parameters"][1]
        == rows["dense"]["nonzero"]
        == dense
    )
    assert rows["both"]["parameters"][1] == rows["structures"]["parameters"][1] <= dense
    assert rows["structures"]["nonzero"] == rows["structures"]["parameters"][1]
    assert rows["weights"]["nonzero"] < dense
    assert rows["both"]["nonzero"] < rows["both"]["parameters"][1]
