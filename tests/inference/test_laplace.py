"""The Laplace start against quadrature on a network of two gains, and against a pass of gradients by hand."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor, nn

from bmrs_pyro import (
    AutoTruncatedLogNormal,
    NoisyNetwork,
    SupervisedModel,
    bmrs_n,
    compact,
    delta_f,
    fit,
    select,
    spike,
)
from bmrs_pyro.inference import NonFiniteLoss
from bmrs_pyro.inference.draws import Draws
from bmrs_pyro.inference.laplace import Curvature

N, SECOND = 2000, 12.0  # examples, and how many standard errors the second effect has


def problem(z: float, held: float, draws: Draws = "example") -> tuple[SupervisedModel, Tensor, Tensor]:
    """Two linear effects, estimated at z and 12 standard errors; the first weight is frozen at ``held`` errors."""
    torch.manual_seed(0)
    x, _ = torch.linalg.qr(torch.randn(N, 3))
    noise = torch.randn(N)
    noise -= x[:, :2] @ (x[:, :2].T @ noise)  # the estimates are exact then, with standard errors of 1
    y = x[:, :1] * z + x[:, 1:2] * SECOND + (noise / noise.std())[:, None]
    network = two_gains()
    network.net[1].weight.data.copy_(torch.tensor([[held, SECOND]]))
    return SupervisedModel(network, "normal:1", N, draws=draws), x[:, :2], y


@cache
def two_gains() -> NoisyNetwork:
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False))
    net[0].weight.data.copy_(torch.eye(2))
    return NoisyNetwork(net, torch.zeros(1, 2))


def exact_delta_f(model: SupervisedModel, x: Tensor, y: Tensor) -> float:
    """ΔF of the first gain by quadrature over the logarithms of both."""
    grid = torch.linspace(-20, 0, 801, dtype=torch.float64)
    inner = x.double() * model.network.net[1].weight.detach().double()
    y = y.double()[:, 0]
    # −½ |y − θ₁ a − θ₂ b|² by the six products of y, a and b
    a, b = inner.T
    one, two = grid.exp()[:, None], grid.exp()[None]
    loglik = one * (y @ a) + two * (y @ b) - (one**2 * (a @ a) + two**2 * (b @ b)) / 2 - one * two * (a @ b)
    weight = torch.full_like(grid, 0.025)
    weight[[0, -1]] /= 2
    log_weight = (weight / 20).log()
    reduced = (loglik[0] + log_weight).logsumexp(0)
    full = (loglik + log_weight[:, None] + log_weight[None]).flatten().logsumexp(0)
    return float(reduced - full)


@pytest.mark.parametrize("held", [4.0, 6.0, 8.0, None], ids=lambda held: f"weight of {held} errors")
def test_decisions_agree_with_the_exact_bayes_factor(held: float | None) -> None:
    agreed = 0
    for z in torch.arange(-2, 8.1, 0.5).tolist():
        model, x, y = problem(z, abs(z) if held is None else held)
        exact = exact_delta_f(model, x, y)
        guide = AutoTruncatedLogNormal.from_laplace(model, [(x, y)])
        score = bmrs_n()(guide.posteriors()["theta.0"], model.prior)
        assert score[1] < 0, "the effect of 12 standard errors stays"
        if abs(exact) >= 1:
            assert bool(score[0] > 0) == (exact + 1 > 0), (z, exact, score[0])
            agreed += 1
    assert agreed >= 8


@pytest.mark.parametrize(("z", "stays"), [(-1.0, False), (1.0, False), (4.0, True), (8.0, True)])
def test_svi_of_the_gains_keeps_the_optimum_that_it_starts_from(z: float, stays: bool) -> None:
    model, x, y = problem(z, 6.0)
    guide = AutoTruncatedLogNormal.from_laplace(model, [(x, y)])
    batches = [(x[rows], y[rows]) for rows in torch.arange(N).split(100)]
    fit(model, guide, batches, criterion=None, epochs=2, fine_tune_epochs=0, gains_only=True, progress=False)
    assert bool(bmrs_n()(guide.posteriors()["theta.0"], model.prior)[0] <= 0) == stays


def test_loc_and_scale_are_those_of_the_exact_posterior_where_it_is_narrow() -> None:
    model, x, y = problem(10.0, 10.0)
    found = AutoTruncatedLogNormal.from_laplace(model, [(x, y)]).posteriors()["theta.0"]
    assert found.loc.tolist() == [0.0, 0.0]
    # log-likelihood −½ w² (θ − 1)², by quadrature over log θ
    grid = torch.linspace(-1, 0, 20001, dtype=torch.float64)
    for index, weight in enumerate((10.0, SECOND)):
        density = (-((weight * (grid.exp() - 1)) ** 2) / 2).exp()
        mean = (density * grid).sum() / density.sum()
        draws = found.sample(torch.Size([20_000])).log().mean(0)
        assert draws[index] == pytest.approx(float(mean), rel=0.1)
        assert found.scale[index] == pytest.approx(1 / weight, rel=0.1)


@pytest.mark.parametrize("draws", ["example", "batch"])
def test_information_is_the_sum_of_squared_gradients_of_single_examples(draws: Draws) -> None:
    model, x, y = problem(3.0, 5.0, draws)
    model.num_data = 100
    found = Curvature.of(model, [(x[:30], y[:30]), (x[30:50], y[30:50]), (x[50:], y[50:])], batches=2)
    products = x[:50] * model.network.net[1].weight
    each = (y[:50] - products.sum(1, keepdim=True)) * products
    torch.testing.assert_close(found.slope.float(), 2 * each.sum(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.information.float(), 2 * each.square().sum(0), rtol=1e-4, atol=1e-5)


def test_what_the_data_say_nothing_of_keeps_the_prior_and_leaves() -> None:
    model, x, y = problem(10.0, 0.0)
    x, weights = x.clone().requires_grad_(), [weight.clone() for weight in model.network.parameters()]
    guide = AutoTruncatedLogNormal.from_laplace(model, [(x.detach(), y)])
    q = guide.posteriors()["theta.0"]
    assert delta_f(q, model.prior, spike(model.prior))[0] == pytest.approx(0, abs=0.01)
    keep = select(guide.posteriors(), model.prior, bmrs_n())
    assert keep["theta.0"].tolist() == [False, True]
    assert compact(model.network, keep)(x.detach()).shape == y.shape
    assert all(torch.equal(old, new) for old, new in zip(weights, model.network.parameters(), strict=True))
    assert all(weight.grad is None for weight in model.network.parameters())


def test_the_scale_follows_the_weight_of_the_kl() -> None:
    model, x, y = problem(40.0, 40.0)
    plain = AutoTruncatedLogNormal.from_laplace(model, [(x, y)]).posteriors()["theta.0"].scale
    model.kl_scales = {"theta.0": 4.0}
    weighted = AutoTruncatedLogNormal.from_laplace(model, [(x, y)]).posteriors()["theta.0"].scale
    assert float(weighted[0] / plain[0]) == pytest.approx(2.0)


def test_no_examples_are_refused() -> None:
    model, _, _ = problem(1.0, 1.0)
    with pytest.raises(ValueError, match="no examples"):
        AutoTruncatedLogNormal.from_laplace(model, [])


def test_a_pass_keeps_hardly_more_for_its_backward_pass_than_a_training_step() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5)),
    )
    x, y = torch.randn(64, 3, 16, 16), torch.randint(5, (64,))
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    def bytes_kept() -> int:
        total = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
        kept.clear()
        return total

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        nn.functional.cross_entropy(net(x), y).backward()
        step = bytes_kept()
        model = SupervisedModel(NoisyNetwork(net, x[:1]), "categorical", N)
        bytes_kept()
        AutoTruncatedLogNormal.from_laplace(model, [(x, y)])
        assert bytes_kept() <= 1.3 * step


def test_a_pass_needs_no_surrounding_gradients() -> None:
    model, x, y = problem(1.0, 0.5)
    expected = AutoTruncatedLogNormal.from_laplace(model, [(x, y)])
    with torch.no_grad():
        found = AutoTruncatedLogNormal.from_laplace(model, [(x, y)])
    assert torch.equal(found.scale, expected.scale)


def test_gradients_that_are_not_finite_are_refused() -> None:
    model = SupervisedModel(
        NoisyNetwork(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)), torch.zeros(1, 2)), "categorical", 4
    )
    with pytest.raises(NonFiniteLoss, match="the training data hold NaN or inf"):
        AutoTruncatedLogNormal.from_laplace(model, [(torch.full((4, 2), torch.nan), torch.zeros(4).long())])
