"""The link between BMRS_U and floating point: cutting mantissas, and a run of every number of bits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from bmrs_pyro.cli.reproduce_poster import precision as command
from bmrs_pyro.experiments.poster.precision import BITS, cut


def test_cut_keeps_the_first_bits_of_the_mantissa() -> None:
    net = nn.Linear(1, 4)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[1.75], [-1.75], [0.3], [0.0]]))
    one, eight, all_bits = (cut(net, bits).state_dict() for bits in (1, 8, 23))
    # 0.3 = 1.2 · 2⁻²
    assert one["weight"].flatten().tolist() == [1.5, -1.5, 0.25, 0.0]
    assert torch.equal(all_bits["weight"], net.weight)
    relative = (net.bias - eight["bias"]) / net.bias
    assert ((relative >= 0) & (relative < 2.0**-8)).all()


def test_command(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    parts: dict[str, Any] = {}
    for part, count in (("train", 200), ("test", 40)):
        parts |= {f"x_{part}": rng.integers(0, 255, (count, 28, 28), dtype=np.uint8)}
        parts |= {f"y_{part}": np.arange(count) % 10}
    np.savez(tmp_path / "mnist.npz", **parts)
    command(
        data_root=tmp_path,
        network=["mlp"],
        dataset=["mnist"],
        epochs=4,
        cache=tmp_path / "cache",
        out=tmp_path,
    )
    (row,) = json.loads((tmp_path / "precision.json").read_text())
    assert [point["bits"] for point in row["points"]] == list(BITS)
    # nothing pruned and hardly anything cut: the network as it is
    assert row["points"][-1]["compression"] == 0
    assert row["points"][-1]["whole_cut"] == row["points"][-1]["cut"]
    assert f"| mlp | mnist | 0.1 | 4 | {BITS[0]} | 1 |" in (tmp_path / "precision.md").read_text()
