"""A trained network reduced to a budget inside one cycle."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from bmrs_pyro import NoisyNetwork, SupervisedModel, complexity, load, prune
from bmrs_pyro.data import Batches
from bmrs_pyro.data import load as load_data
from bmrs_pyro.inference import NonFiniteLoss, as_likelihood
from bmrs_pyro.inference.smoothed_categorical import SmoothedCategorical
from bmrs_pyro.network.removal import Removal
from bmrs_pyro.path import (
    JointReduction,
    MuchWorse,
    NothingLearned,
    Refit,
    ScoreMissed,
    Target,
    TargetMissed,
    TrainedPath,
)
from bmrs_pyro.path.shelf import Shelf
from bmrs_pyro.pruning import Pruned
from bmrs_pyro.reduction import bmrs_u, criterion_name
from bmrs_pyro.reporting import choice_in_words
from bmrs_pyro.runs import PathRecord
from bmrs_pyro.training import Cycle, Epoch, NothingLeft, PlainSteps
from bmrs_pyro.training.likelihood_fit import fit_likelihood_
from bmrs_pyro.training.validation import validate
from models.lenet5 import network as lenet5
from tests.inference.programs import FEATURES, NUM_DATA, batches, categorical, mlp


@pytest.fixture(scope="module")
def trained() -> nn.Sequential:
    torch.manual_seed(0)
    net = mlp(16)
    PlainSteps(net, categorical, batches(), 150, Cycle(lr=0.1)).make(150)
    return net


def accuracy(net: nn.Module) -> float:
    with torch.no_grad():
        return sum((net(x).argmax(1) == y).sum().item() for x, y in batches(seed=2)) / NUM_DATA


@pytest.mark.parametrize("budget", [{"max_macs": "30%"}, {"max_params": 120}, {"max_bytes": 480}])
def test_it_arrives_at_the_budget_and_keeps_what_was_learned(
    trained: nn.Module, budget: dict[str, Any]
) -> None:
    before = copy.deepcopy(trained.state_dict())
    found = prune(trained, batches(), validation=batches(seed=1), trained=True, epochs=3, **budget)
    assert all(torch.equal(value, before[name]) for name, value in trained.state_dict().items())
    cost = complexity(found.network, torch.zeros(1, FEATURES))
    dense = found.path.dense
    for limit, reached in zip(found.target.budgets(dense), (cost.macs, cost.parameters), strict=True):
        # within one structure of it
        assert limit is None or 0.8 * limit < reached <= limit
    assert (cost.macs, cost.parameters) == (found.point.macs, found.point.parameters)
    assert found.met
    assert accuracy(found.network) > accuracy(trained) - 0.03
    assert set(found.posteriors) == set(found.point.structures)
    sizes = [point.macs for point in found.path.points]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) > 3


def test_another_budget_starts_from_the_dense_network_again(trained: nn.Module) -> None:
    options = {"validation": batches(seed=1), "trained": True, "epochs": 1, "cuts": 2}
    found = prune(trained, batches(), max_macs="50%", **options)  # type: ignore[arg-type]
    smaller = found.choose(max_macs="25%")
    alone = prune(trained, batches(), max_macs="25%", **options)  # type: ignore[arg-type]
    x = torch.randn(4, FEATURES)
    assert torch.equal(smaller.network(x), alone.network(x))
    assert torch.equal(found.path.network(found.path.dense)(x), trained(x))


def test_without_a_budget_rounds_go_on_while_the_score_holds(trained: nn.Module) -> None:
    found = prune(trained, batches(), validation=batches(seed=1), trained=True, epochs=1, cuts=2, max_loss=5)
    assert found.met
    assert found.point.macs < 0.5 * found.path.dense.macs
    dense, score = found.path.dense.score.accuracy, found.point.score.accuracy
    assert dense is not None
    assert score is not None
    assert score >= dense - 0.05


def test_rounds_go_on_where_most_of_the_network_cannot_be_removed() -> None:
    torch.manual_seed(0)
    whole = [nn.Linear(FEATURES, 64), nn.GroupNorm(1, 64), nn.Linear(64, 3), nn.Tanh(), nn.Linear(3, 3)]
    net = nn.Sequential(*whole)
    options = {"validation": batches(seed=1), "trained": True, "progress": False, "epochs": 0, "cuts": 2}
    found = prune(net, batches(), max_loss=100, **options)  # type: ignore[arg-type]
    smallest = complexity(
        nn.Sequential(*whole[:2], nn.Linear(64, 1), nn.Tanh(), nn.Linear(1, 3)), torch.zeros(1, FEATURES)
    )
    dense = found.path.dense.macs
    assert 0.7 * dense < smallest.macs <= found.point.macs <= smallest.macs / 0.9


def test_a_score_that_no_round_reaches_is_said(trained: nn.Module) -> None:
    random = [(x, y[torch.randperm(len(y))]) for x, y in batches()]
    with pytest.warns(ScoreMissed, match=r"should reach .* \(max_loss less one standard error"):
        found = prune(trained, random, validation=batches(seed=1), trained=True, epochs=1, cuts=2, max_loss=0)
    assert not found.met


def test_the_gains_that_stay_make_up_for_those_that_leave() -> None:
    """Two copies of every hidden neuron, of half the weight: one of them can do the work of both."""
    torch.manual_seed(0)
    single = nn.Sequential(nn.Linear(FEATURES, 8), nn.ReLU(), nn.Linear(8, 3))
    PlainSteps(single, categorical, batches(), 150, Cycle(lr=0.1)).make(150)
    weights = single.state_dict()
    doubled = nn.Sequential(nn.Linear(FEATURES, 16), nn.ReLU(), nn.Linear(16, 3))
    doubled.load_state_dict(
        {
            "0.weight": weights["0.weight"].repeat(2, 1),
            "0.bias": weights["0.bias"].repeat(2),
            "2.weight": weights["2.weight"].repeat(1, 2) / 2,
            "2.bias": weights["2.bias"],
        }
    )

    def lost(net: nn.Module) -> tuple[float, nn.Module]:
        options = {"validation": batches(seed=1), "trained": True, "max_params": "50%", "epochs": 0}
        found = prune(net, batches(), **options, progress=False)  # type: ignore[arg-type]
        score = found.path.dense.score
        return score.log_likelihood - found.point.score.log_likelihood, found.network

    frozen = copy.deepcopy(doubled)
    frozen[2].requires_grad_(False)
    adapted, small = lost(doubled)
    stiff, same = lost(frozen)
    assert adapted < 0.5 * stiff
    assert adapted < 0.05
    assert isinstance(small, nn.Sequential)
    assert isinstance(same, nn.Sequential)
    columns = [set(map(tuple, net[2].weight.T.tolist())) for net in (same, doubled)]
    assert columns[0] < columns[1]  # frozen weights are cut, and not changed otherwise


def test_only_gains_that_trained_weights_can_hold_adapt() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 5))
    net.extend([nn.ReLU(), nn.Linear(5, 2)])
    net[4].requires_grad_(False)
    network = NoisyNetwork(net, torch.zeros(2, 4), trained=True)
    layers = {family.layer for family in network.structures if family.name in network.unadaptable}
    assert layers == {"0", "2"}  # a norm weighs the first, the second is read by a frozen layer


def test_few_examples_are_enough_where_they_run_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    class TimeFirst(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.transpose(0, 1)).mean(0)

    monkeypatch.setattr("bmrs_pyro.path.joint_reduction.ONE_BY_ONE", 20)
    torch.manual_seed(0)
    net = TimeFirst(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    data = [(torch.randn(16, 7, 3), torch.randint(0, 2, (16,))) for _ in range(4)]
    model = SupervisedModel(NoisyNetwork(net, data[0][0][:2]), "categorical", 64)
    with pytest.warns(
        UserWarning, match="gradients of a trained network are computed for one example at a time"
    ):
        loss = JointReduction(data, data, batches=4).loss(model)
    assert loss.gradients.shape == (20, 8)
    assert loss.weight == 64 / 20


def test_cuts_alone_need_no_epochs(trained: nn.Module) -> None:
    frozen = copy.deepcopy(trained).requires_grad_(False)
    found = prune(frozen, batches(), validation=batches(seed=1), trained=True, epochs=0, max_params=200)
    assert sum(parameter.numel() for parameter in found.network.parameters()) <= 200
    assert accuracy(found.network) > accuracy(trained) - 0.05


def test_bad_numbers_and_options_are_refused(trained: nn.Module) -> None:
    options = {"validation": batches(seed=1), "trained": True, "progress": False}
    with pytest.raises(TypeError, match=r"callbacks is <built-in .*>; give a list of functions"):
        prune(trained, batches(), callbacks=print, **options)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="unknown option weight"):
        prune(trained, batches(), weight=1, **options)  # type: ignore[arg-type]
    for wrong, message in (
        ({"epochs": "3"}, "epochs is '3'; give a whole number"),
        ({"bfloat16": "no"}, "bfloat16 is 'no'; give True or False"),
        ({"lr": "1"}, "lr is '1'; give a number"),
        ({"trained": "no"}, "trained is 'no'; give True or False"),
    ):
        with pytest.raises(TypeError, match=message):
            prune(trained, batches(), **{**options, **wrong})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="epochs is -1"):
        prune(trained, batches(), epochs=-1, **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^share is 2; it must"):
        prune(trained, batches(), share=2, **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="optimizer is 'rprop'"):
        prune(trained, batches(), optimizer="rprop", **options)  # type: ignore[arg-type]
    with pytest.raises(NonFiniteLoss, match="lower the learning rate"):
        prune(trained, batches(), lr=1e12, max_macs="40%", **options)  # type: ignore[arg-type]
    of_two = [(x, (y > 0).float()) for x, y in batches(seed=1)]
    for likelihood, gap in (("normal", math.nan), ("bernoulli", math.inf)):
        gaps = [of_two[0], *((x.clone().fill_(gap), y) for x, y in of_two[1:])]
        net = nn.Sequential(*copy.deepcopy(trained)[:-1], nn.Linear(16, 1))
        given = {**options, "validation": of_two, "likelihood": likelihood}
        with pytest.raises(
            NonFiniteLoss, match="the training data hold NaN or inf; leave these examples out"
        ):
            prune(net, gaps, max_macs="40%", **given)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="can be read only once; give a loader, or a list of batches"):
        prune(trained, iter(batches()), max_macs="40%", **options)  # type: ignore[arg-type]
    frozen = copy.deepcopy(trained).requires_grad_(False)
    with pytest.raises(ValueError, match="all weights are frozen"):
        prune(frozen, batches(), max_macs="40%", **options)  # type: ignore[arg-type]
    with pytest.raises(TargetMissed, match="cannot be met"):
        prune(trained, batches(), max_params=2, **options)  # type: ignore[arg-type]


def seconds_like_macs(path: TrainedPath, nets: Sequence[nn.Module], batch_size: int = 1) -> list[float]:
    return [1e-9 * batch_size * complexity(net, torch.zeros(1, FEATURES)).macs for net in nets]


def test_a_latency_is_met_by_about_the_largest_network_that_is_fast_enough(
    trained: nn.Module, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    measured = []

    def seconds(path: TrainedPath, nets: Sequence[nn.Module], batch_size: int = 1) -> list[float]:
        measured.append(batch_size)
        return seconds_like_macs(path, nets, batch_size)

    monkeypatch.setattr(TrainedPath, "latencies", seconds)
    options = {"trained": True, "epochs": 2, "batch_size": 8, "progress": False, "directory": tmp_path}

    def found(latency: float | str) -> Pruned:
        return prune(trained, batches(), validation=batches(seed=1), max_latency=latency, **options)  # type: ignore[arg-type]

    by_share, macs = found("40%"), complexity(trained, torch.zeros(1, FEATURES)).macs
    assert by_share.met
    assert 0.3 * macs <= by_share.point.macs <= 0.4 * macs  # a neuron has 5 % of them
    assert by_share.choice.times is not None
    assert by_share.choice.times.small == pytest.approx(8e-9 * by_share.point.macs)
    assert set(measured) == {8}
    assert found(0.25 * 8e-9 * macs).point.macs <= 0.25 * macs
    measured.clear()
    assert found("40%").point == by_share.point
    assert not measured, "what was measured is kept"
    with pytest.warns(NothingLeft, match="nothing is removed"):
        assert found("100%").point.macs == macs
    with pytest.raises(
        TargetMissed, match=r"The smallest has \d+ parameters and takes .*: give at least max_latency='\d%'"
    ):
        found("0.1%")


@pytest.mark.parametrize(("factor", "met"), [(1.2, True), (3.0, False)])
def test_a_network_that_is_too_slow_after_its_reduction_is_reduced_again(
    trained: nn.Module, factor: float, met: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trial cuts seem faster than the networks that come out."""
    begun: list[Epoch] = []

    def seconds(path: TrainedPath, nets: Sequence[nn.Module], batch_size: int = 1) -> list[float]:
        dense, *others = seconds_like_macs(path, nets, batch_size)
        return [dense, *(each * (factor if begun else 1) for each in others)]

    monkeypatch.setattr(TrainedPath, "latencies", seconds)
    options: dict[str, Any] = {"trained": True, "epochs": 2, "progress": False, "callbacks": [begun.append]}
    with warnings.catch_warnings():
        if not met:
            warnings.simplefilter("ignore", ScoreMissed)
        found = prune(trained, batches(), validation=batches(seed=1), max_latency="40%", **options)
    assert found.met == met
    assert len(found.notes) in ((1, 2) if met else (3,))
    assert all("% of the unpruned network's time" in note for note in found.notes)
    words = choice_in_words(PathRecord.of(found.path, found.choice))
    assert f"{'Tried before' if met else 'Reached'}: {found.notes[0]}." in words
    assert found.choice.times is not None
    assert (found.choice.times.small <= 0.4 * found.choice.times.dense) == met


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_moments_shrink_with_the_weights(optimizer: str) -> None:
    """A cut of what has no influence changes no later step."""
    torch.manual_seed(0)
    wide, few = mlp(6), torch.tensor([True] * 4 + [False] * 2)
    for layer in (wide[0], wide[2], wide[4]):
        assert isinstance(layer, nn.Linear)
    with torch.no_grad():  # what leaves gets nothing, gives nothing, and has no gradient
        wide[2].weight[:, 4:] = 0
        wide[0].weight[4:], wide[0].bias[4:] = 0, 0
    cycle = Cycle(optimizer=optimizer, lr=0.01, weight_decay=0.01)
    results = []
    for when in (0, 5):
        network = NoisyNetwork(copy.deepcopy(wide), torch.zeros(1, FEATURES))
        steps = PlainSteps(network.net, categorical, batches(), 10, cycle)

        def cut(steps: PlainSteps = steps, network: NoisyNetwork = network) -> Removal:
            removal = network.remove_({network.structures[0].name: few})
            steps.cut_(removal)
            return removal

        if when == 0:
            cut()
        steps.make(5)
        if when == 5:
            cut()
        steps.make(10)
        results.append([weight.detach() for weight in network.net.parameters()])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


def test_the_rate_rises_and_ends_at_nothing() -> None:
    rates = [Cycle(lr=0.2).rate((step + 1) / 101) for step in range(100)]
    assert max(rates) == pytest.approx(0.2, rel=1e-3)
    assert rates.index(max(rates)) in (9, 10)
    assert rates[-1] < 1e-4
    assert all(rate > 0 for rate in rates)


class Pixels(nn.Sequential):
    """A convolutional network with one class for every pixel."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 3, 1))


def pixels(ignored: int | None = None) -> list[tuple[Tensor, Tensor]]:
    """Return images whose classes are made from the mean of each pixel's neighbours."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(256, 1, 8, 8, generator=random)
    means = nn.functional.avg_pool2d(x, 3, 1, 1)[:, 0]
    y = (means > -0.2).long() + (means > 0.2).long()
    if ignored is not None:
        y[:, 1:] = ignored
    return [*zip(x.split(32), y.split(32), strict=True)]


@pytest.mark.parametrize("teacher", [False, True])
def test_the_default_rate_fits_networks_with_many_labels_for_each_example(teacher: bool) -> None:
    torch.manual_seed(0)
    data, net = pixels(), Pixels()
    PlainSteps(net, as_likelihood("categorical"), data, 200, Cycle("adamw", lr=0.02)).make(200)
    options = {"validation": data, "trained": True, "epochs": 4, "max_macs": "60%"}
    found = prune(net, data, teacher=net if teacher else None, **options)  # type: ignore[arg-type]
    before, after = found.path.dense.score.accuracy, found.point.score.accuracy
    assert before is not None
    assert after is not None
    assert before > 0.9
    assert after > before - 0.05  # with the sum over pixels as the loss it predicts a constant, 0.4


@pytest.mark.parametrize("ignored", [None, -100])
@pytest.mark.parametrize("teacher", [False, True])
def test_a_step_takes_the_mean_over_the_labels_that_count(ignored: int | None, teacher: bool) -> None:
    torch.manual_seed(0)
    (x, y), *_ = pixels(ignored)
    net, other = Pixels(), Pixels()
    twin = copy.deepcopy(net)

    def likelihood(logits: Tensor) -> TorchDistribution:
        return SmoothedCategorical(logits.movedim(1, -1), 0.0, ignored).to_event(2)

    seen: list[float] = []
    steps = PlainSteps(net, likelihood, [(x, y)], 1, Cycle("sgd"), seen.append, other if teacher else None)
    steps.make(1)

    optimizer = torch.optim.SGD(twin.parameters(), steps.rate, 0.9, nesterov=True, weight_decay=5e-4)
    logits = twin(x)
    loss = nn.functional.cross_entropy(logits, y)  # torch's mean leaves -100 out
    if teacher:
        taught = other.eval()(x).detach().softmax(1)
        loss = (loss - (taught * logits.log_softmax(1)).sum(1)[y != -100].mean()) / 2
    loss.backward()
    optimizer.step()
    for mine, its in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine, its)
    labels = 64 if ignored is None else 8
    assert seen == [pytest.approx(labels * loss.item(), rel=1e-5)]  # nats per example


def test_a_teacher_is_imitated() -> None:
    torch.manual_seed(0)
    x = torch.randn(64, FEATURES)
    teacher, student = mlp(8), mlp(8)
    data = [(x, torch.zeros(64, dtype=torch.long))]

    def distance(net: nn.Module) -> Tensor:
        return (net(x).softmax(1) - teacher(x).softmax(1)).abs().mean().detach()

    alone = copy.deepcopy(student)
    PlainSteps(student, categorical, data, 60, Cycle(lr=0.1), teacher=teacher).make(60)
    PlainSteps(alone, categorical, data, 60, Cycle(lr=0.1)).make(60)
    assert distance(student) < 0.8 * distance(alone)
    assert all(math.isfinite(value) for value in student(x).flatten().tolist())


def test_a_teacher_of_counts_is_imitated() -> None:
    torch.manual_seed(0)
    x = torch.randn(64, FEATURES)
    data = [(x, torch.zeros(64, 3))]
    teacher, student = mlp(8), mlp(8)
    alone = copy.deepcopy(student)
    for net, taught in ((student, teacher), (alone, None)):
        PlainSteps(net, as_likelihood("poisson"), data, 60, Cycle("adamw", lr=0.02), teacher=taught).make(60)

    def distance(net: nn.Module) -> Tensor:
        return (net(x).exp() - teacher(x).exp()).abs().mean().detach()

    assert distance(student) < 0.8 * distance(alone)


def test_it_can_be_saved_reported_and_loaded(trained: nn.Module, tmp_path: Path) -> None:
    found = prune(
        trained, batches(), validation=batches(seed=1), trained=True, epochs=1, cuts=2, max_macs="40%"
    )
    found.save(tmp_path / "small")
    x = torch.randn(4, FEATURES)
    torch.testing.assert_close(load(tmp_path / "small", mlp(16))(x), found.network(x))
    found.report(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert f"{found.point.parameters:,}" in page
    assert "Each cut removed" in page
    assert "How it was trained" in page
    for words in ("KL divergence grew", "posteriors move", "refitted", "is folded", "Evidence lower bound"):
        assert words not in page
    gone = sum(family.size for family in found.path.trainee.model.structures) - found.point.size
    assert found.choice.refit.history.keep.removed == gone
    for name, mask in found.choice.refit.history.keep.items():
        assert found.choice.refit.history.scores[name].isfinite().all()
        assert int(mask.sum()) == found.point.structures[name]


def test_the_teacher_stays_as_it_was_given(trained: nn.Module) -> None:
    net = copy.deepcopy(trained).train()
    prune(
        net,
        batches(),
        validation=batches(seed=1),
        trained=True,
        epochs=1,
        cuts=2,
        max_macs="50%",
        teacher=net,
    )
    assert net.training
    assert all(weight.requires_grad for weight in net.parameters())
    with pytest.raises(TypeError, match="teacher is a bool; give a network"):
        JointReduction([], [], teacher=True)  # type: ignore[arg-type]


def test_values_that_diverge_are_a_loss_that_does() -> None:
    data = [(torch.randn(8, 2), torch.randn(8, 1))] * 9
    net = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
    for likelihood, lr in (("normal:0.1", 1e9), ("normal", 1e3), ("normal", 1e9)):
        steps = PlainSteps(copy.deepcopy(net), as_likelihood(likelihood), data, 50, Cycle(lr=lr))
        with pytest.raises(NonFiniteLoss, match=r"^step \d+ of \d+: the loss is .*; lower the learning rate"):
            steps.make(50)


@pytest.mark.parametrize(
    ("optimizer", "target", "ends"),
    [("sgd", Target(max_loss=1), (2, 4)), ("adamw", Target(max_macs="50%"), (2,))],
)
def test_it_continues_after_an_interruption_between_cuts_and_between_rounds(
    trained: nn.Sequential, optimizer: str, target: Target, ends: tuple[int, ...], tmp_path: Path
) -> None:
    net = nn.Sequential(*copy.deepcopy(trained), nn.Dropout(0.2))  # draws random numbers
    model = SupervisedModel(NoisyNetwork(net, torch.zeros(1, FEATURES)), categorical, NUM_DATA)

    def reduce(folder: Path | None, last: int = 99) -> Refit:
        def interrupt(record: Epoch) -> None:
            if record.epoch == last:
                raise KeyboardInterrupt

        plan = JointReduction(
            batches(),
            batches(seed=1),
            2,
            Cycle(optimizer),
            cuts=3,
            share=1.0,
            progress=False,
            callbacks=[interrupt],
        )
        return TrainedPath.of(model, plan, shelf=Shelf(folder)).chosen(target)[1].refit

    whole = reduce(None)
    for last in ends:  # after one epoch of the first round, and of the second
        with pytest.raises(KeyboardInterrupt):
            reduce(tmp_path, last)
    again = reduce(tmp_path)
    weights = again.history.network.state_dict()
    assert weights["0.weight"].shape[0] < 16
    for name, value in whole.history.network.state_dict().items():
        assert torch.equal(weights[name], value)
    assert again.point == whole.point
    records = [[replace(epoch, seconds=0.0, examples=()) for epoch in one.history] for one in (again, whole)]
    assert records[0] == records[1]
    for name, q in whole.guide.posteriors().items():
        assert torch.equal(again.guide.posteriors()[name].scale, q.scale)
    state = {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    assert reduce(tmp_path, 1).point == whole.point  # finished: no epoch is made
    assert {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()} == state


def test_a_directory_keeps_the_reductions_of_one_trained_network(
    trained: nn.Sequential, tmp_path: Path
) -> None:
    def interrupt(record: Epoch) -> None:
        if record.epoch == 2:
            raise KeyboardInterrupt

    def reduced(net: nn.Module = trained, **options: Any) -> Pruned:
        usual: dict[str, Any] = {
            "validation": batches(seed=1),
            "epochs": 3,
            "cuts": 3,
            "directory": tmp_path,
            "progress": False,
        }
        usual |= {} if "max_params" in options else {"max_macs": "40%"}
        return prune(net, batches(), trained=True, **(usual | options))

    whole = reduced(directory=None)
    with pytest.raises(KeyboardInterrupt):
        reduced(callbacks=[interrupt])
    again = reduced(copy.deepcopy(trained))
    weights = again.network.state_dict()
    for name, value in whole.network.state_dict().items():
        assert torch.equal(weights[name], value)
    seen: list[Epoch] = []
    assert reduced(callbacks=[seen.append]).point == whole.point
    assert not seen  # finished: no epoch is made
    assert reduced(max_params=120, callbacks=[seen.append]).point.parameters <= 120
    assert len(seen) == 3  # another budget starts from the dense network

    others = copy.deepcopy(trained)
    with torch.no_grad():
        others[0].weight[0] *= 1.001
    for net, options, message in (
        (
            others,
            {},
            "holds a path with other weights; give another directory, or the same weights",
        ),
        (nn.Sequential(*trained, nn.Dropout(0.5)), {}, "another network: '5' is among this network's layers"),
        (trained, {"lr": 0.01}, r"holds a path with lr by default, not 0.01"),
        (trained, {"seed": 1}, "holds a path with seed 0, not 1"),
        (trained, {"cuts": 4}, "holds a path with cuts 3, not 4"),
        (
            trained,
            {"teacher": trained},
            "holds a path with other teacher; give another directory, or the same teacher",
        ),
        (trained, {"round_to": 4}, "holds a path with round_to 1, not 4"),
        (trained, {"likelihood": "categorical:0.2"}, "holds a path with another network or likelihood"),
    ):
        with pytest.raises(ValueError, match=message):
            reduced(net, **options)
    frozen = copy.deepcopy(trained)
    frozen[0].requires_grad_(False)
    with pytest.raises(ValueError, match=r"holds a path with layers\['0'\] 'Linear.*, not 'frozen Linear"):
        reduced(frozen)
    usual = {"validation": batches(seed=1), "epochs": 3, "cuts": 3, "max_macs": "40%"}
    with pytest.raises(ValueError, match="holds a path with batches in an epoch 15, not 8"):
        prune(trained, batches(size=64), trained=True, directory=tmp_path, **usual)  # type: ignore[arg-type]
    quick = {"epochs": 9, "dense_epochs": 0, "directory": tmp_path, "max_macs": "40%"}
    with pytest.raises(ValueError, match="holds a path with trained True, not False"):
        prune(trained, batches(), validation=batches(seed=1), **quick)  # type: ignore[arg-type]
    (tmp_path / "settings.json").unlink()
    with pytest.raises(ValueError, match=r"holds the states of a path without their settings\.json"):
        reduced()


def values(count: int) -> list[tuple[Tensor, Tensor]]:
    """Return batches of real values with noise of a standard deviation of 0.5."""
    x, noise = torch.randn(count, 9, generator=torch.Generator().manual_seed(0)).split([8, 1], 1)
    y = 2 * x[:, 0] + x[:, 1] * x[:, 2] + 0.5 * noise[:, 0]
    return list(zip(x.split(32), y.split(32), strict=True))


def test_a_trained_regression_is_compared_with_its_own_scale() -> None:
    """The normal distribution's scale of largest likelihood is the root mean square error."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 1))
    model = SupervisedModel(NoisyNetwork(net, torch.zeros(1, 8)), as_likelihood("normal"), 256)
    fit_likelihood_(model.likelihood, net, values(256))
    with torch.no_grad():
        error = torch.cat([net(x)[:, 0] - y for x, y in values(256)])
    scale = model.likelihood(torch.zeros(1, 1)).scale
    assert scale.item() == pytest.approx(error.square().mean().sqrt().item(), rel=1e-3)
    # small batches are as many examples
    small = [(x, y) for xs, ys in values(256) for x, y in zip(xs.split(4), ys.split(4), strict=True)]
    again = as_likelihood("normal")
    fit_likelihood_(again, net, small)
    assert again(torch.zeros(1, 1)).scale.item() == pytest.approx(scale.item(), rel=1e-3)


def test_a_scale_is_not_fitted_to_outputs_that_are_no_numbers() -> None:
    net, likelihood = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 1)), as_likelihood("normal")
    model = SupervisedModel(NoisyNetwork(net, torch.zeros(1, 8)), likelihood, 64)
    with torch.no_grad():
        net[2].bias.fill_(math.nan)
    fit_likelihood_(likelihood, net, values(64))
    assert likelihood(torch.zeros(1, 1)).scale == 1
    with pytest.raises(NonFiniteLoss, match=r"^validation: the network's outputs .* are NaN or infinite"):
        validate(model, {}, values(64))


def test_a_network_that_has_lost_what_it_had_learned_is_not_handed_back_without_a_word() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 1))
    PlainSteps(net, as_likelihood("normal:1"), values(256), 200, Cycle("adamw", 0.02)).make(200)
    options = {"validation": values(256), "trained": True, "likelihood": "normal", "progress": False}
    with pytest.warns(
        MuchWorse, match=r"RMSE .* before, .* for the best constant; give it more epochs, a lower"
    ):
        found = prune(net, values(256), epochs=2, optimizer="adamw", lr=3, max_macs="50%", **options)  # type: ignore[arg-type]
    record = PathRecord.of(found.path, found.choice)
    assert found.caution is not None
    assert f"caution: {found.caution}" in repr(found)
    assert choice_in_words(PathRecord.from_json(record.to_json()))[-1] == f"Caution: {found.caution}."
    assert record.without_choice().caution is None


@pytest.mark.filterwarnings("ignore:a network of .* should")  # the first round may be too much
def test_a_regression_that_has_overfitted_is_reduced_only_as_long_as_its_errors_hold() -> None:
    """Its log-likelihood is so low that a constant would reach it."""
    torch.manual_seed(0)
    noisy = [(x, y + torch.randn(len(y))) for x, y in values(512)]
    train, held_out = noisy[:2], noisy[2:]
    net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))
    PlainSteps(net, as_likelihood("normal:1"), train, 800, Cycle("adamw", 0.01)).make(800)
    options = {"validation": held_out, "trained": True, "likelihood": "normal", "progress": False}
    found = prune(net, train, epochs=20, cuts=2, **options)  # type: ignore[arg-type]
    before, after = found.path.dense.score, found.point.score
    y = torch.cat([y for _, y in held_out])
    assert before.rmse is not None
    assert after.rmse is not None
    assert before.rmse < 0.9 * y.std()
    assert before.log_likelihood < torch.distributions.Normal(y.mean(), y.std()).log_prob(y).mean() - 1
    assert found.met
    assert after.rmse <= before.rmse + (before.rmse_error or 0.0)


def test_a_loss_that_was_allowed_or_told_already_is_not_warned_of(trained: nn.Module) -> None:
    options = {"validation": batches(seed=1), "trained": True, "progress": False, "epochs": 0, "cuts": 2}
    found = prune(trained, batches(), max_macs="60%", **options)  # type: ignore[arg-type]
    refit = found.choice.refit
    poor = replace(refit, point=replace(refit.point, score=refit.point.score._replace(accuracy=0.4)))
    for target, met, told in (
        (Target(max_macs="60%"), True, 1),
        (Target(max_loss=70), True, 0),
        (Target(max_macs="60%"), False, 0),
    ):
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            choice = replace(found.choice, refit=poor, target=target, met=met).with_caution(found.path)
        assert [each.category for each in seen] == [MuchWorse] * told
        assert choice.caution == (str(seen[0].message) if seen else None)


def test_a_wrong_predicted_scale_is_told_of_though_the_errors_are_small() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 2))
    likelihood = as_likelihood("normal:predicted")
    PlainSteps(net, likelihood, values(512), 300, Cycle("adamw", 0.02)).make(300)
    options = {"validation": values(256), "trained": True, "likelihood": likelihood, "progress": False}
    found = prune(net, values(512), epochs=0, cuts=2, max_macs="90%", **options)  # type: ignore[arg-type]
    dense = found.path.dense.score
    y = torch.cat([y for _, y in values(256)])
    constant = torch.distributions.Normal(y.mean(), y.std(correction=0)).log_prob(y).mean().item()
    for log_likelihood, target, told in (
        (constant - 0.1, Target(max_macs="90%"), 1),
        (constant + 0.1, Target(max_macs="90%"), 0),
        (constant - 0.1, Target(max_loss=5), 0),
    ):
        refit, score = found.choice.refit, dense._replace(log_likelihood=log_likelihood)
        poor = replace(refit, point=replace(refit.point, score=score))
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            choice = replace(found.choice, refit=poor, target=target, met=True).with_caution(found.path)
        assert [each.category for each in seen] == [MuchWorse] * told
        assert not told or f"{constant:.4g} for the best constant outputs" in str(choice.caution)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            lambda x, y: (x, y.where(torch.arange(len(y)) != 3, 7)),
            "for labels from 0 to 2, .* go from 0 to 7",
        ),
        (
            lambda x, y: (x, y.where(torch.arange(len(y)) != 3, -1)),
            "for labels from 0 to 2, .* go from -1 to 2",
        ),
        (lambda x, y: (x, y[1:]), "a batch has .* give each example one|y has shape .*reshape the labels"),
    ],
)
def test_labels_that_do_not_fit_are_told_of_in_one_line(wrong: Any, message: str, trained: nn.Module) -> None:
    good = batches()
    first, last = [wrong(*good[0]), *good[1:]], [*good[:-1], wrong(*good[-1])]
    options = {"validation": batches(seed=1), "trained": True, "max_macs": "60%", "progress": False}
    for train, epochs in ((first, 0), (first, 1), (last, 1)):  # without training the last batch is not read
        with pytest.raises(ValueError, match=message) as caught:
            prune(trained, train, epochs=epochs, **options)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:a network of .* should reach")  # so few epochs may not be enough
def test_a_trained_regression_keeps_what_it_has_learned_by_default() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 1))
    PlainSteps(net, as_likelihood("normal:30"), values(1024), 1500, Cycle(optimizer="adamw", lr=0.02)).make(
        1500
    )
    for target in ({"max_macs": "50%"}, {}):
        options = {"validation": values(256), "trained": True, "likelihood": "normal", "progress": False}
        found = prune(net, values(1024), epochs=4, **options, **target)  # type: ignore[arg-type]
        before, after = found.path.dense.score, found.point.score
        assert before.rmse is not None
        assert after.rmse is not None
        assert after.rmse < 1.5 * before.rmse
        dense = found.path.network(found.path.dense)
        for one, likelihood in ((dense, found.dense_likelihood), (found.network, found.likelihood)):
            with torch.no_grad():
                error = torch.cat([one(x)[:, 0] - y for x, y in values(1024)])
            scale = likelihood(torch.zeros(1, 1)).scale
            assert scale.item() == pytest.approx(error.square().mean().sqrt().item(), rel=1e-2)
        if found.met and not target:
            assert after.log_likelihood >= before.log_likelihood - (before.log_likelihood_error or 0.0)


def test_an_untrained_network_is_told_of() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 1))
    options = {"validation": values(256), "trained": True, "likelihood": "normal", "progress": False}
    with pytest.warns(NothingLearned, match=r"no better than a constant: RMSE .* for the best constant"):
        found = prune(net, values(256), epochs=0, cuts=2, max_macs="90%", **options)  # type: ignore[arg-type]
    assert found.caution is not None
    assert found.caution.startswith("the unpruned network predicts no better")


def reduced(net: nn.Module, **options: Any) -> Pruned:
    """Prune a trained network to 60 % of its multiply-accumulates within an epoch, if no option says otherwise."""
    usual = {
        "validation": batches(seed=1),
        "trained": True,
        "progress": False,
        "epochs": 1,
        "max_macs": "60%",
    }
    return prune(net, batches(), **{**usual, **options})


class Classes(nn.Module):
    """A teacher without parameters that gives numbers of classes instead of logits."""

    def forward(self, x: Tensor) -> Tensor:
        return x.argmax(-1).float()


class Integers(nn.Module):
    """A teacher without parameters whose logits are whole numbers."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :3].long()


class Rule(nn.Module):
    """A teacher without parameters."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :3]


def test_a_teacher_needs_no_parameters(trained: nn.Module) -> None:
    assert reduced(trained, teacher=Rule()).met


def test_bad_batches_of_a_trained_network_are_told_of(trained: nn.Module) -> None:
    options = {"trained": True, "progress": False, "epochs": 1, "max_macs": "60%", "batches": 1, "cuts": 1}
    good = batches()
    x, y = good[1]
    wide, hole = (torch.cat([x, x], 1), y), (x.masked_fill(x > 1, math.nan), y)
    for train, held_out, error, message in (
        (
            [good[0], wide],
            good,
            ValueError,
            r"step 2 of \d+: the network does not run on a batch of inputs \(\(.*\) torch",
        ),
        (good, [good[0], wide], ValueError, r"validation: the network does not run on a batch of inputs"),
        (
            [good[0], hole],
            good,
            NonFiniteLoss,
            r"step 2 of \d+: the training data hold NaN or inf; leave these",
        ),
    ):
        with pytest.raises(error, match=message):
            prune(trained, train, validation=held_out, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"seed": "a"}, "seed is 'a'; give a whole number"),
        ({"progress": 3}, "progress is 3; give True or False"),
        ({"optimizer": torch.optim.Adam}, "optimizer is a type; give its name, 'sgd' or 'adamw'"),
        ({"dense_epochs": 3}, "dense_epochs: no option of a trained network's reduction; leave it out"),
    ],
)
def test_options_of_another_kind_are_told_of(
    trained: nn.Module, option: dict[str, Any], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        prune(trained, batches(), validation=batches(), trained=True, max_macs="60%", **option)
    with pytest.raises(ValueError, match="seed is -1; it must not be negative"):
        prune(trained, batches(), validation=batches(), trained=True, max_macs="60%", seed=-1)
    with pytest.raises(
        TypeError, match="teacher: an option for trained networks; leave it out, or give trained="
    ):
        prune(trained, batches(), validation=batches(), teacher=trained)


def test_a_teacher_must_have_the_inputs_and_outputs_of_the_network(trained: nn.Module) -> None:
    broken = copy.deepcopy(trained)
    with torch.no_grad():
        broken[-1].bias.fill_(math.nan)
    inputs, outputs = trained[0].in_features, trained[-1].out_features
    for teacher, message in (
        (
            nn.Linear(inputs, outputs + 1),
            r"the teacher predicts values of shape \(.*\) for a batch, and the network",
        ),
        (
            nn.Linear(inputs + 1, outputs),
            "the teacher does not predict the training batches .*; give a network",
        ),
        (nn.Linear(inputs, outputs).double(), "the teacher does not predict .* in the same precision"),
        (Classes(), "the teacher does not predict the training batches .*logits"),
        (Integers(), "the teacher does not predict the training batches .*Long"),
        (copy.deepcopy(trained).to("meta"), "the teacher is on the meta device, without numbers"),
        (broken, "the teacher predicts NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            reduced(trained, teacher=teacher)


def test_a_criterion_of_a_trained_network_is_a_model_reduction_or_its_name(
    trained: nn.Module, tmp_path: Path
) -> None:
    assert criterion_name(bmrs_u(8)) == "bmrs-u-8"
    named, given = (reduced(trained, epochs=0, criterion=one) for one in ("bmrs-u-8", bmrs_u(8)))
    for name, values_ in named.choice.refit.history.scores.items():
        torch.testing.assert_close(values_, given.choice.refit.history.scores[name])
    assert named.path.decision(named.choice.refit.history).criterion == "bmrs-u-8"
    named.report(tmp_path / "report.html")
    assert "bmrs-u-8" in (tmp_path / "report.html").read_text()
    for wrong in ("snr", "none", "magic", 3):
        with pytest.raises(TypeError, match="it only scores single structures for the report"):
            reduced(trained, criterion=wrong)


def test_without_training_and_cuts_the_network_stays_as_it_is() -> None:
    """Statistics of batch norm were estimated anew from the loader, which may be another one than in training."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))
    options: dict[str, Any] = {"validation": batches(seed=1), "trained": True, "progress": False, "epochs": 0}
    with pytest.warns(NothingLeft, match="nothing is removed"):
        found = prune(net, batches(), max_macs="100%", **options)
    given = net.state_dict()
    assert all(torch.equal(value, given[name]) for name, value in found.network.state_dict().items())
    with warnings.catch_warnings(action="ignore", category=MuchWorse):
        cut = prune(net, batches(), max_macs="60%", **options).network
    assert not torch.equal(cut[1].running_mean, torch.zeros_like(cut[1].running_mean))


def test_a_noisy_measurement_does_not_mislead_the_trial_cuts(
    trained: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One network of every eight that are measured in turns seems five times as slow as it is."""
    random = torch.Generator().manual_seed(0)

    def seconds(path: TrainedPath, nets: Sequence[nn.Module], batch_size: int = 1) -> list[float]:
        dense, *others = seconds_like_macs(path, nets, batch_size)
        if len(others) > 1:
            others[int(torch.randint(1, len(others), (1,), generator=random))] *= 5
        return [dense, *others]

    monkeypatch.setattr(TrainedPath, "latencies", seconds)
    for share in (70, 50, 30):
        options: dict[str, Any] = {"trained": True, "epochs": 0, "cuts": 2, "progress": False}
        with warnings.catch_warnings(action="ignore", category=MuchWorse):
            found = prune(trained, batches(), validation=batches(seed=1), max_latency=f"{share}%", **options)
        assert found.met
        assert 0.7 * share <= 100 * found.point.macs / found.path.dense.macs <= share


def test_one_large_gradient_does_not_silence_a_network_without_norms() -> None:
    """LeNet-5 on few images: without a limit to the gradient, steps after the cuts silence most units."""
    train, validation, _ = load_data("digits", size=32)
    torch.manual_seed(0)
    net = lenet5((1, 32, 32), 10)
    PlainSteps(net, categorical, Batches(train, 64), 120, Cycle("adamw", lr=1e-3)).make(120)
    options: dict[str, Any] = {"validation": Batches(validation, 500), "trained": True, "max_macs": "23%"}
    limited, unlimited = (
        prune(net, Batches(train, 64), epochs=2, progress=False, **options, **given)
        for given in (dict[str, Any](), {"clip": 1e9})
    )
    dense = limited.path.dense.score.accuracy
    assert limited.point.score.accuracy > dense > 0.85
    assert unlimited.point.score.accuracy < dense - 0.05


@pytest.mark.parametrize(
    ("rest", "asked", "advice"),
    [
        (0.5, "1%", r"give at least max_latency='3\d%'"),
        (0.5, "0.1us", r"give at least max_latency='[\d.e-]+ms'"),
        (100.0, "0.1us", "pruning gains next to nothing: give a larger batch_size, or max_macs"),
        (100.0, "1%", "pruning gains next to nothing"),
    ],
)
def test_advice_about_a_latency_is_never_longer_than_the_given_network_takes(
    trained: nn.Module, rest: float, asked: str, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part of the time does not depend on the widths."""

    def seconds(path: TrainedPath, nets: Sequence[nn.Module], batch_size: int = 1) -> list[float]:
        dense, *_ = own = seconds_like_macs(path, nets)
        return [1e3 * (each + rest * dense) / (1 + rest) for each in own]

    monkeypatch.setattr(TrainedPath, "latencies", seconds)
    with pytest.raises(TargetMissed, match=advice) as caught:
        prune(trained, batches(), validation=batches(seed=1), trained=True, epochs=0, max_latency=asked)
    if asked.endswith("us") and rest < 1:
        whole = 1e6 * complexity(trained, torch.zeros(1, FEATURES)).macs * 1e-9
        assert float(str(caught.value).rpartition("='")[2].removesuffix("ms'")) < whole
