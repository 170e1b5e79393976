"""The Pyro programs of models/: a bare SVI loop, posterior queries and pruning from the parameter store."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from types import ModuleType

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, TraceMeanField_ELBO
from pyro.optim import Adam
from torch import Tensor

from bmrs_pyro import (
    AutoTruncatedLogNormal,
    LogUniform,
    NoisyNetwork,
    SupervisedModel,
    bmrs_n,
    compact,
    posteriors,
    select,
)
from bmrs_pyro.data import Batches, load

MODELS = Path(__file__).parent.parent / "models"
NAMES = ["lenet5", "mlp"]
# few data, so that the KL has a say within seconds; the deep narrow network bears less of it
NUM_DATA = {"lenet5": 115, "mlp": 575}


def program(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, MODELS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def noisy(source: ModuleType, shape: tuple[int, ...] = (1, 32, 32)) -> NoisyNetwork:
    return NoisyNetwork(source.network(shape, 10), torch.zeros(1, *shape))


@pytest.mark.parametrize("name", NAMES)
def test_bare_svi_loop_then_query_and_prune_from_the_parameter_store(name: str, tmp_path: Path) -> None:
    source = program(name)
    train, _, test = load("digits", size=32)
    batches = Batches(train, 64)
    net = noisy(source)
    optim = Adam(lambda parameter: {"lr": 0.05 if "theta" in parameter else 2e-3})
    svi = SVI(source.model, source.guide, optim, TraceMeanField_ELBO())
    for epoch in range(12):
        batches.set_epoch(epoch)
        for x, y in batches:
            svi.step(x, y, net=net, num_data=NUM_DATA[name])

    found = posteriors(source.guide, x, net=net, num_data=1)
    assert {q: p.batch_shape for q, p in found.items()} == {s.name: (s.size,) for s in net.structures}
    for key, posterior in found.items():
        torch.testing.assert_close(posterior.loc, pyro.param(f"{key}.loc").detach())
        torch.testing.assert_close(posterior.scale, pyro.param(f"{key}.scale").detach())

    pyro.get_param_store().save(str(tmp_path / "store.pt"))
    pyro.clear_param_store()
    pyro.get_param_store().load(str(tmp_path / "store.pt"))
    again = posteriors(source.guide, x, net=net, num_data=1)
    assert all(torch.equal(again[key].loc, posterior.loc) for key, posterior in found.items())

    keep = select(again, LogUniform(source.LOW, source.HIGH), bmrs_n())
    small = compact(net, keep, {key: posterior.mean for key, posterior in again.items()})
    assert keep.removed > 0
    images, labels = next(iter(Batches(test, len(test), shuffle=False)))
    assert (small(images).argmax(-1) == labels).float().mean() > 0.85


def shared_draws(source: ModuleType) -> str:
    return "example" if source.__name__ == "lenet5" else "batch"


@pytest.mark.parametrize("name", NAMES)
def test_packaged_program_has_the_same_elbo(name: str) -> None:
    source = program(name)
    net = noisy(source)
    model = SupervisedModel(net, lambda z: dist.Categorical(logits=z), 1000, draws=shared_draws(source))
    guide = AutoTruncatedLogNormal(model, init_loc=-1.0, init_log_scale=0.0)
    x, y = torch.randn(16, 1, 32, 32), torch.randint(10, (16,))
    source.guide(x, net=net, num_data=1000)  # makes its parameters
    for structure in net.structures:
        pyro.param(f"{structure.name}.loc").data.fill_(-1.0)
        pyro.get_param_store()[f"{structure.name}.scale"] = torch.ones(structure.size)

    def losses(one: object, other: object, **options: object) -> Tensor:
        return torch.tensor(
            [TraceMeanField_ELBO().loss(one, other, x, y, **options) for _ in range(200)], dtype=torch.float64
        )

    packaged, written = losses(model, guide), losses(source.model, source.guide, net=net, num_data=1000)
    error = math.hypot(packaged.std().item(), written.std().item()) / math.sqrt(200)
    assert abs(packaged.mean() - written.mean()) < 4 * error


def test_a_hierarchical_model_learns_rates_and_scales_of_its_layers() -> None:
    """Scalar sites beside the gains; evidence and the layer's rate of inclusion decide together."""
    source = program("hierarchical")
    pyro.set_rng_seed(0)
    net = noisy(source, (1, 8, 8))
    x, y = torch.randn(32, 1, 8, 8), torch.randint(10, (32,))
    svi = SVI(source.model, source.guide, Adam({"lr": 0.05}), TraceMeanField_ELBO())
    losses = [svi.step(x, y, net=net, num_data=32) for _ in range(60)]
    assert sum(losses[-10:]) < sum(losses[:10])
    found = posteriors(source.guide, x, y, net=net, num_data=32)
    assert {name: q.batch_shape for name, q in found.items()} == {"theta.1": (100,), "theta.3": (50,)}
    # of one layer five neurons are still needed, the other one is as it began
    with torch.no_grad():
        needed = torch.arange(100) < 5
        pyro.param("theta.1.loc").data.copy_(torch.where(needed, 0.0, -10.0))
        pyro.get_param_store()["theta.1.spread"] = torch.where(needed, 0.01, 100.0)
        pyro.get_param_store()["theta.1.rate.counts"] = torch.tensor([1.0, 200.0])
        pyro.param("theta.3.loc").data.zero_()
        pyro.get_param_store()["theta.3.spread"] = torch.full((50,), 0.01)
    keep = source.prune(net)
    assert {name: int(mask.sum()) for name, mask in keep.items()} == {"theta.1": 5, "theta.3": 50}
    small = compact(net, keep, source.gains(net))
    assert small(x).shape == (32, 10)
