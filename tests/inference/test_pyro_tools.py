"""The packaged model and guide under Pyro's own objectives, effects and tools."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import (
    SVI,
    JitTrace_ELBO,
    JitTraceMeanField_ELBO,
    Predictive,
    RenyiELBO,
    Trace_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
)
from pyro.infer.inspect import get_model_relations
from pyro.optim import Adam
from torch import Tensor, nn

from bmrs_pyro import (
    AutoTruncatedLogNormal,
    LogUniform,
    NoisyNetwork,
    SupervisedModel,
    TruncatedLogNormal,
    bmrs_n,
    posteriors,
    select,
)
from bmrs_pyro.reporting import to_inference_data
from tests.inference.programs import blobs, mlp, program

# torch.jit.trace, which Pyro's Jit objectives use, is deprecated and warns of what it cannot follow
pytestmark = [
    pytest.mark.filterwarnings(f"ignore::{kind}")
    for kind in ("FutureWarning", "DeprecationWarning", "torch.jit.TracerWarning")
]
OBJECTIVES = [Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO, RenyiELBO]


@pytest.mark.parametrize("elbo", [*OBJECTIVES, JitTrace_ELBO, JitTraceMeanField_ELBO])
@pytest.mark.parametrize("draws", ["batch", 4])
def test_stock_objectives_and_optimisers_train(elbo: type, draws: Any) -> None:
    pyro.set_rng_seed(0)
    model, guide = program(mlp(6), draws=draws)
    options = {"ignore_jit_warnings": True} if elbo.__name__.startswith("Jit") else {}
    svi = SVI(model, guide, Adam({"lr": 0.02}), elbo(**options))
    x, y = (part[:60] for part in blobs())
    losses = [svi.step(x, y) for _ in range(40)]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_a_traced_step_has_the_usual_gradient() -> None:
    """Its random numbers are others; means over 150 steps differ by less than four standard errors."""
    x, y = (part[:24] for part in blobs())
    found = []
    for elbo in (TraceMeanField_ELBO(), JitTraceMeanField_ELBO(ignore_jit_warnings=True)):
        pyro.clear_param_store()
        pyro.set_rng_seed(5)
        model, _ = program(mlp(4))
        guide = AutoTruncatedLogNormal(model, init_loc=-1.0, init_log_scale=0.0)
        gradients = []
        for _ in range(150):
            guide.zero_grad()
            elbo.loss_and_grads(model, guide, x, y)
            gradients.append(torch.cat([p.grad for p in guide.parameters() if p.grad is not None]))
        found.append(torch.stack(gradients).double())
    usual, traced = found
    error = ((usual.var(0) + traced.var(0)) / len(usual)).sqrt()
    assert ((usual.mean(0) - traced.mean(0)).abs() < 4 * error).all()


def test_what_would_add_a_dimension_to_the_gains_is_refused_by_name() -> None:
    model, guide = program(mlp(4))
    x, y = (part[:24] for part in blobs())
    svi = SVI(model, guide, Adam({}), TraceMeanField_ELBO(num_particles=2, vectorize_particles=True))
    with pytest.raises(NotImplementedError, match="give vectorize_particles=False"):
        svi.step(x, y)
    with pytest.raises(NotImplementedError, match="parallel=False"):
        Predictive(model, guide=guide, num_samples=3, parallel=True)(x)
    drawn = Predictive(model, guide=guide, num_samples=3)(x)
    assert drawn["y"].shape == (3, 24)


def test_several_draws_in_one_call_of_a_model_by_hand_are_refused() -> None:
    x = torch.randn(20, 3)
    network = NoisyNetwork(nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1)), x[:2])

    def model(x: Tensor, y: Tensor | None = None) -> None:
        prior = LogUniform().expand([8]).to_event(1)
        mean = network(x, {"theta.0": pyro.sample("theta.0", prior)}).squeeze(-1)
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(mean, 0.001), obs=y)

    def guide(x: Tensor, y: Tensor | None = None) -> None:
        pyro.sample("theta.0", TruncatedLogNormal(torch.full((8,), -1.0), torch.ones(8)).to_event(1))

    for draws in (4, 20):  # both divide the batch
        with pytest.raises(NotImplementedError, match="parallel=False"):
            Predictive(model, guide=guide, num_samples=draws, parallel=True)(x)
    assert Predictive(model, guide=guide, num_samples=4)(x)["y"].std(0).mean() > 0.01


def test_relations_of_sites_are_found() -> None:
    """What pyro.render_model draws."""
    model, guide = program(mlp(4))
    x, y = (part[:24] for part in blobs())
    found = get_model_relations(model, model_args=(x, y))
    assert found["observed"] == ["y"]
    assert {"theta.0", "theta.2"} <= set(found["sample_sample"]["y"])
    assert set(get_model_relations(guide, model_args=(x, y))["sample_sample"]) >= {"theta.0", "theta.2"}


def test_parameters_of_the_guide_can_be_lifted() -> None:
    _, guide = program(mlp(4))
    priors = {
        "AutoTruncatedLogNormal.loc": dist.Normal(-1.0, 0.1).expand([8]).to_event(1),
        "AutoTruncatedLogNormal.scale": dist.LogNormal(0.0, 0.1).expand([8]).to_event(1),
    }
    x = blobs()[0][:24]
    trace = poutine.trace(poutine.lift(guide, prior=priors)).get_trace(x)
    assert trace.nodes["AutoTruncatedLogNormal.loc"]["type"] == "sample"
    assert trace.nodes["theta.0"]["fn"].posterior.loc.equal(
        trace.nodes["AutoTruncatedLogNormal.loc"]["value"][:4]
    )


def test_the_sites_own_draws_have_the_log_density_of_the_posterior() -> None:
    _, guide = program(mlp(4))
    trace = poutine.trace(guide).get_trace(blobs()[0][:24])
    for name, q in guide.posteriors().items():
        site: Any = trace.nodes[name]
        torch.testing.assert_close(site["fn"].log_prob(site["value"]), q.log_prob(site["value"]).sum(-1))
        other = site["value"].clone()
        torch.testing.assert_close(site["fn"].log_prob(other), q.log_prob(other).sum(-1))


def test_a_prior_set_later_is_the_one_that_counts() -> None:
    model, guide = program(mlp(4))
    x, y = (part[:24] for part in blobs())
    model(x, y)
    model.prior = LogUniform(1e-4, 1.0)
    trace = poutine.trace(poutine.replay(model, poutine.trace(guide).get_trace(x))).get_trace(x, y)
    assert trace.nodes["theta.0"]["fn"].distribution.low == pytest.approx(1e-4)


def test_scalars_of_hierarchical_guides_are_no_gains() -> None:
    def guide(x: Tensor) -> None:
        pyro.sample("rate", dist.Beta(torch.tensor(2.0), 3.0))
        pyro.sample("shared", TruncatedLogNormal(-1.0, 0.1))
        pyro.sample("theta.0", TruncatedLogNormal(torch.zeros(4), torch.ones(4)).to_event(1))

    assert list(posteriors(guide, torch.zeros(2))) == ["theta.0"]
    several = {"shared": TruncatedLogNormal(-1.0, 0.1), **posteriors(guide, torch.zeros(2))}
    assert list(select(several, LogUniform(), bmrs_n())) == ["theta.0"]
    posterior = to_inference_data(several, draws=5).posterior
    assert posterior["shared"].dims == ("chain", "draw")
    assert posterior["theta.0"].shape == (1, 5, 4)


def test_a_subclass_of_the_model_may_add_sites() -> None:
    class Hierarchical(SupervisedModel):
        def forward(self, x: Any, y: Tensor | None = None) -> Tensor:
            pyro.sample("rate", dist.Beta(torch.tensor(2.0), 3.0))
            return super().forward(x, y)

    model, _ = program(mlp(4))
    model.__class__ = Hierarchical
    assert "rate" in poutine.trace(model).get_trace(*blobs()).nodes
