"""Reduction in place: what it prunes, and that what is kept keeps what it has learned."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor

from bmrs_pyro.reduction import reduced_posterior
from bmrs_pyro.weights import Layer, SpikeAndSlab, mean_network, reduce_, weight_posteriors
from tests.weights.programs import blobs, program


def halve(layer: Layer, posterior: dist.Normal, gain: Tensor) -> Tensor:
    """Prune the first column, halve the prior scale of the second."""
    factor = torch.ones_like(gain)
    factor[:, 0], factor[:, 1] = 0.0, 0.5
    return factor


def test_gains_are_multiplied_and_the_last_layer_is_spared() -> None:
    model, guide = program()
    pruned = reduce_(model, guide, halve)
    assert pruned == 16 + 16
    reduce_(model, guide, halve)
    gains = model.gains
    assert (gains["weights.4"] == 1).all()
    for name in ("weights.0", "weights.2"):
        assert (gains[name][:, 0] == 0).all()
        assert (gains[name][:, 1] == 0.25).all()
        assert (gains[name][:, 2:] == 1).all()
    assert reduce_(model, guide, halve, last=True) == 3


def test_weights_have_the_reduced_posterior() -> None:
    """In the units of the weights: gain times q(z) is q̃ under the prior N(0, 0.5²)."""
    model, guide = program()
    before = weight_posteriors(model, guide)["weights.0"]
    reduce_(model, guide, halve)
    after, gain = weight_posteriors(model, guide)["weights.0"], model.gains["weights.0"]
    expected = reduced_posterior(before, dist.Normal(0.0, 1.0), dist.Normal(0.0, 0.5))
    torch.testing.assert_close((gain * after.loc)[:, 1].double(), expected.loc[:, 1], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        (gain * after.scale)[:, 1].double(), expected.scale[:, 1], rtol=1e-5, atol=1e-6
    )
    torch.testing.assert_close(after.loc[:, 2:], before.loc[:, 2:], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(after.scale[:, 2:], before.scale[:, 2:], rtol=1e-5, atol=1e-6)


def test_pruned_weights_are_spikes_at_zero_that_cost_no_kl() -> None:
    model, guide = program()
    reduce_(model, guide, halve)
    pruned = ~model.active["weights.2"]
    posterior = weight_posteriors(model, guide)["weights.2"]
    assert (posterior.loc[pruned] == 0).all()
    assert (posterior.scale[pruned] < 1e-7).all()
    distribution = guide.distributions()["weights.2"].base_dist
    divergence = torch.distributions.kl_divergence(distribution, dist.Normal(0.0, 1.0))
    torch.testing.assert_close(divergence[pruned], torch.zeros(16), rtol=0, atol=1e-6)
    weights = dict(mean_network(model, guide).named_parameters())["2.weight"]
    assert (weights[:, 0] == 0).all()
    assert (weights[:, 1:] != 0).all()


def test_nothing_to_prune_changes_nothing() -> None:
    model, guide = program()
    x, _ = blobs()
    with torch.no_grad():
        guide.loc = 3 * torch.ones_like(guide.loc)  # far from 0, at a scale of 0.1
        before = mean_network(model, guide)(x)
        assert reduce_(model, guide, SpikeAndSlab()) == 0
        torch.testing.assert_close(mean_network(model, guide)(x), before)


def test_parameter_objects_stay() -> None:
    model, guide = program()
    before = {name: id(parameter) for name, parameter in guide.named_parameters()}
    reduce_(model, guide, halve)
    assert {name: id(parameter) for name, parameter in guide.named_parameters()} == before
