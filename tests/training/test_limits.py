"""Limits and frozen weights in training."""

from __future__ import annotations

import copy

import pytest
import torch

from bmrs_pyro import (
    AutoTruncatedLogNormal,
    JointOptim,
    KeepMask,
    SupervisedModel,
    bmrs_n,
    complexity,
    fit,
    select,
)
from bmrs_pyro.network import NoisyNetwork, compact
from bmrs_pyro.training import Epoch, History, Limits, frozen
from tests.inference.programs import batches, mlp, program
from tests.network.networks import Transformer


def fitted(**options: object) -> tuple[SupervisedModel, AutoTruncatedLogNormal, History]:
    model, guide = program(mlp(16), kl_weight=("mean", 0.3))
    optim = JointOptim(torch.optim.Adam, {"lr": 0.02, "fused": True}, network=model.network)
    settings = {"epochs": 8, "fine_tune_epochs": 1, "criterion": bmrs_n(), "progress": False, **options}
    return model, guide, fit(model, guide, batches(), optim=optim, **settings)  # type: ignore[arg-type]


def test_all_widths_are_multiples_at_every_event() -> None:
    _, _, history = fitted(round_to=4)
    assert history.keep.removed > 0
    assert {size % 4 for epoch in history for size in epoch.structures.values()} == {0}


def test_the_budget_is_met_when_pruning_ends_and_not_before() -> None:
    *_, unlimited = fitted()
    free = sum(unlimited[-1].structures.values())
    model, _, history = fitted(max_params=60)
    assert complexity(model.network).parameters <= 60
    assert sum(history[-3].structures.values()) >= free
    assert history[-1].accuracy is None
    assert history[-1].structures == history[-2].structures


def test_macs_are_counted_for_one_example() -> None:
    model, _, _ = fitted(max_macs=50)
    assert complexity(model.network, torch.zeros(1, 5)).macs <= 50


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_half_of_the_macs_is_half_whatever_batch_the_example_holds(batch: int) -> None:
    network = NoisyNetwork(mlp(16), torch.zeros(batch, 5))
    before = complexity(network).macs
    scores = {family.name: -torch.arange(1.0, family.size + 1) for family in network.structures}
    keep = Limits(max_macs=before // 2).applied(network, KeepMask.from_scores(scores), scores)
    network.remove_(keep)
    assert 0.4 * before < complexity(network).macs <= before // 2


def test_budgets_hold_in_double_precision() -> None:
    model, guide = program(mlp(16), kl_weight=("mean", 0.3))
    model.double()
    guide.double()
    loader = [(x.double(), y) for x, y in batches()]
    fit(model, guide, loader, epochs=1, fine_tune_epochs=0, max_macs=50, max_params=60, progress=False)
    cost = complexity(model.network, torch.zeros(1, 5))
    assert cost.macs <= 50
    assert cost.parameters <= 60


def test_rounding_counts_the_channels_of_attention_heads() -> None:
    network = NoisyNetwork(Transformer().eval(), torch.randn(2, 7, 5))
    scores = {family.name: torch.linspace(-1, 1, family.size).double() for family in network.structures}
    keep = Limits(round_to=4).applied(network, KeepMask.from_scores(scores), scores)
    attention = next(family.name for family in network.structures if "attention" in family.name)
    widths = {name: int(mask.sum()) for name, mask in keep.items()}
    assert widths.pop(attention) == 2  # heads of two channels each
    assert all(width % 4 == 0 for width in widths.values())
    small = compact(network, keep)
    assert small(torch.randn(2, 7, 5)).isfinite().all()


def test_gains_alone_are_fitted_until_fine_tuning() -> None:
    weights: list[dict[str, torch.Tensor]] = []
    model, guide = program(mlp(16), kl_weight=("mean", 0.3))
    before = {name: value.clone() for name, value in model.network.net.state_dict().items()}
    loc = guide.loc.detach().clone()

    def note(_: Epoch) -> None:
        weights.append({name: value.clone() for name, value in model.network.net.state_dict().items()})

    optim = JointOptim(torch.optim.Adam, {"lr": 0.02}, network=model.network)
    fit(
        model, guide, batches(), optim=optim, epochs=2, fine_tune_epochs=1, gains_only=True,
        progress=False, callbacks=[note], criterion=None,
    )  # fmt: skip
    for name, value in before.items():
        assert torch.equal(weights[1][name], value)
        assert not torch.equal(weights[2][name], value)
    assert not torch.equal(guide.loc, loc)
    assert all(parameter.requires_grad for parameter in model.network.parameters())


def test_weights_frozen_before_stay_frozen() -> None:
    net = mlp()
    first, *others = net.parameters()
    first.requires_grad_(False)
    with frozen(net):
        assert not any(parameter.requires_grad for parameter in net.parameters())
    assert not first.requires_grad
    assert all(parameter.requires_grad for parameter in others)


@pytest.mark.parametrize("option", ["round_to", "max_macs", "max_parameters"])
def test_numbers_that_are_not_positive_are_named(option: str) -> None:
    with pytest.raises(ValueError, match=f"{option} is 0; it must be at least 1"):
        Limits(**{option: 0})  # type: ignore[arg-type]


def test_an_impossible_budget_is_refused_before_training() -> None:
    model, _ = program()
    with pytest.raises(ValueError, match="a budget of 5 cannot be met"):
        Limits(max_parameters=5).refuse_impossible(model.network)
    Limits(max_parameters=40).refuse_impossible(model.network)


def test_mixed_precision_moves_the_loss_by_rounding_only() -> None:
    x, y = batches()[0]
    net = mlp(64)
    losses = []
    for mixed_precision in (False, True):
        model, _ = program(copy.deepcopy(net), mixed_precision=mixed_precision)
        model.register_weights = False
        losses.append(model.log_likelihood(x, y, {}).item())
        assert model.network(x).dtype is torch.float32
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=2e-2)


def test_a_budget_counts_the_cost_once_whatever_the_weights_of_the_kl() -> None:
    network = NoisyNetwork(mlp(16), torch.zeros(1, 5))
    torch.manual_seed(0)
    nats = {family.name: -torch.rand(family.size) for family in network.structures}
    whole = KeepMask({name: torch.ones(len(values), dtype=torch.bool) for name, values in nats.items()})
    limits = Limits(max_parameters=150)
    weights = dict(zip(nats, (0.2, 5.0), strict=True))
    # evidence under a KL weight λ is that of the likelihood over λ
    weighted = {name: values / weights[name] for name, values in nats.items()}
    expected = limits.applied(network, whole, nats)
    assert limits.applied(network, whole, weighted, units=weights) == expected
    assert limits.applied(network, whole, weighted) != expected


def test_several_budgets_from_one_posterior() -> None:
    model, guide = program(mlp(16))
    q = guide.posteriors()
    for budget in (300, 150, 80):
        limits = Limits(max_parameters=budget).on(model.network)
        keep = select(q, model.prior, bmrs_n(), limits=limits)
        assert complexity(compact(model.network, keep), torch.zeros(1, 5)).parameters <= budget
    assert select(q, model.prior, bmrs_n()).removed == 0


def test_limits_without_a_network_and_shares_are_refused() -> None:
    with pytest.raises(ValueError, match="max_macs is '20%'; it must be at least 1, and not a text"):
        Limits(max_macs="20%")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="limits is a Limits; give limits of a network"):
        select({}, {}, bmrs_n(), limits=Limits(max_macs=5))  # type: ignore[arg-type]
