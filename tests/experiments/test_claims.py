"""The table of claims: what the runs say, and what was not run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bmrs_pyro.cli.reproduce_studies import index
from bmrs_pyro.experiments.claims import claims, page


def said(results: dict[str, Any], part: str) -> tuple[str, int, str]:
    (found,) = (claim for claim in claims(results) if part in claim.claim)
    return found.ours, found.seeds, found.verdict.split(":")[0]


def test_without_runs_nothing_is_claimed() -> None:
    found = claims({})
    assert len({claim.claim for claim in found}) == len(found)
    assert {(claim.ours, claim.seeds, claim.verdict.split(":")[0]) for claim in found} == {("", 0, "not run")}
    assert f"{len(found)} claims: {len(found)} not run." in page({})


@pytest.mark.parametrize(("accuracy", "verdict"), [(96.9, "equal"), (97.0, "better"), (96.0, "worse")])
def test_a_cell_of_the_poster(accuracy: float, verdict: str) -> None:
    run = {
        "network": "mlp",
        "dataset": "mnist",
        "method": "bmrs-n",
        "protocol": "ours",
        "kl_weight": 1,
        "seed": 0,
    }
    row = {**run, "compression": 50.0, "accuracy": accuracy}
    assert said({"poster": [row]}, "mlp, mnist, bmrs-n, protocol `ours`") == (
        f"50.00 / {accuracy:.2f}",
        1,
        verdict,
    )


@pytest.mark.parametrize(("left", "verdict"), [(3, "equal"), (100, "worse")])
def test_random_labels(left: int, verdict: str) -> None:
    run = {"network": "lenet_fc", "labels": "random", "training_error": 10.0}
    rows = [{**run, "method": "dropout"}, {**run, "method": "snr", "structures": [1500, left]}]
    assert said({"random-labels": rows}, "lenet_fc: binary dropout") == (
        f"10.00, at most {left / 15:.2f}",
        1,
        verdict,
    )


@pytest.mark.parametrize(
    ("active", "accuracy", "verdict"), [(30, 0.8, "equal"), (50, 0.8, "worse"), (30, 0.7, "worse")]
)
def test_weights(active: int, accuracy: float, verdict: str) -> None:
    runs = ((100, 0.8), (active, accuracy))
    flat, mine = ({"weights": 100, "active": count, "accuracy": value} for count, value in runs)
    record = {"network": "vit-64x2", "data": "cifar10", "results": {"flat": [flat], "bmr-horseshoe": [mine]}}
    expected = f"{100 - active:.2f}, {100 * accuracy - 80:+.2f}"
    assert said({"bmr": [record]}, "vit-64x2 on cifar10, bmr-horseshoe") == (expected, 1, verdict)


@pytest.mark.parametrize(
    ("width", "error", "flops", "verdict"),
    [(64, 8.9, 2.0, "equal"), (64, 9.2, 2.0, "worse"), (64, 8.9, 1.0, "worse"), (16, 8.9, 2.0, "not run")],
)
def test_the_vgg_like_network(width: int, error: float, flops: float, verdict: str) -> None:
    run = {"width": width, "epochs": 30}
    rows = [
        {**run, "method": "dense", "error": 8.5, "flops_ratio": 1.0},
        {**run, "method": "snr", "error": error, "flops_ratio": flops},
    ]
    found = claims({"vgg": rows})
    (claim,) = (one for one in found if "full width, snr" in one.claim)
    assert claim.verdict.split(":")[0] == verdict
    assert claim.ours == ("" if width == 16 else f"{error:.2f}, {flops:.2f} (8.50)")


def test_both_and_mantissas() -> None:
    run = {"network": "lenet5_caffe", "accuracy": 90.0, "seed": 0}
    rows = [
        {**run, "method": method, "nonzero": left, "parameters": [100, 100]}
        for method, left in (("structures", 50), ("weights", 40), ("both", 20))
    ]
    ours = "structures 50.00 (90.00), weights 60.00 (90.00), both 80.00 (90.00)"
    assert said({"both": rows}, "structures first") == (ours, 1, "better")
    points = [
        {"bits": bits, "accuracy": 90.0, "cut": 90.0 - loss} for bits, loss in ((1, 40.0), (4, 0.4), (8, 0.0))
    ]
    assert said({"precision": [{"seed": 0, "points": points}]}, "BMRS_U-p") == (
        "0.20, at most 0.40",
        1,
        "equal",
    )


def test_the_page_of_the_results_that_are_there_is_up_to_date(tmp_path: Path) -> None:
    results = Path(__file__).parents[2] / "docs" / "results"
    for file in results.glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    index(tmp_path, quiet=True)
    made, there = ((folder / "index.md").read_text().partition("<!--")[0] for folder in (tmp_path, results))
    assert made == there, "make it anew: bmrs reproduce index --results docs/results"
    with pytest.raises(ValueError, match="which is not a folder"):
        index(tmp_path / "none")
