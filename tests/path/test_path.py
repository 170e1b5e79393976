"""The path: networks of falling size from one run, refits of them, and the choice by what a network may cost."""

from __future__ import annotations

import copy
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path as FilePath
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from bmrs_pyro import NoisyNetwork, Path, Pruned, SupervisedModel, Target, complexity, fit, fit_path, prune
from bmrs_pyro.distributions import LogUniform
from bmrs_pyro.files import WriteError
from bmrs_pyro.inference import as_likelihood, inputs
from bmrs_pyro.metrics import ValueEvaluation, evaluate
from bmrs_pyro.path import (
    Pace,
    PathPoint,
    Refit,
    ScoreMissed,
    TargetMissed,
    choice,
    choose,
    limits_of,
    regularisation,
)
from bmrs_pyro.path.pace import FALL, GROWTH, Passes, has_ended, kl_weights
from bmrs_pyro.path.quantities import Times, seconds
from bmrs_pyro.path.trainee import Trainee
from bmrs_pyro.reduction import bmrs_n
from bmrs_pyro.reporting.path_view import choice_in_words
from bmrs_pyro.runs.path_record import PathRecord
from bmrs_pyro.training import Epoch, Limits, NothingLeft, SlowPosteriors, Unscored
from bmrs_pyro.training.validation import Score, validate
from tests.inference.programs import batches, blobs, mlp, program

QUICK = {"epochs": 10, "dense_epochs": 1, "progress": False}


def fitted(directory: FilePath | None = None, **options: object) -> Path:
    torch.manual_seed(0)
    model, guide = program(mlp(16), kl_weight="cost")
    settings = {**QUICK, "validation": batches(seed=1), "directory": directory, **options}
    return fit_path(model, guide, batches(), **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def path() -> Path:
    return fitted()


@pytest.fixture(scope="module")
def pruned() -> Pruned:
    torch.manual_seed(0)
    net = mlp(16)
    before = copy.deepcopy(net.state_dict())
    result = prune(net, batches(), validation=batches(seed=1), **QUICK)  # type: ignore[arg-type]
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    return result


def test_networks_get_smaller_while_the_weight_grows(path: Path) -> None:
    sizes = [point.size for point in path.points]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == len(sizes) >= 5
    assert sizes[-1] < 0.5 * path.dense.size
    weights = [point.kl_weight for point in path.points]
    assert weights == sorted(weights)
    assert path.dense.score.accuracy == pytest.approx(1.0, abs=0.01)


def test_points_say_what_their_networks_cost(path: Path) -> None:
    example = path.trainee.model.network.example_inputs[0][:1]
    for point in (path.dense, *path.points[::3]):
        cost = complexity(path.network(point), example)
        assert (point.parameters, point.macs, point.bytes) == (cost.parameters, cost.macs, cost.bytes)
        hits = torch.cat([path.network(point)(x).argmax(-1) == y for x, y in batches(seed=1)])
        assert hits.float().mean().item() == pytest.approx(point.score.accuracy)
        gone = path.dense.size - point.size
        assert point.delta_f is not None
        # every one left with ΔF > -1, the log prior odds
        assert point.delta_f >= -gone


def test_layers_keep_multiples() -> None:
    path = fitted(round_to=4, epochs=4)
    assert all(size % 4 == 0 for point in path.points for size in point.structures.values())
    assert path.points[-1].size < path.dense.size


def test_a_refit_prunes_on_and_can_be_made_again(path: Path) -> None:
    point = path.points[len(path.points) // 2]
    first, second = path.refit(point, epochs=4), path.refit(point, epochs=4)
    assert first.point == second.point
    assert first.point.parameters <= point.parameters
    assert [epoch.phase for epoch in first.history.epochs[-4:]] == ["prune"] * 2 + ["fine-tune"] * 2
    rates = [epoch.learning_rate for epoch in first.history.epochs[-4:]]
    assert rates == pytest.approx([1.5e-3, 1.5e-3, 1e-3, 0.5e-3])
    x = batches(seed=2)[0][0]
    for one, other in zip(first.guide.posteriors().values(), second.guide.posteriors().values(), strict=True):
        assert torch.equal(one.mean, other.mean)
    small = first.history.network
    torch.testing.assert_close(small(x), second.history.network(x))
    with pytest.raises(ValueError, match="not on this path"):
        path.refit(replace(point, epoch=99))
    with pytest.raises(ValueError, match="at least 2 epochs"):
        path.refit(point, epochs=1)


def test_an_interrupted_path_is_taken_up_and_a_finished_one_read(path: Path, tmp_path: FilePath) -> None:
    def stop(record: Epoch) -> None:
        if record.phase == "prune" and record.epoch == 6:  # of the path: the one before it has 1
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fitted(tmp_path, callbacks=[stop])
    resumed = fitted(tmp_path)
    assert [(p.epoch, p.structures) for p in resumed.points] == [(p.epoch, p.structures) for p in path.points]
    assert resumed.points[-1].score.log_likelihood == pytest.approx(path.points[-1].score.log_likelihood)

    def train(record: Epoch) -> None:
        raise AssertionError("a finished path is trained no more")

    again = fitted(tmp_path, callbacks=[train])
    assert again.points == resumed.points
    assert again.dense == resumed.dense


def test_prune_returns_a_small_plain_network(pruned: Pruned) -> None:
    result = pruned
    assert result.met
    assert result.point.parameters < 0.5 * result.path.dense.parameters
    assert not result.network.training
    assert isinstance(result.network, nn.Sequential)
    assert not any(module._forward_pre_hooks for module in result.network.modules())
    hits = [(result.network(x).argmax(-1) == y).float().mean() for x, y in batches(seed=1)]
    assert torch.stack(hits).mean().item() == pytest.approx(result.point.score.accuracy)
    assert {name: len(q.mean) for name, q in result.posteriors.items()} == result.point.structures


def test_budgets_hold_and_what_cannot_be_met_says_what_can(pruned: Pruned) -> None:
    path = pruned.path
    for target, cost, limit in (
        (Target(max_macs="30%"), "macs", 0.3 * path.dense.macs),
        (Target(max_macs=200), "macs", 200),
        (Target(max_params="25%"), "parameters", 0.25 * path.dense.parameters),
        (Target(max_bytes=600), "bytes", 600),
    ):
        assert target.fitting(path) == [point for point in path.points if getattr(point, cost) <= limit]
    assert Target(max_latency="10s").fitting(path) == list(path.points)
    chosen = pruned.choose(max_macs="30%")
    assert chosen.met
    assert chosen.point.macs <= 0.3 * path.dense.macs
    with pytest.raises(
        TargetMissed, match=r"a budget of 1 parameters cannot be met, .* \('1%' would be a share\); allow"
    ):
        pruned.choose(max_params=1)
    with pytest.raises(TargetMissed, match="ms for a batch"):
        pruned.choose(max_latency="1us", batch_size=4)


def test_bytes_that_the_cut_does_not_reach_are_told(pruned: Pruned, monkeypatch: pytest.MonkeyPatch) -> None:
    least = pruned.path.points[-1]
    refit = replace(pruned.path.refit(least, epochs=2), point=replace(least, bytes=480))
    monkeypatch.setattr(Path, "refit", lambda *_, **__: refit)
    with pytest.warns(ScoreMissed, match="has 480 bytes and should have at most 400"):
        found = pruned.choose(max_bytes=400)
    assert not found.met


def test_a_folder_is_for_one_path(tmp_path: FilePath) -> None:
    fitted(tmp_path, epochs=2)
    assert fitted(tmp_path, epochs=2).points
    for options, match in (
        ({"seed": 7}, "holds a path with seed 0, not 7; give another directory"),
        ({"lr": 0.1}, "holds a path with lr 0.0015, not 0.1"),
        ({"criterion": "snr"}, "holds a path with criterion 'bmrs-n', not 'snr'"),
        ({"validation": batches(seed=2)}, "holds a path with a mean of validation examples of"),
    ):
        with pytest.raises(ValueError, match=match):
            fitted(tmp_path, **{"epochs": 2, **options})


@pytest.mark.filterwarnings(
    "ignore:the scores keep 0", "ignore:nothing was removed", "ignore::bmrs_pyro.path.ScoreMissed"
)
def test_a_folder_is_for_one_network_and_likelihood(tmp_path: FilePath) -> None:
    def made(kind: type[nn.Module] = nn.ReLU, factor: float = 1.0, **options: Any) -> Pruned:
        net = nn.Sequential(nn.Linear(5, 16), kind(), nn.Linear(16, 3))  # of other weights at every call
        given = {"likelihood": lambda out: dist.Categorical(logits=factor * out), **options}
        quick = {"epochs": 2, "dense_epochs": 1, "progress": False, "directory": tmp_path}
        return prune(net, batches(), validation=batches(seed=1), **{**quick, **given})

    first = made()
    assert made().point == first.point  # of the folder
    others: list[dict[str, Any]] = [
        *(
            {"kind": nn.Tanh},
            {"kind": nn.ReLU6},
            {"kind": nn.LeakyReLU},
            {"factor": 0.1},
            {"likelihood": "categorical:0.2"},
        ),
        *({"draws": "batch"}, {"bfloat16": True}),
    ]
    for other in others:
        with pytest.raises(ValueError, match="holds a path with"):
            made(**other)
    quick = {"epochs": 2, "dense_epochs": 1, "progress": False, "directory": tmp_path}
    net = nn.Sequential(nn.Flatten(), nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 3))
    message = "another network: 'theta.0' is among its structures, but not among this network's"
    with pytest.raises(ValueError, match=message):
        prune(net, batches(), validation=batches(seed=1), **quick)  # type: ignore[arg-type]


def test_options_without_effect_are_refused() -> None:
    with pytest.raises(ValueError, match="kl_weight, schedule have no effect on a path"):
        prune(mlp(8), batches(), validation=batches(), kl_weight=0.3, schedule="constant")


def test_a_budget_below_the_smallest_point_is_met_by_its_refit(pruned: Pruned) -> None:
    points = tuple(point for point in pruned.path.points if point.parameters > 60)
    pruned = replace(pruned, path=replace(pruned.path, points=points))
    least = points[-1]
    budget = least.parameters - 15
    result = pruned.choose(max_params=budget)
    assert result.choice.refit.start == least
    assert result.point.parameters <= budget
    assert complexity(result.network, torch.zeros(1, 5)).parameters == result.point.parameters
    assert result.met
    with pytest.raises(TargetMissed, match="no network of the path is fast enough"):
        pruned.choose(max_params=budget, max_latency=1e-9)


def test_a_budget_that_no_network_meets_is_refused_before_training() -> None:
    with pytest.raises(TargetMissed, match="max_params is 3: a budget of 3 parameters cannot be met"):
        prune(mlp(16), batches(), validation=batches(), max_params=3, epochs=10**6)


def test_a_budget_takes_the_largest_network_of_the_best_or_cuts_a_larger_one(
    pruned: Pruned, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = Score(0.9, -1.0, None, 0.01, 0.1)
    sizes = (200, 190, 120, 80, 70, 50)
    points = tuple(replace(pruned.path.points[0], parameters=n, score=error) for n in sizes)
    path = replace(pruned.path, points=points)
    refit = pruned.path.refit(pruned.path.points[-1], epochs=2)
    tried: list[tuple[int, int | None]] = []
    accuracies = {80: 0.9, 120: 0.905, 190: 0.91, 200: 0.89}

    def pretended(self: Path, point: PathPoint, limits: Limits = Limits()) -> Refit:  # noqa: B008
        tried.append((point.parameters, limits.max_parameters))
        size = min(point.parameters, limits.max_parameters or 10**9)
        score = Score(accuracies[point.parameters], -1.0, None, 0.01, 0.1)
        return replace(refit, start=point, point=replace(point, parameters=size, score=score))

    monkeypatch.setattr(Path, "refit", pretended)
    monkeypatch.setattr(choice, "smoothed", lambda points, target: [0.93, 0.93, 0.93, 0.895, 0.89, 0.9])
    found = choice.choose(path, Target(max_params=95))
    # 80 is within one standard error of 50's, among those within the budget; 120 is the smallest above it, 190 the
    # smallest of twice the budget
    assert tried == [(80, None), (120, 95), (190, 95)]
    assert (found.refit.start.parameters, found.refit.point.parameters, found.met) == (190, 95, True)
    assert choice.choose(path, Target(max_params=99)).refit.start.parameters == 120  # 200 scores less
    assert tried[3:] == [(80, None), (120, 99), (200, 99)]
    accuracies |= {120: 0.89, 200: math.nan}
    assert choice.choose(path, Target(max_params=99)).refit.start.parameters == 80


def test_a_path_is_not_lost_with_its_target() -> None:
    with pytest.raises(TargetMissed, match="no network of the path is fast enough") as raised:
        prune(mlp(8), batches(), validation=batches(), max_latency="0.001us", **{**QUICK, "epochs": 2})  # type: ignore[arg-type]
    assert raised.value.path is not None
    assert choice.choose(raised.value.path, Target(max_macs="90%")).met


def test_a_score_that_a_refit_misses_takes_a_larger_network(
    pruned: Pruned, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, tried = pruned.path, []
    refit = pruned.path.refit(path.points[-1], epochs=2)
    enough = path.points[-4].parameters

    def pretended(self: Path, point: PathPoint) -> Refit:
        tried.append(point.parameters)
        value = 0.0 if point.parameters >= enough else -9.0
        same = replace(point, score=Score(None, value, None, None, 0.01))
        return replace(refit, start=same, point=same)

    monkeypatch.setattr(Path, "refit", pretended)
    target = {"score": "log_likelihood", "max_loss": 8.0}
    chosen = pruned.choose(**target)
    assert chosen.met
    assert chosen.point.parameters >= enough
    assert len(chosen.notes) == len(tried) - 1 >= 1
    assert all(more >= 1.25 * less for less, more in pairwise(tried))
    enough = 10**9
    with pytest.warns(ScoreMissed, match="parameters scores -9 and should reach .*, the best of"):
        missed = pruned.choose(**target)
    assert not missed.met


def test_a_refit_that_overfits_is_followed_by_smaller_ones(
    pruned: Pruned, monkeypatch: pytest.MonkeyPatch
) -> None:
    points, refit = pruned.path.points, pruned.path.refit(pruned.path.points[-1], epochs=2)
    on_path, refitted = {100: -1.0, 80: -1.1, 40: -1.3, 20: -1.8}, {100: -3.0, 80: -3.0, 40: -1.1, 20: -1.8}

    def scored(parameters: int, score: float) -> PathPoint:
        return replace(points[0], parameters=parameters, score=Score(None, score, None, None, 0.15))

    smaller = tuple(scored(parameters, score) for parameters, score in on_path.items())
    path = replace(pruned.path, dense=scored(100, -1.0), points=smaller)
    tried = []

    def pretended(self: Path, point: PathPoint) -> Refit:
        tried.append(point.parameters)
        return replace(refit, start=point, point=scored(point.parameters, refitted[point.parameters]))

    monkeypatch.setattr(Path, "refit", pretended)
    found = choice.choose(path, Target(score="log_likelihood"))
    assert (found.refit.start.parameters, found.met, tried) == (40, True, [80, 40])
    # 80 misses, 120 overfits, and there is none in between
    on_path = {300: -1.0, 120: -1.0, 80: -1.9, 40: -5.0}
    refitted = {300: -1.0, 120: -3.0, 80: -1.9}
    smaller = tuple(scored(parameters, score) for parameters, score in on_path.items())
    path = replace(pruned.path, dense=scored(400, -1.0), points=smaller)
    monkeypatch.setattr(Target, "least_scores", lambda self, path: (-2.0, -1.2))
    tried.clear()
    found = choice.choose(path, Target(score="log_likelihood"))
    assert (found.refit.start.parameters, found.met, tried) == (300, True, [80, 120, 300])


def test_without_a_maximum_smaller_points_are_tried_while_they_lose_nothing(
    pruned: Pruned, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = pruned.path.points
    dense = replace(pruned.path.dense, score=Score(None, -0.92, None, None, 0.1))
    smaller = tuple(replace(points[0], parameters=n) for n in (100, 80, 70, 50, 30))
    path = replace(pruned.path, dense=dense, points=smaller)
    scores = {100: -1.0, 80: -0.9, 50: -0.95, 30: -1.05}  # with a standard error of 0.1
    refit, tried = pruned.path.refit(points[-1], epochs=2), []

    def pretended(self: Path, point: PathPoint, limits: object = None) -> Refit:
        tried.append(point.parameters)
        score = Score(None, scores[point.parameters], None, None, 0.1)
        return replace(refit, start=point, point=replace(point, score=score))

    monkeypatch.setattr(Path, "refit", pretended)
    monkeypatch.setattr(Target, "least_scores", lambda self, path: (-math.inf, -math.inf))
    monkeypatch.setattr(choice, "smoothed", lambda points, target: [-1.2, -1.1, -1.2, -1.2, -1.2])
    # 30 scores more than one standard error less than 80 does
    assert choice.choose(path, Target(score="log_likelihood")).refit.start.parameters == 50
    assert tried == [80, 50, 30]
    tried.clear()
    assert choice.choose(path, Target(score="log_likelihood", max_params=80)).refit.start.parameters == 80
    assert tried == [80, 100]  # no smaller ones; 100 scores less


def test_the_default_loses_no_accuracy_for_a_better_log_likelihood(
    pruned: Pruned, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The unpruned network is overconfident, so smaller ones have a better log-likelihood."""
    points = pruned.path.points
    dense = replace(pruned.path.dense, score=Score(0.90, -2.0, None, 0.01, 0.1))
    path = replace(
        pruned.path, dense=dense, points=tuple(replace(points[0], parameters=n) for n in (100, 70, 50))
    )
    accuracies, refit = {100: 0.91, 70: 0.895, 50: 0.87}, pruned.path.refit(points[-1], epochs=2)

    def pretended(self: Path, point: PathPoint) -> Refit:
        # smaller ones have a better log-likelihood
        score = Score(accuracies[point.parameters], -1.0 - point.parameters / 1000, None, 0.01, 0.1)
        same = replace(point, score=score)
        return replace(refit, start=same, point=same)

    monkeypatch.setattr(Path, "refit", pretended)
    monkeypatch.setattr(choice, "smoothed", lambda points, target: [-1.0] * 3)
    monkeypatch.setattr(Target, "least_scores", lambda self, path: (-1.1, -1.2))
    found = choice.choose(path, Target())
    assert (found.refit.start.parameters, found.met) == (70, True)
    assert found.notes == ("a network of 50 parameters has an accuracy of 87.00% and should reach 88.59%",)
    assert choice.choose(path, Target(score="log_likelihood")).refit.start.parameters == 50
    # if none is accurate enough, the most accurate one is taken
    accuracies |= {100: 0.88, 70: 0.86, 50: 0.87}
    with pytest.warns(ScoreMissed, match="an accuracy of 88.00% and should reach 88.59%, the best of 3"):
        assert choice.choose(path, Target()).refit.start.parameters == 100


def test_the_default_is_the_smallest_within_one_standard_error() -> None:
    def point(epoch: int, accuracy: float) -> PathPoint:
        score = Score(accuracy, -1.0 + accuracy, None, 0.01, 0.02)
        return PathPoint(epoch, 0.1, {"a": 10 - epoch}, 100 - epoch, 100, 400, 0.0, score)

    points = tuple(point(epoch, value) for epoch, value in enumerate((0.90, 0.95, 0.95, 0.944, 0.92, 0.92)))
    path = Path(point(0, 0.99), points, None, None, None)  # type: ignore[arg-type]
    # a refit is to come within one standard error of the unpruned network
    assert Target(score="accuracy").least_scores(path) == pytest.approx((0.94, 0.98))
    # by default the log-likelihood counts, because the accuracy of few examples is coarse
    # it may fall further if the accuracy holds
    assert Target().least_scores(path) == pytest.approx((-0.07, -0.07))
    assert Target().least_accuracy(path.dense) == pytest.approx(0.99 - 0.01 * math.sqrt(2))
    # without an accuracy, it is compared with the unpruned network's too
    values = [
        replace(point, score=point.score._replace(accuracy=None)) for point in (path.dense, *path.points)
    ]
    regression = replace(path, dense=values[0], points=tuple(values[1:]))
    assert Target().least_scores(regression) == pytest.approx((-0.07, -0.03))
    # max_loss is in points of accuracy; a refit may lose that less a standard error, against the unpruned network
    assert Target(max_loss=3).least_scores(path) == pytest.approx((0.92, 0.97))
    assert Target(max_loss=0.5).least_scores(path) == pytest.approx(
        (0.945, 0.99)
    )  # too few data to see half a point
    assert Target(score="log_likelihood", max_loss=1).least_scores(path) == pytest.approx((-1.05, -0.99))
    assert Target(max_macs=50).least_scores(path) == (-math.inf, -math.inf)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"max_macs": "half"}, "max_macs is 'half'; give a number, or a share"),
        ({"max_params": 0}, "max_params is 0; give a number"),
        ({"max_macs": 0.2}, "max_macs is 0.2, less than 1; a share has a percent sign: '20%'"),
        ({"max_latency": "2 hours"}, "max_latency is '2 hours'; give seconds"),
        ({"max_loss": -1.0}, "max_loss is -1.0; it must be at least 0"),
        ({"max_loss": "0.5"}, "max_loss is '0.5', a text; it must be a number"),
        ({"max_loss": True}, "max_loss is True; it must be at least 0, and a finite number"),
        ({"max_loss": [1]}, r"max_loss is \[1\]; it must be at least 0"),
        ({"max_macs": [1]}, r"max_macs is \[1\]; give a number, or a share"),
        ({"max_macs": "150%"}, "max_macs is '150%', more than the whole unpruned network"),
        ({"max_latency": "101%"}, "max_latency is '101%', more than the whole unpruned network"),
        ({"max_latency": "0ms"}, "max_latency is '0ms'; give seconds"),
        ({"max_latency": "1ns"}, r"max_latency is '1ns'; give .* \(units: s, ms, us\)"),
        ({"max_latency": "2"}, "max_latency is '2', a text without a unit; write '2ms' or '2s'"),
        ({"max_latency": "2ms", "batch_size": 2.5}, "batch_size is 2.5; it must be .* a whole number"),
        ({"max_latency": "2ms", "batch_size": None}, "batch_size is None; it must be .* a whole number"),
        ({"max_macs": "inf"}, "max_macs is 'inf'; give a number, or a share"),
        ({"max_params": True}, "max_params is True; give a number"),
        ({"batch_size": 64}, "batch_size is 64, but it belongs to max_latency"),
        ({"score": "f1"}, "score is 'f1'; use 'accuracy' or 'log_likelihood'"),
    ],
)
def test_bad_targets_are_refused(options: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Target(**options)  # type: ignore[arg-type]


def test_times_are_read() -> None:
    times = [seconds(text, dense=0.04) for text in ("2ms", "150us", "1 s", 0.5, "50%", None)]
    assert times == pytest.approx([2e-3, 150e-6, 1.0, 0.5, 0.02, None])


def test_that_nothing_left_is_said_of_the_path_and_not_of_its_refits() -> None:
    with pytest.warns(NothingLeft, match="because min_keep is 16 and no layer has more than 16 structures"):
        path = fitted(epochs=2, min_keep=16)
    with warnings.catch_warnings(action="error", category=NothingLeft):
        assert path.refit(path.points[0], epochs=2).point.parameters == path.dense.parameters


def test_a_latency_may_be_a_share_of_the_unpruned_networks(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Path, "latencies", lambda self, nets, batch_size: [1e-3 * size_of(net) for net in nets]
    )
    half = 0.5 * path.dense.parameters
    fast = [point for point in path.points if point.parameters <= half]
    assert 0 < len(fast) < len(path.points)
    assert Target(max_latency="50%").fitting(path) == fast
    with pytest.raises(TargetMissed, match=r"takes .* ms for a batch, \d+% of the unpruned network's time"):
        Target(max_latency="0.1%").fitting(path)


def size_of(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


@pytest.mark.parametrize(("small", "met"), [(0.5, True), (0.9, False)])
def test_a_network_that_is_too_slow_after_its_refit_misses_its_target(
    path: Path, small: float, met: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Target, "is_fast", lambda *_: True)
    monkeypatch.setattr(Path, "latencies", lambda *_: [1.0, small])
    target = Target(max_latency="60%")
    if met:
        chosen = choose(path, target)
    else:
        with pytest.warns(
            ScoreMissed, match="takes 900 ms for a batch, 90% of the unpruned network's time, after"
        ):
            chosen = choose(path, target)
        assert "90% of the unpruned network's time" in chosen.notes[-1]
    assert chosen.met == met
    record = PathRecord.of(path, chosen)
    assert record.times == Times(1.0, small)
    assert PathRecord.from_json(record.to_json()) == record
    assert f"takes {1000 * small:g} ms for a batch" in " ".join(choice_in_words(record))


@pytest.mark.parametrize("budget", ["max_macs", "max_params", "max_bytes"])
def test_a_budget_that_cannot_be_met_says_what_can_in_its_own_units(budget: str) -> None:
    network = NoisyNetwork(mlp(16), torch.zeros(1, 5))
    for asked, place in ((1, 0), ("0.1%", 1)):
        with pytest.raises(ValueError, match=f"{budget} is {asked!r}: a budget of") as raised:
            limits_of(Target(**{budget: asked}), network).refuse_impossible(network)  # type: ignore[arg-type]
        number, share = re.search(r"allow ([\d,]+)(?: or '([\d.]+%)')?$", str(raised.value)).groups()
        least = (int(number.replace(",", "")), share)[place]
        limits_of(Target(**{budget: least}), network).refuse_impossible(network)  # type: ignore[arg-type]
        less = least - 1 if place == 0 else f"{float(share[:-1]) - 0.5}%"
        with pytest.raises(ValueError, match="cannot be met"):
            limits_of(Target(**{budget: less}), network).refuse_impossible(network)  # type: ignore[arg-type]


def test_labels_that_are_no_classes_need_a_likelihood() -> None:
    data = [(x, x[:, 0]) for x, _ in batches()]
    with pytest.raises(ValueError, match="give their likelihood, such as likelihood='normal'"):
        prune(mlp(), data, validation=data)


@pytest.mark.filterwarnings("ignore:validation holds 8 examples", "ignore:all validation labels")
@pytest.mark.parametrize(
    ("data", "match"),
    [
        ([(torch.zeros(8, 2), torch.full((8,), 9))], "labels from 0 to .* those of a batch go from 9 to 9"),
        (torch.zeros(8, 3), r"a batch is a Tensor .*; expected \(x, y\)"),
        ([], "validation gives no batches"),
        (iter(batches()), "train is a list_iterator, which can be read only once; give a loader"),
    ],
    ids=["labels", "no pairs", "nothing", "once"],
)
def test_data_that_cannot_be_trained_on_are_refused_in_one_line(data: object, match: str) -> None:
    net = nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 3))
    with pytest.raises(ValueError, match=match) as refused:
        prune(net, data, validation=data)  # type: ignore[arg-type]
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"lr": 0}, ValueError, "lr is 0; the weights of a path are trained"),
        ({"lr": "fast"}, TypeError, "lr is 'fast'; give a number"),
        ({"epochs": 2.5}, TypeError, "epochs is 2.5; give a whole number"),
        ({"dense_epochs": 1.5}, TypeError, "dense_epochs is 1.5; give a whole number"),
        ({"seed": "a"}, TypeError, "seed is 'a'; give a whole number"),
        ({"validation": None}, TypeError, "validation is None; give a loader"),
        ({"validation": []}, ValueError, "validation gives no batches; give a loader"),
        ({"callbacks": print}, TypeError, "callbacks is <built-in .*>; give a list of functions"),
        (
            {"device": "tpu"},
            ValueError,
            "device 'tpu' cannot be used here .torch knows no such device.; give cpu",
        ),
        ({"epoch": 3}, TypeError, r"unknown option epoch; did you mean epochs\? .* takes .*, dense_epochs"),
        ({"directory": __file__}, WriteError, "cannot be written .it is a file, where a folder is needed"),
    ],
)
def test_bad_options_are_refused_in_one_line(
    options: dict[str, object], error: type[Exception], match: str
) -> None:
    epochs: list[Epoch] = []
    settings = {**QUICK, "validation": batches(seed=1), "callbacks": [epochs.append], **options}
    with pytest.raises(error, match=match) as refused:
        prune(mlp(16), batches(), **settings)  # type: ignore[arg-type]
    assert "\n" not in str(refused.value)
    with pytest.raises(error, match=match):
        fit_path(*program(mlp(16)), batches(), **settings)  # type: ignore[arg-type]
    assert not epochs


def test_labels_that_are_no_tensors_and_a_network_that_is_no_module_are_refused() -> None:
    arrays = [(x.numpy(), y.numpy()) for x, y in batches()]
    with pytest.raises(TypeError, match="the labels of a batch are a ndarray; give a tensor"):
        prune(mlp(16), arrays, validation=arrays)
    with pytest.raises(TypeError, match=r"the network is a type; give a torch\.nn\.Module"):
        prune(nn.Linear, batches(), validation=batches())  # type: ignore[arg-type]


def test_a_score_that_the_likelihood_lacks_is_refused_before_training() -> None:
    data = [(x, x[:, :1]) for x, _ in batches()]
    epochs: list[Epoch] = []
    with pytest.raises(ValueError, match="no accuracy; choose by score='log_likelihood'"):
        prune(
            nn.Sequential(nn.Linear(data[0][0].shape[1], 6), nn.ReLU(), nn.Linear(6, 1)),
            data,
            validation=data,
            likelihood="normal",
            score="accuracy",
            callbacks=[epochs.append],
        )
    assert not epochs


def test_a_network_that_was_wrapped_before_is_pruned_as_it_is() -> None:
    net, data = mlp(16), batches()
    wrapped = NoisyNetwork(net, data[0][0][:1])
    for one in (net, wrapped):
        result = prune(one, data, validation=data, epochs=2, dense_epochs=1, progress=False)
        assert not isinstance(result.network, NoisyNetwork)
    assert next(iter(wrapped.gates)).consumer  # it still has its gates


@pytest.mark.filterwarnings("ignore:validation holds 8 examples")
def test_inputs_by_name() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(2, 6), nn.Linear(6, 3)

        def forward(self, values: Tensor, factor: float | None = None) -> Tensor:
            out: Tensor = self.last(self.first((factor or 1.0) * values).relu())
            return out

    x = torch.randn(8, 2)
    data = [({"values": x}, torch.zeros(8, dtype=torch.long))]
    for batch in (data, [({"values": x, "factor": None}, data[0][1])]):
        result = prune(
            Named(), batch, validation=batch, max_latency="1s", epochs=2, dense_epochs=1, progress=False
        )
        assert result.network(values=x).shape == (8, 3)
        assert 0 < result.path.latency(result.path.points[0], 4) < 1


@pytest.mark.filterwarnings("ignore:.*min_keep")
def test_examples_of_dicts_are_counted() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(2, 6), nn.Linear(6, 3)

        def forward(self, values: Tensor) -> Tensor:
            out: Tensor = self.last(self.first(values).relu())
            return out

    data = [
        {"values": torch.randn(count, 2), "labels": torch.zeros(count, dtype=torch.long)} for count in (8, 5)
    ]
    result = prune(Named(), data, validation=data, epochs=2, dense_epochs=0, progress=False)
    assert result.path.trainee.model.num_data == 13


def epochs_with(kls: Sequence[float], elbo: float = -2.0, scores: Sequence[float] = ()) -> list[Epoch]:
    """Return records of a model of one example, with standard errors of 0.1."""
    scores = scores or [-1.0] * len(kls)
    return [
        Epoch(n, "prune", elbo, kl, None, score, 0, {"a": 1}, 1e-3, 1.0, (1,), log_likelihood_error=0.1)
        for n, (kl, score) in enumerate(zip(kls, scores, strict=True), 1)
    ]


def test_the_weight_waits_while_the_divergence_falls() -> None:
    epochs, fall = 10, FALL ** (1 / 10)
    falling = epochs_with([100.0, 100.0 / fall, 100.0 / fall**2, 100.0 / fall**3])
    assert kl_weights(falling, 0.01, epochs, 1) == pytest.approx([0.01] * 5)
    standing = kl_weights(epochs_with([100.0] * 4), 0.01, epochs, 1)
    assert standing == pytest.approx([0.01, 0.01, 0.01 * GROWTH, 0.01 * GROWTH**2, 0.01 * GROWTH**3])
    # what an interrupted run knows of its weights is what the whole run used
    assert kl_weights(falling[:2], 0.01, epochs, 1) == kl_weights(falling, 0.01, epochs, 1)[:3]
    assert kl_weights([], 0.01, epochs, 1) == [0.01]
    # posteriors equal to the prior have a KL of 0, up to rounding
    for before, after in ((0.0, 4.4e-16), (-4.4e-16, 4.4e-16), (4.4e-16, 0.0)):
        assert kl_weights(epochs_with([before, after]), 0.01, epochs, 1) == [0.01] * 3


@pytest.mark.parametrize(
    ("elbo", "score", "grows"),
    [
        (-1.0, -1.3, True),  # training data are predicted better, validation data worse than before
        (-1.2, -1.3, False),  # by less than two standard errors
        (-1.0, -1.1, False),  # hardly worse than before
        (-2.0, -1.3, False),  # worse, as a network that is too small
    ],
)
def test_the_weight_grows_while_the_network_overfits(elbo: float, score: float, grows: bool) -> None:
    epochs, fall = 10, FALL ** (1 / 10)
    records = epochs_with([100.0, 100.0 / fall, 100.0 / fall**2], elbo, [-1.0, -1.0, score])
    wanted = [0.01, 0.01, 0.01, 0.01 * GROWTH if grows else 0.01]
    assert kl_weights(records, 0.01, epochs, 1) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("scores", "ended"),
    [
        ([-3.0, -2.0, -1.0], False),  # shorter than planned
        ([-3.0, -2.0, -1.0, -1.0], False),  # nothing is lost yet
        ([-1.0, -1.0, -1.0, *[-1.15] * 4], False),  # less than two standard errors are lost
        ([-1.0, -1.0, -1.0, -1.2, -1.0], False),  # one noisy epoch
        ([-1.0, -1.0, -1.0, -1.3, -1.3, -1.3, -1.0], False),  # two noisy epochs
        ([-1.0, -1.0, -1.0, -1.3, -1.3, -1.3, -1.3], True),
        ([-1.0] * 7, False),
        ([-1.0] * 8, True),  # twice as long as planned
    ],
)
def test_a_path_goes_on_while_nothing_is_lost(scores: list[float], ended: bool) -> None:
    records = epochs_with([1.0] * len(scores), scores=scores)
    smaller = [replace(record, structures={"a": 20 - record.epoch}) for record in records]
    assert has_ended(smaller, 4) == ended
    # nothing has left in the last epoch, a third of those planned
    assert has_ended(records, 4) == (len(scores) >= 4)


def test_a_path_stops_where_it_has_ended_and_is_then_finished(
    monkeypatch: pytest.MonkeyPatch, tmp_path: FilePath
) -> None:
    monkeypatch.setattr(regularisation, "has_ended", lambda records, epochs: len(records) >= 6)
    path = fitted(tmp_path, epochs=4)
    assert len(path.history.epochs) == 6
    assert len(fitted(tmp_path, epochs=4).history.epochs) == 6


def test_the_first_weight_grows_with_the_information() -> None:
    def start(copies: int) -> float:
        """Return the first weight of a model whose examples count several times."""
        torch.manual_seed(0)
        model = program(mlp(16), kl_weight="cost")[0]
        model.likelihood = lambda logits: dist.Categorical(
            logits=logits[:, None].expand(-1, copies, -1)
        ).to_event(1)
        loader = [(x, y[:, None].expand(-1, copies)) for x, y in batches()]
        pace = Pace.of(loader, model.prior, epochs=10)
        return Trainee(model, loader, loader, bmrs_n(), pace, {}).start()

    # the gradient of an example is that of one label times the copies
    assert start(40) == pytest.approx(4 * start(20), rel=1e-3)
    # with little information it is 0.01 nats per example
    model = program(mlp(16), kl_weight="cost")[0]
    scales = sum(model.kl_scales[family.name] * family.size for family in model.structures)
    assert start(1) * scales == pytest.approx(0.01 * model.num_data)


def test_the_first_weight_of_values_with_little_noise_is_limited() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 2))
    loader = [(x, x[:, :2]) for x, _ in batches()]

    def start(scale: float) -> float:
        network = NoisyNetwork(copy.deepcopy(net), torch.zeros(2, 5))
        model = SupervisedModel(network, as_likelihood(f"normal:{scale}"), 450, kl_weight="cost")
        pace = Pace.of(loader, model.prior, epochs=10)
        scales = sum(model.kl_scales[family.name] * family.size for family in model.structures)
        return Trainee(model, loader, loader, bmrs_n(), pace, {}).start() * scales

    # per label: there are two of each of the 450 examples
    assert start(1e-3) == start(1e-4) == pytest.approx(0.1 * 2 * 450)
    assert start(1.0) < 0.1 * 2 * 450


def test_rates_follow_from_the_steps() -> None:
    prior = LogUniform(math.exp(-20.0), 1.0)
    small, large = (Pace.of([None] * count, prior, epochs=36) for count in (18, 375))
    assert (small.passes, small.steps, large.passes, large.steps) == (6, 108, 1, 375)

    class Stream:
        """Batches without a length."""

        def __iter__(self) -> Iterator[None]:
            return iter([None] * 18)

    assert Pace.of(Stream(), prior, epochs=36) == small
    for pace in (small, large):
        assert pace.epochs * pace.steps * pace.posterior_lr == pytest.approx(200)


def test_passes_go_through_the_loader_in_new_orders() -> None:
    class Loader(list[tuple[Tensor, Tensor]]):
        seen: list[int]

        def set_epoch(self, epoch: int) -> None:
            self.seen.append(epoch)

    loader = Loader(batches()[:2])
    loader.seen = []
    several = Passes(loader, 3)
    several.set_epoch(5)
    assert len(list(several)) == 6
    assert loader.seen == [15, 16, 17]


def test_standard_errors_are_those_of_the_mean_over_examples() -> None:
    model, _ = program()
    data = batches(seed=3)
    score = validate(model, {}, data)
    model.network.eval()
    with torch.no_grad():
        values = torch.cat([model.likelihood(model.network(x)).log_prob(y) for x, y in data]).double()
    expected = values.std(correction=1) / math.sqrt(len(values))
    assert score.log_likelihood_error == pytest.approx(expected.item(), rel=1e-6)
    assert score.accuracy is not None
    p = (score.accuracy * len(values) + 2) / (len(values) + 4)
    assert score.accuracy_error == pytest.approx(math.sqrt(p * (1 - p) / (len(values) + 3)), rel=1e-9)
    assert score.rmse_error is None


def test_the_standard_error_of_the_rmse_is_its_spread_over_data_sets() -> None:
    net = nn.Sequential(nn.Linear(1, 2), nn.Tanh(), nn.Linear(2, 1))
    model = SupervisedModel(NoisyNetwork(net, torch.zeros(1, 1)), as_likelihood("normal"), 50)
    x = torch.zeros(50, 1)
    generator = torch.Generator().manual_seed(0)
    scores = [validate(model, {}, [(x, torch.randn(50, generator=generator))]) for _ in range(400)]
    spread = torch.tensor([score.rmse for score in scores]).std().item()
    told = torch.tensor([score.rmse_error for score in scores]).mean().item()
    assert told == pytest.approx(spread, rel=0.12)  # four standard errors of a spread of 400


def test_runs_that_cannot_prune_are_warned_of() -> None:
    model, guide = program(kl_weight=("mean", 0.3))
    with pytest.warns(SlowPosteriors, match="move a posterior by at most 0.3, .* 20 wide"):
        fit(
            model,
            guide,
            batches(),
            epochs=2,
            fine_tune_epochs=0,
            lr=1e-3,
            posterior_lr_factor=10,
            progress=False,
        )
    model, guide = program(kl_weight=("mean", 1e-6))
    with pytest.warns(NothingLeft, match="nothing was removed in 2 epochs"):
        fit(model, guide, batches(), epochs=2, fine_tune_epochs=0, progress=False)


def test_a_learned_scale_is_handed_back() -> None:
    torch.manual_seed(0)
    x = torch.randn(256, 4)
    y = x[:, 0] - x[:, 1] + 0.2 * torch.randn(256)
    loader = [(x[first : first + 32], y[first : first + 32]) for first in range(0, 256, 32)]
    net = nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 1))
    found = prune(
        net, loader, validation=loader, likelihood="normal", epochs=4, dense_epochs=2, max_params="100%",
        progress=False,
    )  # fmt: skip
    assert isinstance(found.likelihood, nn.Module)
    (log_scale,) = found.likelihood.parameters()
    assert log_scale.item() < -0.2  # it starts at 0, and the noise is at -1.6
    assert isinstance(evaluate(found.network, loader, likelihood=found.likelihood), ValueEvaluation)


class Loader:
    """Batches without a length, for a number of passes."""

    def __init__(self, passes: float = math.inf, endless: bool = False) -> None:
        self.passes, self.endless = passes, endless

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.passes -= 1
        yield from batches() if self.passes >= 0 else []
        while self.endless:
            yield batches()[0]


def test_loaders_that_run_dry_or_never_end_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "MOST_BATCHES", 50)
    for passes in (0, 1, 2, 3):
        with pytest.raises(ValueError, match=r"gives no batches; .* read several times"):
            prune(mlp(8), Loader(passes), validation=batches(), **QUICK)  # type: ignore[arg-type]
    for data in ((Loader(endless=True), batches()), (batches(), Loader(endless=True))):
        with pytest.raises(ValueError, match="has no length, and gave 50 batches without an end"):
            prune(mlp(8), data[0], validation=data[1], **QUICK)  # type: ignore[arg-type]
    found = prune(mlp(8), Loader(), validation=Loader(), **{**QUICK, "epochs": 2, "max_params": "100%"})  # type: ignore[arg-type]
    assert found.path.points


def test_long_counting_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "PATIENCE", -1.0)
    count = len(batches())
    assert inputs.count_batches("train", batches()) == count
    with pytest.warns(UserWarning, match="train has no length, so its batches are counted, 1 so far") as told:
        assert inputs.count_batches("train", Loader()) == count
    assert len(told) == 1


def test_tensors_in_place_of_a_loader_are_told_from_one() -> None:
    with pytest.raises(ValueError, match=r"one tensor; give DataLoader\(TensorDataset\(x, y\)"):
        prune(mlp(8), blobs(), validation=batches())


class TwoHeads(nn.Module):
    """A classifier whose second head the default likelihood does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, 12), nn.ReLU())
        self.logits, self.value = (
            nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, n)) for n in (3, 1)
        )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = self.body(x)
        return {"logits": self.logits(h), "value": self.value(h)}


@pytest.mark.filterwarnings("ignore:theta")
@pytest.mark.parametrize("trained", [False, True])
def test_heads_that_the_likelihood_does_not_use_are_told_of(trained: bool) -> None:
    quick: dict[str, Any] = {
        "epochs": 2,
        "progress": False,
        "max_params": "90%",
        **({} if trained else {"dense_epochs": 1}),
    }
    with pytest.warns(Unscored, match=r"all outputs of the network: theta\.value\.0 serve only the others"):
        prune(TwoHeads(), batches(), validation=batches(seed=1), trained=trained, **quick)

    def joint(out: dict[str, Tensor]) -> dist.TorchDistribution:
        return dist.Categorical(logits=out["logits"] + torch.cat([out["value"]] * 2 + [0 * out["value"]], 1))

    prune(TwoHeads(), batches(), validation=batches(seed=1), trained=trained, likelihood=joint, **quick)


def test_a_target_of_another_kind_is_told_of(tmp_path: FilePath) -> None:
    quick: dict[str, Any] = {"epochs": 2, "dense_epochs": 1, "progress": False}
    quick |= {"directory": tmp_path, "max_params": "90%"}
    prune(mlp(8), batches(), validation=batches(seed=1), **quick)
    with pytest.warns(UserWarning, match="has the KL weight 'cost' of an earlier target"):
        prune(
            mlp(8), batches(), validation=batches(seed=1), **{**quick, "max_params": None, "max_macs": "90%"}
        )


def test_a_data_set_in_place_of_a_loader_is_told_from_one() -> None:
    data = TensorDataset(*blobs())
    numbered = [(x, int(y)) for x, y in data]
    sets: list[Any] = [data, Subset(data, range(9)), numbered]
    for given in sets:
        with pytest.raises(TypeError, match=r"wrap the data set in a loader, such as torch.*DataLoader\("):
            prune(mlp(8), given, validation=batches())
        with pytest.raises(TypeError, match="wrap the data set in a loader"):
            fit(*program(mlp(8)), given, progress=False)


@pytest.mark.parametrize("trained", [False, True])
def test_batch_norm_of_a_lone_example_says_what_to_do(trained: bool) -> None:
    net = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    x, y = blobs()
    loader = DataLoader(TensorDataset(x[:65], y[:65]), 32)
    with pytest.raises(ValueError, match=r"a batch of one example, .*: give the loader drop_last=True"):
        prune(net, loader, validation=batches(), trained=trained, epochs=2, progress=False)


def test_frozen_weights_are_named_and_their_gains_can_be_fitted() -> None:
    net = mlp(16).requires_grad_(False)
    with pytest.raises(ValueError, match=r"all weights are frozen .*: unfreeze some, or .* dense_epochs=0"):
        prune(net, batches(), validation=batches(), **QUICK)  # type: ignore[arg-type]
    options = {**QUICK, "epochs": 2, "dense_epochs": 0, "max_params": "100%"}
    assert prune(net, batches(), validation=batches(), **options).path.points  # type: ignore[arg-type]


def test_an_unknown_option_is_answered_with_the_nearest_name(pruned: Pruned) -> None:
    with pytest.raises(TypeError, match=r"unknown option max_los; did you mean max_loss\? prune\(\) takes "):
        prune(mlp(8), batches(), validation=batches(), max_los=0.5)
    with pytest.raises(TypeError, match=r"unknown option max_mac; did you mean max_macs\? choose\(\) takes "):
        pruned.choose(max_mac=3)
