"""Rounding and budgets against brute force on small networks of one and two families."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from bmrs_pyro.reduction import JointLoss, KeepMask, rounded, within_budget
from bmrs_pyro.reduction.joint_loss import RIDGE


@dataclass(frozen=True)
class Additive:
    """Every structure of a family costs the same."""

    prices: Mapping[str, float]

    def __call__(self, counts: Mapping[str, int]) -> float:
        return sum(price * counts[name] for name, price in self.prices.items())

    def marginal(self, counts: Mapping[str, int]) -> Mapping[str, float]:
        return self.prices


def scores_of(**families: list[float]) -> dict[str, Tensor]:
    return {name: torch.tensor(values, dtype=torch.float64) for name, values in families.items()}


def all_kept(scores: Mapping[str, Tensor]) -> KeepMask:
    return KeepMask({name: torch.ones(len(values), dtype=torch.bool) for name, values in scores.items()})


def test_rounding_brings_back_the_structures_with_most_evidence() -> None:
    scores = scores_of(a=[-5, 3, 1, -1, 2, 0.5, 4, 9, 7, 8])
    keep = rounded(KeepMask.from_scores(scores), scores, {"a": 4})
    assert keep["a"].nonzero().flatten().tolist() == [0, 2, 3, 5]


@pytest.mark.parametrize(
    ("kept", "multiple", "expected"), [(8, 8, 8), (9, 8, 16), (1, 8, 8), (17, 8, 20), (7, 1, 7)]
)
def test_rounded_size(kept: int, multiple: int, expected: int) -> None:
    scores = {"a": torch.arange(20.0) - kept + 0.5}
    assert int(rounded(KeepMask.from_scores(scores), scores, {"a": multiple})["a"].sum()) == expected


def test_rounding_keeps_what_min_keep_kept_against_the_scores() -> None:
    scores = scores_of(a=[4.0, 2.0, 3.0, 5.0])
    keep = rounded(KeepMask({"a": torch.tensor([True, False, False, False])}), scores, {"a": 2})
    assert keep["a"].tolist() == [True, True, False, False]


def test_additive_budget_drops_least_evidence_per_cost_first() -> None:
    scores = scores_of(cheap=[-4.0, -1.0, -3.0], dear=[-10.0, -6.0, -8.0])
    cost = Additive({"cheap": 1.0, "dear": 3.0})
    # evidence per cost: cheap 4 1 3, dear 3.33 2 2.67
    order = [("cheap", 1), ("dear", 1), ("dear", 2), ("cheap", 2)]
    for dropped in range(len(order) + 1):
        gone = order[:dropped]
        budget = 12.0 - sum(cost.prices[name] for name, _ in gone)
        keep = within_budget(all_kept(scores), scores, cost, budget)
        assert {
            (name, i) for name, mask in keep.items() for i in (~mask).nonzero().flatten().tolist()
        } == set(gone)


def test_evidence_kept_is_within_one_structure_of_the_best_choice() -> None:
    random = torch.Generator().manual_seed(0)
    cost = Additive({"a": 2.0, "b": 3.0})
    for _ in range(20):
        scores = {name: -torch.rand(5, generator=random, dtype=torch.float64) * 10 for name in ("a", "b")}
        keep = within_budget(all_kept(scores), scores, cost, 13.0)
        counts = {name: int(mask.sum()) for name, mask in keep.items()}
        assert cost(counts) <= 13.0
        evidence = -sum(float(scores[name][mask].sum()) for name, mask in keep.items())
        best = max(
            -sum(
                float(scores[name].sort().values[:count].sum())
                for name, count in zip("ab", pair, strict=True)
            )
            for pair in itertools.product(range(1, 6), repeat=2)
            if cost(dict(zip("ab", pair, strict=True))) <= 13.0
        )
        assert evidence >= best - 10.0


def test_what_still_fits_after_a_large_structure_left_comes_back() -> None:
    scores = scores_of(small=[-1.0, -3.0, -2.0, -9.0], large=[-25.0, -99.0])
    cost = Additive({"small": 1.0, "large": 10.0})  # evidence per cost: small 1 3 2 9, large 2.5
    keep = within_budget(all_kept(scores), scores, cost, 13.0)
    assert keep["large"].tolist() == [False, True]
    assert keep["small"].tolist() == [False, True, True, True]  # the two weakest had left first
    keep = within_budget(all_kept(scores), scores, cost, 12.5, multiples={"small": 2})
    assert keep["small"].tolist() == [False, True, False, True]


def test_what_has_evidence_against_it_does_not_come_back() -> None:
    scores = scores_of(small=[1.0, -3.0, 0.5, -9.0], large=[-25.0, -99.0])
    keep = within_budget(all_kept(scores), scores, Additive({"small": 1.0, "large": 10.0}), 20.0)
    assert keep["small"].tolist() == [False, True, False, True]
    assert keep["large"].tolist() == [False, True]


def test_no_removed_structure_would_still_fit() -> None:
    random = torch.Generator().manual_seed(1)
    cost = Additive({"a": 1.0, "b": 2.5, "c": 7.0})
    for budget in (11.0, 20.0, 31.0, 47.3):
        scores = {name: -torch.rand(6, generator=random, dtype=torch.float64) for name in "abc"}
        keep = within_budget(all_kept(scores), scores, cost, budget)
        room = budget - cost({name: int(mask.sum()) for name, mask in keep.items()})
        assert room >= 0
        assert all(mask.all() or cost.prices[name] > room for name, mask in keep.items())


def test_budget_removes_whole_multiples_and_respects_what_is_gone() -> None:
    scores = scores_of(a=[float(-i) for i in range(11, 0, -1)])
    start = KeepMask({"a": torch.arange(11) < 10})
    keep = within_budget(start, scores, Additive({"a": 1.0}), 9.0, multiples={"a": 4})
    assert keep["a"].tolist() == [True] * 8 + [False] * 3
    keep = within_budget(start, scores, Additive({"a": 1.0}), 7.0, multiples={"a": 4})
    assert int(keep["a"].sum()) == 4


def test_budget_that_is_met_changes_nothing() -> None:
    scores = scores_of(a=[-1.0, 2.0])
    keep = KeepMask.from_scores(scores)
    assert within_budget(keep, scores, Additive({"a": 1.0}), 1.0) == keep


def test_wrong_input_is_named() -> None:
    scores = scores_of(a=[-1.0, -2.0, -3.0])
    with pytest.raises(
        ValueError, match="budget of 1 cannot be met: with 2 kept in every family the cost is 2"
    ):
        within_budget(all_kept(scores), scores, Additive({"a": 1.0}), 1.0, min_keep=2)
    with pytest.raises(ValueError, match="cannot be a multiple of 0"):
        rounded(all_kept(scores), scores, {"a": 0})


@pytest.mark.parametrize("score", [5.0, 1e-9, 0.0, -1e-9, -5.0])
def test_one_dear_structure_is_enough_whatever_the_sign_of_the_scores(score: float) -> None:
    scores = scores_of(cheap=[score] * 10, dear=[score] * 10)
    keep = within_budget(all_kept(scores), scores, Additive({"cheap": 1.0, "dear": 100.0}), 950.0)
    assert (int(keep["cheap"].sum()), int(keep["dear"].sum())) == (10, 9)


def test_structures_with_evidence_against_them_go_first_the_dear_ones_before_the_cheap() -> None:
    scores = scores_of(cheap=[2.0, 0.5, -0.1, -9.0], dear=[1.0, 0.1, -0.2, -9.0])
    cost = Additive({"cheap": 1.0, "dear": 3.0})
    # cheap −2, −½, 0.1; dear −3, −0.3, 0.067
    order = [("dear", 0), ("cheap", 0), ("cheap", 1), ("dear", 1), ("dear", 2), ("cheap", 2)]
    for dropped in range(len(order) + 1):
        budget = 16.0 - sum(cost.prices[name] for name, _ in order[:dropped])
        keep = within_budget(all_kept(scores), scores, cost, budget)
        gone = {(name, i) for name, mask in keep.items() for i in (~mask).nonzero().flatten().tolist()}
        assert gone == set(order[:dropped])


@pytest.mark.parametrize("count", [50, 5])  # more examples than gains, and fewer
@pytest.mark.parametrize("fixed", [(), ("a",), ("a", "b")])
def test_a_joint_loss_is_that_of_ridge_regression(count: int, fixed: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    sizes = {"a": 3, "b": 4}
    gradients = torch.randn(count, 7)
    gradients[:, 1] = gradients[:, 0]
    gradients[:, 6] = 0  # the outputs do not depend on it
    loss = JointLoss(tuple(sizes), gradients, 2.0, fixed)
    adaptable = {c for c in range(7) if ("a" if c < 3 else "b") not in fixed}

    def of(gone: set[int]) -> tuple[float, dict[int, float]]:
        g = gradients.double().numpy()
        b, left = g[:, sorted(gone)].sum(1), sorted(adaptable - gone)
        ridge = np.sqrt(RIDGE * (g[:, left] ** 2).sum(0))
        a = np.concatenate([g[:, left], np.diag(ridge)])
        target = np.concatenate([b, np.zeros(len(left))])
        change = np.linalg.lstsq(a, target, rcond=None)[0] if left else np.zeros(0)
        return float(((target - a @ change) ** 2).sum()), dict(zip(left, change, strict=True))  # 2 × ½

    def masks(gone: set[int]) -> dict[str, torch.Tensor]:
        kept = torch.tensor([index not in gone for index in range(7)])
        return dict(zip(sizes, kept.split(list(sizes.values())), strict=True))

    # on from the one before, back, and several at once
    for gone in (set[int](), {0}, {0, 5}, {0, 5, 3}, {5}, {2, 4, 5, 6}, {1, 2, 3, 4, 5, 6}):
        growth = -torch.cat(list(loss(masks(gone)).values()))
        whole, change = of(gone)
        for index in range(7):
            expected = 0.0 if index in gone else of(gone | {index})[0] - whole
            assert float(growth[index]) == pytest.approx(expected, rel=1e-5, abs=1e-5)
        gains = torch.cat(list(loss.gains(masks(gone)).values()))
        for index in range(7):
            assert float(gains[index]) == pytest.approx(
                min(max(1 + change.get(index, 0.0), 0.5), 2.0), abs=1e-6
            )


def test_a_joint_loss_does_not_fall_for_twins() -> None:
    torch.manual_seed(0)
    gradients = torch.randn(50, 7)
    gradients[:, 1] = gradients[:, 0]  # these two do the same work, each a little of it
    gradients[:, :2] *= 0.7
    whole = {"a": torch.ones(3, dtype=torch.bool), "b": torch.ones(4, dtype=torch.bool)}
    loss, cost = JointLoss(tuple(whole), gradients, 2.0), Additive({"a": 1, "b": 1})
    keep = KeepMask(whole)
    # one by one the twins would leave first, both of them
    alone = dict(zip(whole, (-loss.alone).split([3, 4]), strict=True))
    assert within_budget(keep, alone, cost, 5)["a"].tolist() == [False, False, True]
    together = within_budget(keep, loss, cost, 5)
    assert int(together["a"][:2].sum()) == 1
    left = int(together["a"][:2].nonzero())
    assert float(loss.gains(dict(together.items()))["a"][left]) > 1.3  # it takes over the other's work
