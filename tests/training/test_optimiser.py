"""JointOptim against plain torch, and the traps of Pyro's parameter store."""

from __future__ import annotations

from pathlib import Path

import pyro
import pytest
import torch
from pyro.infer import SVI, TraceMeanField_ELBO
from pyro.optim import Adam

from bmrs_pyro import AutoTruncatedLogNormal, JointOptim, MeanFieldELBO, SupervisedModel
from tests.inference.programs import blobs, mlp, program


def parameters(model: SupervisedModel, guide: AutoTruncatedLogNormal) -> list[torch.Tensor]:
    return [p.detach().clone() for p in [*model.parameters(), *guide.parameters()]]


def run(optim_for: object, *, register: bool, steps: int = 4) -> list[torch.Tensor]:
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    model, guide = program(mlp())
    model.register_weights = register
    svi = SVI(model, guide, optim_for(model), MeanFieldELBO())
    x, y = blobs()
    for _ in range(steps):
        svi.step(x, y)
    return parameters(model, guide)


def test_equals_pyros_optimiser_where_rates_are_equal() -> None:
    ours = run(
        lambda m: JointOptim(torch.optim.Adam, {"lr": 0.01}, network=m.network, posterior_lr_factor=1.0),
        register=False,
    )
    registered = run(
        lambda m: JointOptim(torch.optim.Adam, {"lr": 0.01}, network=m.network, posterior_lr_factor=1.0),
        register=True,
    )
    stock = run(lambda m: Adam({"lr": 0.01}), register=True)
    for a, b, c in zip(ours, registered, stock, strict=True):
        torch.testing.assert_close(a, c, rtol=1e-6, atol=1e-7)
        assert torch.equal(a, b)


def test_variational_parameters_have_their_own_rate() -> None:
    model, guide = program()
    model.register_weights = False
    optim = JointOptim(torch.optim.SGD, {"lr": 1e-4}, network=model.network, posterior_lr_factor=10.0)
    svi = SVI(model, guide, optim, MeanFieldELBO())
    x, y = blobs()
    svi.step(x, y)
    before = parameters(model, guide)
    pyro.set_rng_seed(1)
    MeanFieldELBO().loss_and_grads(model, guide, x, y)
    gradients = [p.grad.clone() for p in [*model.parameters(), *guide.parameters()]]
    model.zero_grad()
    guide.zero_grad()
    pyro.set_rng_seed(1)
    optim.scale_rates(0.5)
    svi.step(x, y)
    rates = [0.5e-4] * 6 + [0.5e-3] * 2
    for now, then, gradient, rate in zip(parameters(model, guide), before, gradients, rates, strict=True):
        torch.testing.assert_close(now, then - rate * gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("lr", "posterior_lr_factor"), [(-1.0, 10.0), (1e-3, -3.0), (float("nan"), 10.0), (1e-3, float("inf"))]
)
def test_rates_that_lead_nowhere_are_refused(lr: float, posterior_lr_factor: float) -> None:
    with pytest.raises(ValueError, match="finite and at least 0"):
        JointOptim(torch.optim.Adam, {"lr": lr}, posterior_lr_factor=posterior_lr_factor)


def test_state_survives_a_file_and_continues_the_same(tmp_path: Path) -> None:
    model, guide = program()
    model.register_weights = False
    optim = JointOptim(torch.optim.Adam, {"lr": 0.01, "fused": True}, network=model.network)
    svi = SVI(model, guide, optim, MeanFieldELBO())
    x, y = blobs()
    for _ in range(3):
        svi.step(x, y)
    optim.save(tmp_path / "optim.pt")
    weights, posterior = model.network.state_dict(), guide.state_dict()
    weights, posterior = ({k: v.clone() for k, v in part.items()} for part in (weights, posterior))
    pyro.set_rng_seed(9)
    svi.step(x, y)
    expected = parameters(model, guide)

    model.network.load_state_dict(weights)
    guide.load_state_dict(posterior)
    fresh = JointOptim(torch.optim.Adam, {"lr": 0.01, "fused": True}, network=model.network)
    fresh.load(tmp_path / "optim.pt")
    pyro.set_rng_seed(9)
    SVI(model, guide, fresh, MeanFieldELBO()).step(x, y)
    for ours, other in zip(parameters(model, guide), expected, strict=True):
        assert torch.equal(ours, other)


def test_a_second_model_in_one_store_is_refused() -> None:
    x, y = blobs()
    first, guide = program()
    SVI(first, guide, Adam({"lr": 0.01}), TraceMeanField_ELBO()).step(x, y)
    second, other_guide = program()
    with pytest.raises(RuntimeError, match="parameter store holds another tensor"):
        SVI(second, other_guide, Adam({"lr": 0.01}), TraceMeanField_ELBO()).step(x, y)

    def by_pyro_module(x: torch.Tensor, y: torch.Tensor) -> None:
        pyro.module("network", second.network)
        second.register_weights = False
        second(x, y)

    optim = JointOptim(torch.optim.Adam, {"lr": 0.01}, network=second.network)
    with pytest.raises(RuntimeError, match="not a tensor of the optimiser's network"):
        SVI(by_pyro_module, guide, optim, TraceMeanField_ELBO()).step(x, y)


def test_a_cut_that_does_not_fit_is_refused() -> None:
    optim = JointOptim(torch.optim.Adam, {"lr": 0.01})
    with pytest.raises(RuntimeError, match="moments cut"):
        optim.cut_(torch.zeros(3), torch.arange(2))


def test_a_state_of_other_shapes_is_refused(tmp_path: Path) -> None:
    """A fused optimiser would write past the ends of the moments."""
    adam = {"lr": 1e-3, "fused": True}
    small, large = torch.nn.Linear(4, 8), torch.nn.Linear(64, 64)
    optim = JointOptim(torch.optim.Adam, adam, network=small)
    small(torch.ones(1, 4)).sum().backward()
    optim(())
    optim.save(tmp_path / "optim.pt")
    with pytest.raises(
        RuntimeError, match=r"'exp_avg' of shape \(8, 4\) for parameter 'weight' of \(64, 64\); load"
    ):
        JointOptim(torch.optim.Adam, adam, network=large).load(tmp_path / "optim.pt")


def test_a_state_of_other_shapes_is_refused_as_soon_as_the_parameter_is_known() -> None:
    model, guide = program()
    model.register_weights = False
    x, y = blobs()
    fresh = JointOptim(torch.optim.Adam, {"lr": 0.01, "fused": True}, network=model.network)
    fresh.set_state({"AutoTruncatedLogNormal.loc": {"exp_avg": torch.zeros(2)}})
    with pytest.raises(RuntimeError, match=r"'exp_avg' of shape \(2,\) for parameter '.*loc' of \(24,\)"):
        SVI(model, guide, fresh, MeanFieldELBO()).step(x, y)
