"""Gradients that are computed once: asking for second derivatives raises instead of giving zeros."""

from __future__ import annotations

__all__ = ["first_order"]

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class _Refused(torch.autograd.Function):
    """A gradient as it is; its own derivative raises."""

    generate_vmap_rule = True

    @staticmethod
    def forward(gradient: Tensor, *inputs: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        raise NotImplementedError(
            "draws, quantiles and the KL of truncated log-normals have no second derivatives with respect to loc and "
            "scale; differentiate once, and use finite differences of the gradient for a Hessian"
        )


def first_order(
    inputs: Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]],
) -> Callable[[Callable[..., tuple[Tensor | None, ...]]], Callable[..., tuple[Tensor | None, ...]]]:
    """Decorate the backward of a function whose gradient is not differentiable.

    torch's ``once_differentiable`` does not raise if the incoming gradient is a constant: second derivatives are then
    computed without this function's part.

    Args:
        inputs: picks those of the saved tensors that gradients are computed for.
    """

    def decorated(
        backward: Callable[..., tuple[Tensor | None, ...]],
    ) -> Callable[..., tuple[Tensor | None, ...]]:
        @functools.wraps(backward)
        def once(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
            with torch.no_grad():
                found = backward(ctx, *gradients)
            if not torch.is_grad_enabled():
                return found
            used = (*inputs(ctx.saved_tensors), *gradients)
            return tuple(None if one is None else _Refused.apply(one, *used) for one in found)

        return once

    return decorated
