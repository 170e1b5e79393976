"""Training steps side by side: plain PyTorch, the packaged model and guide, and programs written by hand."""

from __future__ import annotations

__all__ = ["by_hand_step", "interleaved", "peak_step_bytes", "plain_step", "svi_step"]

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

import pyro
import torch
from pyro.infer import SVI
from pyro.optim import PyroOptim
from torch import Tensor, nn

from bmrs_pyro.inference import AutoTruncatedLogNormal, MeanFieldELBO, SmoothedLikelihood, SupervisedModel
from bmrs_pyro.inference.draws import Draws
from bmrs_pyro.metrics import peak_of
from bmrs_pyro.network import NoisyNetwork
from bmrs_pyro.training import (
    CudaRecorder,
    JointOptim,
    StepGraph,
    compile_network_,
    compile_steps_,
    remove_structures_,
)

Step = Callable[[], object]
Compiled = Literal["nothing", "draw", "all"]

NUM_DATA = 60_000
ADAM: dict[str, Any] = {"lr": 1e-3, "fused": True}


def plain_step(
    net: nn.Module, x: Tensor, y: Tensor, *, compiled: bool = False, bfloat16: bool = False
) -> Step:
    """Return a step of cross-entropy by fused Adam, the baseline of every other step."""
    optimizer = torch.optim.Adam(net.parameters(), **ADAM)
    forward = torch.compile(net) if compiled else net

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(x.device.type, torch.bfloat16, enabled=bfloat16):
            outputs = forward(x)
        nn.functional.cross_entropy(outputs.float() if bfloat16 else outputs, y).backward()
        optimizer.step()

    return step


def svi_step(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    draws: Draws = "auto",
    keep: float = 1.0,
    compiled: Compiled = "nothing",
    recorded: bool = False,
    bfloat16: bool = False,
) -> Step:
    """Return a step of SVI by SupervisedModel, AutoTruncatedLogNormal and JointOptim.

    Args:
        net: the network.
        x: a batch of inputs.
        y: their labels.
        draws: as of :class:`SupervisedModel`.
        keep: share of every family that is left, as after pruning.
        compiled: what torch.compile compiles: ``"nothing"``, ``"draw"`` (with the KL), or ``"all"``, the network too.
        recorded: whether steps are replayed from CUDA graphs.
        bfloat16: mixed precision.
    """
    network = NoisyNetwork(net, x[:1])
    model = SupervisedModel(network, SmoothedLikelihood(), NUM_DATA, draws=draws, mixed_precision=bfloat16)
    model.register_weights = False
    guide = AutoTruncatedLogNormal(model)
    if keep < 1:
        masks = {s.name: torch.arange(s.size) < max(1, round(keep * s.size)) for s in model.structures}
        remove_structures_(model, guide, masks)
    if compiled != "nothing":
        compile_steps_(guide)
    if compiled == "all":
        compile_network_(model, recorded=recorded)
    svi = SVI(model, guide, JointOptim(torch.optim.Adam, ADAM, network=network), MeanFieldELBO())
    step = StepGraph(svi, CudaRecorder(x.device)).step if recorded else svi.step
    return lambda: step(x, y)


def by_hand_step(
    program: Any,
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    optim: PyroOptim | None = None,
    elbo: Any = None,
) -> Step:
    """Return a step of a program's own ``model`` and ``guide``, by default with JointOptim and MeanFieldELBO."""
    network = NoisyNetwork(net, x[:1])
    optim = JointOptim(torch.optim.Adam, ADAM, network=network) if optim is None else optim
    svi = SVI(program.model, program.guide, optim, MeanFieldELBO() if elbo is None else elbo)
    return lambda: svi.step(x, y, net=network, num_data=NUM_DATA)


def interleaved(steps: Mapping[str, Step], *, rounds: int, block: int = 20) -> dict[str, float]:
    """Return the median seconds of each step; they take turns in blocks, each in a parameter store of its own.

    A first round warms up and is not counted. Pyro's validation is off, as in all but the first step of an epoch.
    """
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    stores: dict[str, Any] = {}
    with pyro.validation_enabled(False):
        for turn in range(1 + rounds):
            for name, step in steps.items():
                with pyro.get_param_store().scope(stores.get(name)) as stores[name]:
                    start = time.perf_counter()
                    for _ in range(block):
                        step()
                    if torch.cuda.is_initialized():
                        torch.cuda.synchronize()
                    if turn:
                        seconds[name].append((time.perf_counter() - start) / block)
    return {name: statistics.median(values) for name, values in seconds.items()}


def peak_step_bytes(step: Step) -> int:
    """Return the peak of the memory that a step allocates, after a first step has made the optimiser's state."""
    with pyro.get_param_store().scope(), pyro.validation_enabled(False):
        step()
        if not torch.cuda.is_initialized():
            return peak_of(step)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
