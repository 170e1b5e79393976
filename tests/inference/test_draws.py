"""How many draws of the gains a batch gets, and which examples share them."""

from __future__ import annotations

import pyro
import pytest
import torch
from torch import nn

from bmrs_pyro import AutoTruncatedLogNormal, MeanFieldELBO, NoisyNetwork, SupervisedModel
from bmrs_pyro.inference.draws import draws_of, parse_draws
from tests.inference.programs import blobs, mlp, program


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 6), nn.ReLU(), nn.Linear(6, 3)
    )


@pytest.mark.parametrize(
    ("examples", "draws", "count"),
    [
        (128, 16, 16),
        (100, 16, 20),
        (37, 16, 37),
        (8, 16, 8),
        (64, "example", 64),
        (64, "auto", 64),
        (64, "batch", 1),
    ],
)
def test_draws_divide_the_batch(examples: int, draws: int | str, count: int) -> None:
    assert draws_of(examples, draws) == count  # type: ignore[arg-type]


def test_draws_are_read_from_the_command_too() -> None:
    assert [parse_draws(value) for value in ("16", 16, 1, "auto", "example")] == [
        16,
        16,
        "batch",
        "auto",
        "example",
    ]
    for wrong in (0, -1, 2.5, True, "pixel", "0", None):
        with pytest.raises(ValueError, match="a number of draws per batch"):
            parse_draws(wrong)


def test_a_multilayer_perceptron_shares_draws_and_a_convolutional_network_does_not() -> None:
    model, _ = program(mlp())
    assert model.draw_shape(blobs()[0][:64]) == (16,)
    assert model.draws == 16
    images = torch.randn(64, 1, 8, 8)
    network = NoisyNetwork(convolutional(), images[:2])
    model = SupervisedModel(network, "categorical", 100)
    assert model.draw_shape(images) == (64,)
    assert model.draws == "example"


def test_shared_draws_leave_the_expected_gradient() -> None:
    """The mean over many steps is that of draws per example, to four standard errors of every component."""
    x, y = (part[:24] for part in blobs())
    found = {}
    for draws in ("example", 4):
        pyro.clear_param_store()
        pyro.set_rng_seed(1)
        model, _ = program(mlp(4), draws=draws)
        guide = AutoTruncatedLogNormal(model, init_loc=-1.0, init_log_scale=0.0)
        gradients = []
        with pyro.validation_enabled(False):
            for _ in range(400):
                guide.zero_grad()
                MeanFieldELBO().loss_and_grads(model, guide, x, y)
                gradients.append(torch.cat([p.grad for p in guide.parameters() if p.grad is not None]))
        found[draws] = torch.stack(gradients).double()
    (one, other), count = found.values(), 400
    error = ((one.var(0) + other.var(0)) / count).sqrt()
    assert ((one.mean(0) - other.mean(0)).abs() < 4 * error).all()
