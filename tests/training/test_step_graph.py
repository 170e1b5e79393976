"""Recorded steps: the same numbers as usual ones, and nothing in them that cannot be recorded."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pyro
import pytest
import torch
from pyro.infer import SVI
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensor, FakeTensorMode

from bmrs_pyro import AutoTruncatedLogNormal, JointOptim, SignalToNoise, SupervisedModel, fit
from bmrs_pyro.distributions.joint_draw import EAGER
from bmrs_pyro.inference import MeanFieldELBO, NonFiniteLoss
from bmrs_pyro.inference.elbo import negative_sum
from bmrs_pyro.training.step_graph import StepGraph
from tests.inference.programs import batches, mlp, program

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


class Repeated:
    """Does the work again where a GPU would replay its kernels; like a GPU it does nothing while it records."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    def aside(self) -> AbstractContextManager[object]:
        return nullcontext()

    def record(self, work: Callable[[], object]) -> Callable[[], object]:
        self.recorded += 1

        def replay() -> None:
            self.replayed += 1
            work()

        return replay


def steps(recorder: Repeated | None, data: list[tuple[Any, Tensor]]) -> tuple[list[float], list[Tensor]]:
    """Losses and parameters after steps over the data."""
    pyro.clear_param_store()
    pyro.set_rng_seed(3)
    model, guide = program(mlp())
    model.register_weights = False
    svi = SVI(model, guide, adam(model), MeanFieldELBO())
    step = svi.step if recorder is None else StepGraph(svi, recorder).step
    with pyro.validation_enabled(False):
        losses = [float(step(x, y)) for x, y in data]
    return losses, [p.detach().clone() for p in (*model.parameters(), *guide.parameters())]


def adam(model: SupervisedModel, **options: object) -> JointOptim:
    return JointOptim(torch.optim.Adam, {"lr": 1e-2, "fused": True, **options}, network=model.network)


def test_recorded_steps_are_the_usual_ones() -> None:
    """Bit for bit: no posterior is so steep that the two ways to draw would round differently."""
    data = batches(size=64)  # the last one is shorter
    assert len(data[-1][1]) < 64
    expected, parameters = steps(None, data)
    recorder = Repeated()
    losses, ours = steps(recorder, data)
    assert losses == expected
    assert all(torch.equal(a, b) for a, b in zip(ours, parameters, strict=True))
    assert recorder.recorded == 2
    assert recorder.replayed == 2 * (len(data) - 3 - 1)  # three before, and the short one


def test_recorded_steps_take_named_inputs() -> None:
    data = batches(size=64)
    expected, _ = steps(None, data)
    recorder = Repeated()
    losses, _ = steps(recorder, [({"input": x}, y) for x, y in data])
    assert losses == expected
    assert recorder.replayed == 2 * (len(data) - 3 - 1)


def test_a_loss_that_is_not_finite_touches_no_weight() -> None:
    data = batches(size=32)[:6]
    spoiled = data[-1][0].clone()
    spoiled[3, 1] = math.nan
    _, before = steps(Repeated(), data[:-1])
    pyro.clear_param_store()
    pyro.set_rng_seed(3)
    model, guide = program(mlp())
    model.register_weights = False
    graph = StepGraph(SVI(model, guide, adam(model), MeanFieldELBO()), Repeated())
    with pyro.validation_enabled(False):
        for x, y in data[:-1]:
            graph.step(x, y)
        with pytest.raises(NonFiniteLoss, match="the data"):
            graph.step(spoiled, data[-1][1])
    after = [*model.parameters(), *guide.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))


@contextmanager
def imagined(model: SupervisedModel, guide: AutoTruncatedLogNormal, device: str) -> Iterator[None]:
    """Put model and guide on a device that is only imagined: operations that would need a number raise."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)

    def fake(real: Tensor) -> Tensor:
        return FakeTensor(mode, torch.empty_like(real.detach(), device="meta"), torch.device(device))

    with pyro.validation_enabled(False):
        scales = guide._kl_scales(guide.loc)  # what earlier steps of a run have made
        pyro.clear_param_store()
        for module in (*model.modules(), *guide.modules()):
            for name, value in module._parameters.items():
                if value is not None:
                    module._parameters[name] = nn.Parameter(fake(value))
        assert guide._scales is not None
        guide._scales = guide._scales[0], fake(scales)
        with mode:
            yield


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_nothing_in_a_recorded_step_looks_at_numbers_or_leaves_the_device(device: str) -> None:
    pyro.set_rng_seed(0)
    model, guide = program(mlp())
    model.register_weights = False
    model.draw_shape(torch.randn(8, 5))  # the steps before look at the network's rows
    with imagined(model, guide, device):
        x, y = torch.randn(8, 5, device=device), torch.zeros(8, dtype=torch.long, device=device)
        with pytest.raises(DataDependentOutputException):
            MeanFieldELBO.terms(model, guide, x, y)
        guide.kernels = EAGER.branch_free()
        loss = negative_sum(MeanFieldELBO.terms(model, guide, x, y))
        assert loss.device == torch.device(device)
        assert all(gain.device == torch.device(device) for gain in guide(x).values())
        assert model(x).device == torch.device(device)  # from the prior
        if device == "cpu":  # the backward pass asks the driver for an imagined GPU too
            loss.backward()
            assert all(p.grad is not None for p in (*model.parameters(), *guide.parameters()))
    pyro.clear_param_store()


def test_what_cannot_be_recorded_is_refused() -> None:
    model, guide = program(mlp())
    with pytest.raises(ValueError, match="need a GPU, and the network is on 'cpu'"):
        fit(model, guide, batches(), epochs=1, cuda_graphs=True, progress=False, criterion=None)
    with pytest.raises(ValueError, match=r"Adam cannot be recorded.*fused=True or capturable=True"):
        adam(model, fused=False).capturable_()


@gpu
def test_a_gpu_trains_the_same_model_by_graphs() -> None:
    found = []
    for graphs in (False, True):
        pyro.set_rng_seed(0)
        model, guide = program(mlp())
        fit(
            model, guide, batches(), epochs=3, fine_tune_epochs=1, criterion=SignalToNoise(), device="cuda",
            cuda_graphs=graphs, progress=False,
        )  # fmt: skip
        found.append([p.detach().cpu() for p in (*model.parameters(), *guide.parameters())])
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-4)
