"""Attention heads, found where attention is computed."""

from __future__ import annotations

__all__ = [
    "SOFTMAX",
    "AttentionArguments",
    "AttentionCall",
    "arguments_of_attention",
    "heads_of",
    "is_attention",
    "lively_attention",
    "nowhere_flat",
]

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

_PRODUCTS = {
    torch.matmul,
    torch.bmm,
    torch.einsum,
    Tensor.matmul,
    Tensor.__matmul__,
    Tensor.bmm,
}
SOFTMAX = {functional.softmax, torch.softmax, Tensor.softmax}
_NEAR = 30  # operations between the softmax and the product with the values: dropout, casts, reshapes


@dataclass(frozen=True)
class AttentionCall:
    """An attention operation; or a recurrent layer, whose hidden units stand for heads of one channel.

    Attributes:
        modules: names of the modules in whose forward passes it was called, the innermost last.
        labels: labels of the heads; heads that share keys and values are in one set.
        width: channels per head.
    """

    modules: tuple[str, ...]
    labels: tuple[int, ...]
    width: int


class AttentionArguments(NamedTuple):
    """Queries, keys and values ``(B, H, N, D)``, and whether q kᵀ is divided by the root of D."""

    query: Tensor
    key: Tensor
    value: Tensor
    by_root: bool


def arguments_of_attention(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> AttentionArguments | None:
    """Return what attention was called with; None for other calls, and unless heads have more channels than H."""
    if func is not functional.scaled_dot_product_attention:
        return None
    given = [kwargs.get(name) for name in ("query", "key", "value")]
    given[: len(args[:3])] = args[:3]
    scale = args[6] if len(args) > 6 else kwargs.get("scale")
    query, key, value = (one if isinstance(one, Tensor) and one.dim() == 4 else None for one in given)
    if query is None or key is None or value is None or query.shape[-3] >= query.shape[-1]:
        return None
    return (
        AttentionArguments(query, key, value, scale is None) if value.shape[-1] == query.shape[-1] else None
    )


def is_attention(func: Callable[..., Any], args: tuple[Any, ...]) -> bool:
    """Whether a call is attention, or the last step of it: the product of a softmax with the values."""
    if func is functional.scaled_dot_product_attention:
        return True
    return func in _PRODUCTS and any(_softmax(arg) is not None for arg in _tensors(args))


def heads_of(args: tuple[Any, ...], out: Tensor, batch: int) -> tuple[int, Tensor] | None:
    """Return the head dimension of attention's output, and the output with that dimension; None without heads.

    The heads are the third dimension from the end of queries, keys and values. If there are only three dimensions, the
    first one holds the batch and the heads.
    """
    if out.dim() == 3:
        return (1, out.unflatten(0, (batch, -1))) if out.shape[0] % batch == 0 else None
    if out.dim() < 3:
        return None
    softmax = next(filter(None, map(_softmax, _tensors(args))), None)
    heads = (softmax or out.shape)[-3]
    dims = [dim for dim in range(out.dim() - 1) if out.shape[dim] == heads]
    dim = out.dim() - 3
    return (dim if dim in dims else dims[-1], out) if dims else None


def lively_attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *_: Any, **options: Any
) -> Tensor:
    """Replace attention in a trace, so that the gradients of queries and keys do not vanish for a single token."""
    if options.get("enable_gqa"):
        key, value = (one.repeat_interleave(query.shape[-3] // one.shape[-3], -3) for one in (key, value))
    scores = query @ key.transpose(-1, -2)
    if attn_mask is not None and attn_mask.is_floating_point():
        scores = scores + attn_mask
    return nowhere_flat(scores) @ value


def nowhere_flat(x: Tensor) -> Tensor:
    """Return 1/2 + arctan(x)/π, which grows from 0 to 1 like a sigmoid.

    The gradient of a sigmoid is 0 in float32 from 17 on. The product of a query and a key of 64 channels is larger.
    """
    return 0.5 + x.clone().arctan() / math.pi  # the network may change x in place afterwards


def _tensors(args: tuple[Any, ...]) -> Iterator[Tensor]:
    for arg in args:
        yield from (
            one for one in (arg if isinstance(arg, (tuple, list)) else [arg]) if isinstance(one, Tensor)
        )


def _softmax(x: Tensor) -> torch.Size | None:
    """Return the shape of the softmax that a tensor was computed from, at most a few operations earlier."""
    nodes = [x.grad_fn] if x.grad_fn is not None else []
    for node in nodes:
        if node.name() == "SoftmaxBackward0":
            return node._saved_result.shape  # type: ignore[attr-defined]
        if len(nodes) < _NEAR:
            nodes += [following for following, _ in node.next_functions if following is not None]
    return None
