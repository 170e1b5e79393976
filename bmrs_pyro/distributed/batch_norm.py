"""Batch norm over the batch that several processes hold together."""

from __future__ import annotations

__all__ = ["global_batch_norm"]

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import SyncBatchNorm, _BatchNorm

from bmrs_pyro.distributed.global_batch import GlobalBatch
from bmrs_pyro.distributed.process_group import all_reduce_sum_


@contextmanager
def global_batch_norm(net: nn.Module, batch: GlobalBatch | None) -> Iterator[None]:
    """Let every batch norm in training mode normalise by mean and variance over the rows of all processes.

    Several processes then train the same network as a single process would. Every layer exchanges two sums per pass.
    torch's SyncBatchNorm, which a network may use instead, runs on GPUs only.

    Args:
        net: the network.
        batch: the batch of all processes; None, for a single process, changes nothing.
    """
    if batch is None:
        yield
        return
    norms = [
        module
        for module in net.modules()
        if isinstance(module, _BatchNorm) and not isinstance(module, SyncBatchNorm)
    ]
    try:
        for norm in norms:
            norm.forward = partial(_normalise, norm, batch)  # type: ignore[method-assign]
        yield
    finally:
        for norm in norms:
            del norm.forward


def _normalise(norm: Any, batch: GlobalBatch, x: Tensor) -> Tensor:
    if not norm.training:
        return type(norm).forward(norm, x)
    norm._check_input_dim(x)
    values = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    axes = [0, *range(2, x.ndim)]
    channel = (1, -1, *[1] * (x.ndim - 2))
    own = min(batch.count, 1)  # the placeholder row of an empty batch does not count
    rows = values.new_tensor([own * x.numel() / x.shape[1]])
    total = _Pooled.apply(torch.cat([own * values.sum(axes), rows]), batch)
    number = total[-1].detach()
    if number <= 1:
        raise ValueError(
            f"batch norm needs more than one value per channel, the whole batch has {int(number)}"
        )
    mean = total[:-1] / number
    # Σ (x − mean) is 0, so the variance's gradient is exact although the mean is detached
    deviation = values - mean.detach().view(channel)
    variance = _Pooled.apply(own * deviation.square().sum(axes), batch) / number
    if norm.track_running_stats:
        _update(norm, mean.detach(), variance.detach() * (number / (number - 1)))
    result = (values - mean.view(channel)) * (variance + norm.eps).rsqrt().view(channel)
    if norm.affine:
        result = result * norm.weight.view(channel) + norm.bias.view(channel)
    return result.to(x.dtype)


def _update(norm: Any, mean: Tensor, variance: Tensor) -> None:
    norm.num_batches_tracked.add_(1)
    share = 1 / int(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), share)
    norm.running_var.lerp_(variance.to(norm.running_var.dtype), share)


class _Pooled(torch.autograd.Function):
    """Sum over the processes; the total loss is the sum of the processes' losses times their weights."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, batch: GlobalBatch) -> Tensor:
        ctx.weight = batch.weight
        return all_reduce_sum_(own.clone())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        # average_gradients_ later multiplies this process's gradients by its weight, which is divided out here
        grad = all_reduce_sum_(grad * ctx.weight)
        return (grad / ctx.weight if ctx.weight else torch.zeros_like(grad)), None
