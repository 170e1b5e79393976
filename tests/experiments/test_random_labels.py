"""Random labels in miniature: what the dropout baseline and the pruning methods report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bmrs_pyro.cli.reproduce_studies import random_labels as command
from bmrs_pyro.experiments.sbp import random_labels
from bmrs_pyro.experiments.spread import table


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with a tiny MNIST: noise with the label written into a corner."""
    rng = np.random.default_rng(0)
    parts: dict[str, Any] = {}
    for part, count in (("train", 1200), ("test", 100)):
        x, y = rng.integers(0, 60, (count, 28, 28), dtype=np.uint8), np.arange(count) % 10
        x[:, :8, :8] = 20 * y[:, None, None] + 60
        parts |= {f"x_{part}": x, f"y_{part}": y}
    folder = tmp_path_factory.mktemp("data")
    np.savez(folder / "mnist.npz", **parts)
    return folder


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*min_keep")
def test_permuted_labels_leave_nothing_and_true_ones_leave_something(root: Path) -> None:
    left = {}
    for labels in random_labels.LABELS:
        config = {
            "network": "lenet_fc",
            "labels": labels,
            "method": "bmrs-n",
            "images": 1000,
            "epochs": 12,
            "seed": 0,
        }
        result = random_labels.run(config, data_root=str(root))
        assert json.loads(json.dumps(result)) == result
        assert result["structures"][0] == 784 + 500 + 300
        left[labels] = result["structures"][1]
        # of permuted labels every structure has evidence against it, and the network gives one answer for all images
        assert labels == "true" or (result["score"] > 0 and result["training_error"] > 80)
    assert left["random"] == 3 < left["true"]


def test_the_baseline_has_dropout_in_front_of_layers_that_read_hidden_units() -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    found = random_labels._with_dropout(net)
    assert [type(layer) for layer in found] == [nn.Linear, nn.ReLU, nn.Sequential]
    assert found(torch.ones(1, 4)).shape == (1, 2)


def test_command(root: Path, tmp_path: Path) -> None:
    command(
        data_root=root,
        network=["lenet5_caffe"],
        images=100,
        epochs=4,
        seeds=1,
        cache=tmp_path / "cache",
        out=tmp_path,
    )
    rows = json.loads((tmp_path / "random-labels.json").read_text())
    assert [(row["labels"], row["method"]) for row in rows] == [
        (labels, method) for labels in random_labels.LABELS for method in random_labels.METHODS
    ]
    assert "| lenet5_caffe | true | snr | 100 | 4 | 1 |" in (tmp_path / "random-labels.md").read_text()


def test_a_table_joins_seeds() -> None:
    rows = [{"a": "x", "seed": seed, "b": value} for seed, value in ((1, 3.0), (0, 1.0))]
    rows += [{"a": "y", "seed": 0, "b": None}]
    found = table(rows, ("a", "seed"), {"b": lambda row: row["b"], "words": lambda row: f"w{row['seed']}"})
    assert found.splitlines() == [
        "| a | seeds | b | words |",
        "|---|---|---|---|",
        "| x | 2 | 2.00 ± 1.41 | w0; w1 |",
        "| y | 1 |  | w0 |",
    ]
