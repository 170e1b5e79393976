"""How long networks take for one batch, measured side by side."""

from __future__ import annotations

__all__ = ["latency"]

import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch

from bmrs_pyro.inference.inputs import outputs_of
from bmrs_pyro.metrics.evaluation import evaluation_mode
from bmrs_pyro.network.nested import tensors_in

_BLOCK = 10  # calls in a row, so that most calls find their own weights in the cache


def latency(nets: Mapping[str, Callable[..., Any]], x: Any, *, repeats: int = 20) -> dict[str, float]:
    """Return the median seconds that each network takes for ``x``, in evaluation mode and without gradients.

    The networks take turns in blocks of ten calls, so a slow phase of the machine affects all of them. The first
    round is a warm-up and is not counted.

    Args:
        nets: what to measure, by name.
        x: one batch of inputs, on the device of the networks.
        repeats: rounds of blocks, at least 1.

    Raises:
        ValueError: fewer than one round.
        TypeError: ``nets`` is no mapping.
    """
    if repeats < 1:
        raise ValueError(f"repeats is {repeats}; it must be at least 1")
    if not isinstance(nets, Mapping):
        raise TypeError(
            f"nets is a {type(nets).__name__}; give networks by name, such as {{'dense': net, 'small': small}}"
        )
    seconds: dict[str, list[float]] = {}
    with ExitStack() as stack:
        for net in nets.values():
            stack.enter_context(evaluation_mode(net))
        for _ in range(1 + repeats):
            for name, net in nets.items():
                seconds.setdefault(name, []).extend(_seconds(net, x) for _ in range(_BLOCK))
    return {name: statistics.median(values[_BLOCK:]) for name, values in seconds.items()}


def _seconds(net: Callable[..., Any], x: Any) -> float:
    device = tensors_in(x)[0].device
    start = time.perf_counter()
    outputs_of(net, x)
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter() - start
