"""The poster's networks cut by torch-pruning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bmrs_pyro.experiments.poster import cuts as poster_cuts
from bmrs_pyro.experiments.torch_pruning_cuts import BudgetMissed, cut, trained_on
from bmrs_pyro.inference import SmoothedLikelihood
from bmrs_pyro.network import complexity
from bmrs_pyro.training import Cycle, PlainSteps


def poster_row(seed: int, kl_weight: float, **values: Any) -> dict[str, Any]:
    cell = {"network": "mlp", "dataset": "digits", "method": "bmrs-n", "protocol": "ours"}
    return {**cell, "kl_weight": kl_weight, "seed": seed, "compression": 80.0, "accuracy": 97.0, **values}


def test_ours_are_the_runs_with_most_seeds() -> None:
    runs = [poster_row(0, 0.1), poster_row(0, 0.5), poster_row(1, 0.5), poster_row(0, 0.2)]
    others = [poster_row(0, 0.5, method="snr"), poster_row(0, 0.5, protocol="published")]
    assert poster_cuts.ours([*runs, *others]) == {("mlp", "digits"): runs[1:3]}


def test_the_page_has_a_row_for_each_cell() -> None:
    made = {"network": "mlp", "dataset": "digits", "seed": 0, "compression": 80.0, "dense_accuracy": 98.5}
    scores = dict(zip(poster_cuts.CONTENDERS, (96.0, 97.5, 95.0, 94.0, 93.0), strict=True))
    cut = [{"contender": name, "accuracy": score} for name, score in scores.items()]
    page = poster_cuts.study_of([poster_row(0, 0.1), poster_row(1, 0.1)]).page(
        poster_cuts.rows({**made, "cut": cut})
    )
    expected = "| 80.00 ± 0.00 | 98.50 | 97.00 ± 0.00 | 96.00 | **97.50** | 95.00 | 94.00 | 93.00 |"
    assert f"| mlp, digits {expected}" in page


def test_the_page_counts_the_seeds_in_which_a_contender_can_cut_so_far() -> None:
    made = {"network": "mlp", "dataset": "digits", "compression": 80.0, "dense_accuracy": 98.5}
    names = {0: ["magnitude", "taylor"], 1: ["magnitude"]}
    rows = [
        row
        for seed, found in names.items()
        for row in poster_cuts.rows(
            {**made, "seed": seed, "cut": [{"contender": name, "accuracy": 96.0} for name in found]}
        )
    ]
    page = poster_cuts.study_of([poster_row(0, 0.1)]).page(rows)
    assert "| 96.00 ± 0.00 | (0) | 96.00 (1) | (0) | (0) |" in page


def test_a_budget_that_torch_pruning_cannot_meet_is_an_error_of_its_own() -> None:
    pytest.importorskip("torch_pruning")
    net = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 3))
    with pytest.raises(BudgetMissed, match="no budget of 2 parameters"):
        cut(net, torch.zeros(1, 6), "magnitude", 2, local=False, train=[], cost="parameters")


@pytest.mark.parametrize("contender", ["magnitude", "magnitude-local", "taylor-iterative", "dense"])
def test_a_network_is_cut_to_the_budget_and_trained_all_steps(contender: str) -> None:
    pytest.importorskip("torch_pruning")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 3))
    example, batches = torch.zeros(1, 6), [(torch.randn(8, 6), torch.arange(8) % 3) for _ in range(5)]
    begun: list[PlainSteps] = []

    def begin(small: nn.Module) -> PlainSteps:
        begun.append(PlainSteps(small, SmoothedLikelihood(0.0), batches, 30, Cycle("adamw")))
        return begun[-1]

    small = trained_on(net, example, contender, 200, batches, begin, cost="parameters")
    assert small is begun[-1].net
    assert begun[-1].done == 30
    assert len(begun) == {"dense": 1, "taylor-iterative": 11}.get(contender, 2)
    left = complexity(small, example).parameters
    assert left == complexity(net, example).parameters if contender == "dense" else 100 < left <= 200


@pytest.mark.slow
def test_all_contenders_reach_the_compression(tmp_path: Path) -> None:
    pytest.importorskip("torch_pruning")
    config = {"network": "mlp", "dataset": "digits", "compression": 80.0, "seed": 0}
    result = poster_cuts.run(config, data_root=str(tmp_path))
    assert [one["contender"] for one in result["cut"]] == list(poster_cuts.CONTENDERS)
    assert all(80 <= one["reached"] < 85 for one in result["cut"])
    assert result["dense_accuracy"] > 90
