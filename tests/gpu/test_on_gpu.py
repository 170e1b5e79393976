"""The parts together on a real GPU; skipped where there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import bmrs_pyro as bp
from bmrs_pyro.distributions import TruncatedLogNormal
from bmrs_pyro.inference import MeanFieldELBO, SmoothedLikelihood
from bmrs_pyro.reduction import score_structures
from bmrs_pyro.training import CudaRecorder, JointOptim, StepGraph

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
GPU, CPU = torch.device("cuda", 0), torch.device("cpu")


def batches(count: int = 512) -> DataLoader[Any]:
    """Return labels that follow from two of twenty numbers, on the CPU."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 20, generator=generator)
    return DataLoader(TensorDataset(x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long()), 64)


def network(device: torch.device = GPU) -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3)
    return nn.Sequential(*layers).to(device)


def model_on(device: torch.device = GPU) -> bp.SupervisedModel:
    noisy = bp.NoisyNetwork(network(device), torch.zeros(1, 20, device=device))
    return bp.SupervisedModel(noisy, SmoothedLikelihood(), 512)


@pytest.mark.parametrize("options", [{"dense_epochs": 2, "epochs": 4}, {"trained": True, "epochs": 2}])
def test_a_network_is_pruned_where_it_is(tmp_path: Path, options: dict[str, Any]) -> None:
    result = bp.prune(
        network(), batches(), validation=batches(256), max_macs="40%", progress=False, **options
    )
    assert next(result.network.parameters()).device == GPU
    assert result.point.macs <= 0.4 * result.path.dense.macs
    result.save(tmp_path)
    result.report(tmp_path / "report.html")
    loaded = bp.load(tmp_path, network(CPU))
    x = next(iter(batches()))[0]
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), result.network(x.to(GPU)).cpu(), rtol=1e-4, atol=1e-4)


def test_posteriors_by_laplace_agree_with_those_of_the_cpu() -> None:
    on_gpu, on_cpu = (
        bp.AutoTruncatedLogNormal.from_laplace(model_on(where), batches()) for where in (GPU, CPU)
    )
    for name, q in on_gpu.posteriors().items():
        torch.testing.assert_close(q.scale.cpu(), on_cpu.posteriors()[name].scale, rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO, MeanFieldELBO])
def test_every_elbo_makes_steps(elbo: type) -> None:
    pyro.clear_param_store()
    model = model_on()
    guide = bp.AutoTruncatedLogNormal(model)
    svi = SVI(model, guide, JointOptim(torch.optim.Adam, {"lr": 1e-3}, network=model.network), elbo())
    x, y = (value.to(GPU) for value in next(iter(batches())))
    losses = [svi.step(x, y) for _ in range(30)]
    assert losses[-1] < losses[0]


def test_recorded_steps_have_the_losses_of_usual_ones() -> None:
    """Draws differ, so losses agree on average: within 2 % after 60 steps."""
    means = []
    for recorded in (False, True):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        model = model_on()
        model.register_weights = False
        guide = bp.AutoTruncatedLogNormal(model)
        optim = JointOptim(torch.optim.Adam, {"lr": 1e-3, "fused": True}, network=model.network)
        svi = SVI(model, guide, optim, MeanFieldELBO())
        step = StepGraph(svi, CudaRecorder(GPU)).step if recorded else svi.step
        x, y = (value.to(GPU) for value in next(iter(batches())))
        with pyro.validation_enabled(False):
            losses = [float(step(x, y)) for _ in range(80)]
        means.append(sum(losses[-20:]) / 20)
    assert means[1] == pytest.approx(means[0], rel=0.02)


def test_queries_of_a_posterior_take_numbers_from_the_cpu() -> None:
    q = TruncatedLogNormal(torch.zeros(3, device=GPU), torch.ones(3, device=GPU))
    for value in (q.icdf(torch.tensor(0.5)), q.cdf(torch.tensor(0.1)), q.rsample(), q.entropy(), q.mean):
        assert value.device == GPU
        assert value.isfinite().all()


def test_scores_are_those_of_the_cpu() -> None:
    loc, scale = (
        torch.linspace(-15, 0, 50, dtype=torch.float64),
        torch.linspace(0.01, 3, 50, dtype=torch.float64),
    )
    prior = model_on(CPU).prior
    for criterion in (bp.bmrs_n(), bp.bmrs_u(8)):
        on_gpu, on_cpu = (
            score_structures({"a": TruncatedLogNormal(loc.to(where), scale.to(where))}, prior, criterion)["a"]
            for where in (GPU, CPU)
        )
        torch.testing.assert_close(on_gpu.cpu(), on_cpu, rtol=1e-8, atol=1e-8)
