"""The Pyro programs of texts and maps in models/: exact removal, their ELBO, and a bare SVI loop that learns."""

from __future__ import annotations

import math

import pyro
import pytest
import torch
from pyro.infer import SVI, TraceMeanField_ELBO
from pyro.optim import Adam
from torch import Tensor

from bmrs_pyro import AutoTruncatedLogNormal, NoisyNetwork, SupervisedModel, posteriors
from bmrs_pyro.network import reachable
from bmrs_pyro.reporting.architectures import removal_error
from tests.test_models import program

# input shape, outputs, likelihood, least share of the parameters beside the embeddings that can leave
PROGRAMS = {
    "text_classifier": ((12,), 3, "categorical", 0.95),
    "next_token": ((12,), 9, "next-token", 0.95),
    "unet": ((1, 16, 16), 4, "categorical", 0.99),
}


def batch(name: str, count: int) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(count)
    if name == "unet":
        x = torch.randn(count, 1, 16, 16, generator=random)
        return x, (x[:, 0] > 0).long() + 2 * (x[:, 0] > 1)
    if name == "next_token":
        start = torch.randint(9, (count, 1), generator=random)
        x = (start + torch.arange(12)) % 9
        return x, x
    x = torch.randint(1, 30, (count, 12), generator=random)
    y = x[:, 0] % 3
    x[:, 8:] *= torch.rand(count, 1, generator=random) > 0.5  # nothing behind the end of some
    return x, y


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_leaves_leaves_exactly(name: str) -> None:
    shape, outputs, _, least = PROGRAMS[name]
    torch.manual_seed(0)
    net = program(name).network(shape, outputs).eval()
    network = NoisyNetwork(net, batch(name, 2)[0])
    outside = ("word", "token", "place")
    inner = sum(p.numel() for key, p in net.named_parameters() if not key.startswith(outside))
    assert reachable(net, network.structures) / inner > least
    if name != "unet":
        assert {family.kind for family in network.structures} == {"heads", "neurons"}
    assert removal_error(network, batch(name, 5)[0], seed=1) < 1e-5


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_bare_svi_loop_has_the_packaged_elbo_and_learns(name: str) -> None:
    shape, outputs, likelihood, _ = PROGRAMS[name]
    source = program(name)
    torch.manual_seed(0)
    network = NoisyNetwork(source.network(shape, outputs), batch(name, 2)[0])
    model = SupervisedModel(network, likelihood, 20_000)
    guide = AutoTruncatedLogNormal(model, init_log_scale=-5.0)
    x, y = batch(name, 40)
    elbo, options = TraceMeanField_ELBO(), {"net": network, "num_data": 20_000}
    pyro.set_rng_seed(0)
    written = [elbo.loss(source.model, source.guide, x, y, **options) for _ in range(8)]
    packaged = [elbo.loss(model, guide, x, y) for _ in range(8)]
    assert sum(written) == pytest.approx(sum(packaged), rel=0.02)

    pyro.clear_param_store()
    svi = SVI(source.model, source.guide, Adam({"lr": 5e-3}), elbo)
    losses = [svi.step(x, y, **options) for _ in range(60)]
    assert math.fsum(losses[-5:]) < 0.8 * math.fsum(losses[:5])
    found = posteriors(source.guide, x, y, **options)
    assert {q: p.batch_shape for q, p in found.items()} == {s.name: (s.size,) for s in network.structures}
