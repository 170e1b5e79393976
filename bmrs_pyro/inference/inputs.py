"""Batches of a loader: inputs and labels, their device, and the call of a network."""

from __future__ import annotations

__all__ = [
    "count_batches",
    "gaps",
    "inputs_on",
    "is_finite",
    "labelled",
    "not_running",
    "on_device_of",
    "one_pass",
    "outputs_of",
    "pairs",
    "refuse_generator",
    "refuse_meta",
    "refuse_untrainable",
]

import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from operator import length_hint
from typing import Any

import torch
from torch import nn
from torch.utils.data import TensorDataset

from bmrs_pyro.network import NoisyNetwork
from bmrs_pyro.network.inputs import Call
from bmrs_pyro.network.nested import map_leaves, tensors_in

MOST_BATCHES = 1_000_000
"""A pass over a loader without a length that has more batches than this is taken as endless."""

PATIENCE = 10.0
"""Seconds after which a pass over a loader without a length is told of."""

_LABELS = "labels"
_WRAP = (
    "wrap the data set in a loader, such as torch.utils.data.DataLoader(data, batch_size=64, shuffle=True)"
)


def pairs(batches: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    """Yield inputs and labels of every batch, which is a pair ``(x, y)`` or a dict with y under ``"labels"``.

    A list, as torch's loader makes of several inputs, becomes a tuple.

    Raises:
        ValueError: a batch is neither, or is on the meta device.
        TypeError: y is no tensor, or the label of a single example.
    """
    for batch in batches:
        if any(tensor.is_meta for tensor in tensors_in(batch)):
            raise ValueError("a batch is on the meta device, without numbers; give tensors of a real device")
        if isinstance(batch, Mapping) and _LABELS in batch:
            yield {name: value for name, value in batch.items() if name != _LABELS}, _tensor(batch[_LABELS])
            continue
        try:
            if isinstance(batch, Mapping):
                raise ValueError(f"has {list(batch)}")
            if isinstance(batch, torch.Tensor):
                raise ValueError(
                    "one tensor; give DataLoader(TensorDataset(x, y), batch_size=64), not x and y"
                )
            if isinstance(batch, list | tuple) and len(batch) > 2:
                raise ValueError("too many values; give several inputs as one tuple, ((a, b), y)")
            x, y = batch
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"a batch is a {type(batch).__name__} ({error}); expected (x, y), where x may be a tuple or a dict of "
                f"several inputs, or a dict with {_LABELS!r}"
            ) from error
        yield tuple(x) if isinstance(x, list) else x, _tensor(y)


def labelled(name: str, batches: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    """Yield inputs and labels of every batch as :func:`pairs`; raise TypeError if a batch has None for labels."""
    for x, y in pairs(batches):
        if y is None:
            raise TypeError(f"the labels of a batch of the {name} are None; give batches (x, y)")
        yield x, y


def _tensor(y: Any) -> Any:
    if isinstance(y, int | float) or (isinstance(y, torch.Tensor) and not y.dim()):
        raise TypeError(f"the labels of a batch are {y}, the label of one example; {_WRAP}")
    if y is not None and not hasattr(y, "to"):
        raise TypeError(
            f"the labels of a batch are a {type(y).__name__}; give a tensor, as torch's DataLoader does"
        )
    return y


def refuse_generator(name: str, batches: Iterable[Any]) -> None:
    """Refuse batches that cannot be read several times.

    Raises:
        ValueError: they can be read only once, as those of a generator.
        TypeError: they cannot be read at all, or are a data set of single examples.
    """
    if isinstance(batches, TensorDataset):
        raise TypeError(f"{name} is a TensorDataset, which holds single examples; {_WRAP}")
    if not hasattr(batches, "__iter__") and not hasattr(batches, "__getitem__"):
        raise TypeError(f"{name} is {batches!r}; give a loader, or a list of batches")
    if isinstance(batches, Iterator):
        raise ValueError(
            f"{name} is a {type(batches).__name__}, which can be read only once; give a loader, or a list of batches"
        )


def one_pass(name: str, batches: Iterable[Any]) -> Iterator[Any]:
    """Yield the batches of a pass; warn once if they are read for long, because a loader without end is no error yet.

    Raises:
        ValueError: there are no batches, or too many to have an end.
    """
    count, due = 0, time.monotonic() + PATIENCE
    for count, batch in enumerate(batches, 1):
        if time.monotonic() > due and not length_hint(batches):
            due = math.inf
            warnings.warn(
                f"{name} has no length, so its batches are counted, {count:,} so far: if its passes do not end, stop "
                "this and give a loader whose passes do",
                stacklevel=2,
            )
        if count > MOST_BATCHES:
            raise ValueError(
                f"{name} has no length, and gave {MOST_BATCHES:,} batches without an end; give a loader whose passes "
                "end"
            )
        yield batch
    if not count:
        raise ValueError(
            f"{name} gives no batches; give a loader that can be read several times, and with drop_last a data set of "
            "at least one batch"
        )


def count_batches(name: str, batches: Iterable[Any]) -> int:
    """Return the number of batches in a pass; if the loader does not know its length, they are counted.

    Raises:
        ValueError: there are no batches, or too many to have an end.
    """
    return length_hint(batches) or sum(1 for _ in one_pass(name, batches))


def inputs_on(device: torch.device, x: Any) -> Any:
    """Move a batch's inputs to a device; a list, as torch's loader makes of several inputs, becomes a tuple."""
    moved = map_leaves(lambda leaf: leaf.to(device, non_blocking=True) if hasattr(leaf, "to") else leaf, x)
    return tuple(moved) if isinstance(moved, list) else moved


def is_finite(values: Any) -> bool:
    """Whether the tensors among inputs and labels hold neither NaN nor inf."""
    return all(bool(tensor.isfinite().all()) for tensor in tensors_in(values))


def gaps(name: str) -> str:
    """Say that data with this name hold NaN or inf."""
    return f"the {name} hold NaN or inf; leave these examples out, or fill the gaps"


def not_running(x: Any, error: RuntimeError) -> ValueError:
    """Return the error about a batch that the network does not run on; running out of memory is raised as it is."""
    if isinstance(error, torch.OutOfMemoryError):
        raise error
    kinds = ", ".join(f"{tuple(leaf.shape)} {leaf.dtype}" for leaf in tensors_in(x))
    return ValueError(
        f"the network does not run on a batch of inputs ({kinds}): {' '.join(str(error).split())}"
    )


def on_device_of(net: object, batches: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    """Yield inputs and labels, with the inputs on the device of a network's weights; a function's are not moved."""
    weights = chain(net.parameters(), net.buffers()) if isinstance(net, nn.Module) else iter(())
    like = next(weights, None)
    for x, y in pairs(batches):
        yield (x if like is None else inputs_on(like.device, x)), y


def refuse_meta(name: str, net: nn.Module) -> None:
    """Raise ValueError if weights of a network are on the meta device."""
    if any(tensor.is_meta for tensor in chain(net.parameters(), net.buffers())):
        raise ValueError(f"{name} is on the meta device, without numbers; load its weights on a real one")


def refuse_untrainable(net: nn.Module) -> None:
    """Raise ValueError if a network cannot be trained here: gradients are off, or its weights are float16."""
    if not torch.is_grad_enabled() or torch.is_inference_mode_enabled():
        raise ValueError(
            "gradients are switched off, by torch.no_grad() or torch.inference_mode(); train outside of them"
        )
    if any(weight.dtype == torch.float16 for weight in net.parameters()):
        raise ValueError(
            "the network's weights are float16, in which training overflows; train net.float(), with bfloat16=True for "
            "mixed precision"
        )


def outputs_of(predict: Callable[..., Any], x: Any) -> Any:
    """Return the outputs of a function or of a network, with or without gains, for a batch's inputs."""
    if isinstance(predict, nn.Module):
        several = tuple(x) if isinstance(x, list) else x
        net = predict.net if isinstance(predict, NoisyNetwork) else predict
        call = Call.of(net, several)
        if call.fits(net):
            return call(predict) if net is predict else predict(several)
    return predict(x)
