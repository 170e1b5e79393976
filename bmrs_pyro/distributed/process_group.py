"""The processes that train one model together; in a single process everything here does nothing.

Numbers and decisions travel through gloo on the CPU, gradients and weights through the backend of their device.
"""

from __future__ import annotations

__all__ = [
    "LostProcess",
    "all_gather_int",
    "all_reduce_sum_",
    "average_gradients_",
    "broadcast_",
    "rank",
    "world_size",
]

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class LostProcess(ConnectionError):
    """Another process of the run no longer answers."""


def world_size() -> int:
    """Return how many processes there are, 1 without torch.distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the rank of this process, from 0; rank 0 decides and writes files."""
    return dist.get_rank() if world_size() > 1 else 0


def all_gather_int(number: int) -> list[int]:
    """Return the numbers that all processes pass, in the order of their ranks.

    Raises:
        LostProcess: a process does not answer.
    """
    if world_size() == 1:
        return [number]
    numbers = torch.zeros(world_size(), dtype=torch.int64)
    numbers[rank()] = number
    return all_reduce_sum_(numbers).tolist()


def broadcast_(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors with the first process's values; every process passes the same tensors in the same order.

    Raises:
        LostProcess: a process does not answer.
    """
    if world_size() == 1:
        return
    with _exchange():
        for tensor in tensors:
            packed = tensor.contiguous()
            dist.broadcast(packed, 0, group=_group(packed))
            tensor.copy_(packed)


def all_reduce_sum_(tensor: Tensor) -> Tensor:
    """Replace a tensor by its sum over all processes, and return it; every process gets the same bits.

    Raises:
        LostProcess: a process does not answer.
    """
    if world_size() > 1:
        with _exchange():
            dist.all_reduce(tensor, group=_group(tensor))
    return tensor


def average_gradients_(parameters: Iterable[Tensor], weight: float) -> None:
    """Replace the gradient of every parameter that requires one by Σ_ranks weight · gradient.

    Args:
        parameters: the same ones in the same order in every process; a missing gradient counts as 0.
        weight: this process's weight; the weights of all processes sum to 1.

    Raises:
        LostProcess: a process does not answer.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in trained:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
    if gradients:
        pooled = all_reduce_sum_(torch.cat([gradient.flatten() for gradient in gradients]).mul_(weight))
        for gradient, part in zip(gradients, pooled.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))


def _group(tensor: Tensor) -> Any:
    return None if tensor.is_cuda else _on_cpu(dist.group.WORLD)


@cache
def _on_cpu(world: Any) -> Any:
    """Return a group for CPU tensors; a group that was made for GPUs alone does not take them."""
    return None if dist.get_backend(world) == "gloo" else dist.new_group(backend="gloo")


@contextmanager
def _exchange() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise LostProcess(
            "lost contact with another process, which has died or was silent for longer than BMRS_TIMEOUT allows "
            f"({reason}); the last checkpoint is complete: start the same command again with --resume"
        ) from None
