"""The study of larger networks: all its runs on a few images, and what the table of claims makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bmrs_pyro.cli.reproduce_poster import larger as command
from bmrs_pyro.experiments.claims import claims
from bmrs_pyro.experiments.poster import larger
from bmrs_pyro.experiments.poster.post_training import CRITERIA


@pytest.mark.filterwarnings("ignore:.* few or no structures will leave", "ignore:nothing was removed in")
def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = larger.NETWORKS[1]
    monkeypatch.setattr(larger, "KL_WEIGHTS", (0.1,))
    monkeypatch.setattr(larger, "METHODS", ("bmrs-n", "snr"))
    rng = np.random.default_rng(0)
    parts: dict[str, Any] = {}
    for part, count in (("train", 260), ("test", 40)):
        parts |= {f"x_{part}": rng.integers(0, 255, (count, 32, 32, 3), dtype=np.uint8)}
        parts |= {f"y_{part}": np.arange(count) % 10}
    np.savez(tmp_path / "cifar10.npz", **parts)
    options = {"data_root": tmp_path, "network": [network], "cache": tmp_path / "cache", "out": tmp_path}
    command(images=200, epochs=4, **options)
    rows = {row["method"]: row for row in json.loads((tmp_path / "larger.json").read_text())}
    assert set(rows) == {"none", "posterior", "bmrs-n", "snr"}
    assert rows["none"]["compression"] == 0
    curves = rows["posterior"]["curves"]
    assert set(curves) == set(CRITERIA)
    assert all(curve["compression"][0] == 0 and curve["compression"][-1] > 50 for curve in curves.values())
    text = (tmp_path / "larger.md").read_text()
    assert f"| {network} | bmrs-n | 0.1 | {rows['bmrs-n']['compression']:.2f} |" in text
    assert (tmp_path / "larger.png").exists()
    assert (tmp_path / "larger-curves.png").exists()


@pytest.mark.parametrize(("accuracy", "verdict"), [(69.5, "equal"), (68.0, "worse")])
def test_the_claim_takes_the_weight_that_validates_best(accuracy: float, verdict: str) -> None:
    run = {"network": larger.NETWORKS[0], "seed": 0}
    rows = [
        {**run, "method": "none", "kl_weight": 0.0, "accuracy": 70.0},
        {**run, "method": "bmrs-n", "kl_weight": 0.1, "accuracy": accuracy, "validation_accuracy": 60.0}
        | {"compression": 50.0},
        {**run, "method": "bmrs-n", "kl_weight": 0.5, "accuracy": 71.0, "validation_accuracy": 59.0}
        | {"compression": 90.0},
    ]
    (found,) = (claim for claim in claims({"larger": rows}) if claim.claim.startswith("ResNet"))
    assert found.ours == f"50.00 / {accuracy:.2f}; without gains 70.00"
    assert found.verdict.split(":")[0] == verdict
