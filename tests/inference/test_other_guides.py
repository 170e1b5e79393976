"""Guides that do not belong to a model: of another model, or with sites of another scale."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import pytest
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.optim import Adam
from torch import Tensor

from bmrs_pyro import (
    AutoTruncatedLogNormal,
    LogUniform,
    NoisyNetwork,
    SupervisedModel,
    TruncatedLogNormal,
    fit,
)
from tests.inference.programs import FEATURES, NUM_DATA, batches, blobs, categorical, mlp, program


@pytest.mark.parametrize("changed", [{"kl_weight": ("mean", 3.0)}, {"prior": LogUniform(1e-3, 1.0)}, {}])
def test_fit_refuses_another_models_guide(changed: dict[str, Any]) -> None:
    """It trained with the KL weight and the prior of the guide's model, without a word."""
    model, guide = program()
    other = SupervisedModel(model.network, categorical, NUM_DATA, **changed)
    with pytest.raises(
        ValueError, match="the guide is another model's, with the prior, KL weights and structures"
    ):
        fit(other, guide, batches(), epochs=1, progress=False)
    again = AutoTruncatedLogNormal(other)
    again.loc, again.scale = guide.loc.detach(), guide.scale.detach()
    assert len(fit(other, again, batches(), epochs=1, fine_tune_epochs=0, progress=False).epochs) == 1


def by_hand(model: SupervisedModel, *, scaled: bool) -> Callable[..., None]:
    """Return a guide whose sites have the model's scale, or none."""

    def guide(x: Tensor, y: Tensor | None = None) -> None:
        draws = model.draw_shape(x)
        with model.latent(draws) if scaled else pyro.plate("draws", draws.numel()):
            for family in model.structures:
                loc = pyro.param(f"{family.name}.loc", torch.zeros(family.size))
                scale = pyro.param(
                    f"{family.name}.scale", torch.ones(family.size), constraint=constraints.positive
                )
                posterior = TruncatedLogNormal(loc, scale, model.prior.low, model.prior.high)
                pyro.sample(family.name, posterior.expand([*draws, family.size]).to_event(1))

    return guide


def told(step: Callable[[], object]) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        step()
    return [str(warning.message) for warning in caught if "as often as the model" in str(warning.message)]


@pytest.mark.parametrize(
    ("weight", "scaled", "times"), [("elbo", True, None), ("elbo", False, "20"), (("mean", 3.0), True, None)]
)
@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
def test_a_guide_of_another_scale_is_told(weight: Any, scaled: bool, times: str | None, elbo: type) -> None:
    model = SupervisedModel(
        NoisyNetwork(mlp(), torch.zeros(2, FEATURES)),
        categorical,
        NUM_DATA,
        draws="example",
        kl_weight=weight,
    )
    x, y = blobs(count=20)
    svi = SVI(model, by_hand(model, scaled=scaled), Adam({"lr": 1e-3}), elbo())
    found = told(lambda: svi.step(x, y))
    assert len(found) == (times is not None)
    assert all(f"counts site 'theta.0' {times} times as often" in text for text in found)


def test_pyros_guides_need_one_draw_per_batch() -> None:
    x, y = blobs(count=20)
    for draws, number in (("batch", 0), ("example", 1)):
        pyro.clear_param_store()
        network = NoisyNetwork(mlp(), torch.zeros(2, FEATURES))
        model = SupervisedModel(network, categorical, NUM_DATA, draws=draws)
        guide = AutoNormal(poutine.block(model, expose=[family.name for family in model.structures]))
        svi = SVI(model, guide, Adam({"lr": 1e-3}), Trace_ELBO())
        assert len(told(partial(svi.step, x, y))) == number


def test_a_first_vectorised_call_changes_no_draws() -> None:
    """The refusal looked like a network that mixes rows: draws became "batch" for good, with a false warning."""
    model = SupervisedModel(
        NoisyNetwork(mlp(), torch.zeros(2, FEATURES)), categorical, NUM_DATA, draws="example"
    )
    elbo = Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1)
    svi = SVI(model, AutoTruncatedLogNormal(model), Adam({"lr": 1e-3}), elbo)
    with pytest.raises(NotImplementedError, match="give vectorize_particles=False"):
        svi.step(*blobs(count=20))
    assert model.draws == "example"
    assert model.draw_shape(blobs(count=20)[0]) == (20,)


@pytest.mark.parametrize(
    "value",
    [
        {"init_loc": float("nan")},
        {"init_log_scale": 1000},
        {"init_log_scale": "a"},
        {"init_loc": float("-inf")},
    ],
)
def test_initial_values_are_numbers(value: dict[str, Any]) -> None:
    model, _ = program()
    with pytest.raises(ValueError, match=f"{next(iter(value))} is .*; give a number between -80 and 80"):
        AutoTruncatedLogNormal(model, **value)


def test_one_prior_for_all_gains() -> None:
    network = NoisyNetwork(mlp(), torch.zeros(2, FEATURES))
    with pytest.raises(ValueError, match=r"of shape \(12,\); all gains have one prior, so give two numbers"):
        SupervisedModel(network, categorical, NUM_DATA, prior=LogUniform(torch.full((12,), 1e-3), 1.0))
    with pytest.raises(ValueError, match="high must be finite, got high=inf"):
        LogUniform(1e-3, float("inf"))
