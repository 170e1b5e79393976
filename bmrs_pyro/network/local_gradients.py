"""Which channels of one tensor have gone into which channels of another, read from gradients.

Gradients are taken between a tensor and the nearest layers before it only, so that a look is cheap. Nothing is
said about operations: whatever autograd knows is followed, reshapes, splits, products and gathers alike.
"""

from __future__ import annotations

__all__ = ["Source", "channel_pairs", "sources_of", "supports", "touched"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_LEAST = 1e-6  # share of the largest gradient, below which one is taken for rounding
_PRIME = 251


@dataclass(eq=False)
class Source:
    """A tensor that gradients are taken of: what a layer has put out, or a bare parameter.

    Attributes:
        tensor: the leaf of the graph.
        name: of the layer, or of the parameter.
        dim: its channel dimension; None for a parameter, whose is not known beforehand.
        labels: of its channels, −1 for none.
    """

    tensor: Tensor
    name: str
    dim: int | None = None
    labels: tuple[int, ...] = ()


def sources_of(x: Tensor, known: Mapping[int, Source]) -> tuple[list[Source], list[Any]]:
    """Walk back from a tensor to the sources it was computed from; return them and the graph's nodes, nearest first."""
    found: dict[int, Source] = {}
    if x.grad_fn is None:
        return [known[id(x)]] if id(x) in known else [], []
    nodes: list[Any] = [x.grad_fn]
    seen = {x.grad_fn}
    for node in nodes:
        variable = getattr(node, "variable", None)
        if variable is not None and id(variable) in known:
            found[id(variable)] = known[id(variable)]
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                nodes.append(following)
    return list(found.values()), nodes


def channel_pairs(x: Tensor, dim: int, sources: Sequence[Source]) -> list[Tensor | None]:
    """Tell which channel of x each element of the sources has gone into.

    With the numbers c = 251 a + b of x's channels, the gradients of Σ r x, Σ r a x, Σ r b x and Σ r h(c) x, r random
    and h a hash, stand in the ratios a, b and h(c) for an element that has gone into channel c alone.

    Returns:
        For each source a tensor of its shape, c or −1 where nothing has been read; None if an element has gone into
        several channels.
    """
    n = x.shape[dim]
    shape = [1] * x.dim()
    shape[dim] = n
    place = torch.arange(n, device=x.device)
    generator = torch.Generator().manual_seed(n)
    check = torch.randint(1, _PRIME, (n,), generator=generator).to(place)
    codes = (torch.ones_like(place), place // _PRIME, place % _PRIME, check)
    weights = torch.empty(x.shape).uniform_(0.5, 1.5, generator=generator).to(x)
    moments = [_gradients(x, weights * code.view(shape), sources) for code in codes]
    pairs: list[Tensor | None] = []
    for source, total, high, low, mixed in zip(sources, *moments, strict=True):
        if total is None or high is None or low is None or mixed is None:
            pairs.append(torch.full(source.tensor.shape, -1))
            continue
        largest = torch.stack([one.abs() for one in (total, high, low, mixed)]).amax(0)
        read = largest > _LEAST * float(largest.max() or 1)
        ratios = [torch.where(read, one / total, 0) for one in (high, low, mixed)]
        whole = [ratio.nan_to_num(0.5, 0.5, 0.5).round().long() for ratio in ratios]
        channel = (whole[0] * _PRIME + whole[1]).clamp(0, n - 1)
        exact = torch.stack([(r - w).abs() < 0.02 for r, w in zip(ratios, whole, strict=True)]).all(0)
        exact &= (check[channel] == whole[2]) & (channel == whole[0] * _PRIME + whole[1])
        pairs.append(channel.where(read, -1) if bool((exact | ~read).all()) else None)
    return pairs


def supports(
    x: Tensor, dim: int, sources: Sequence[Source], channels: Sequence[int]
) -> list[list[Tensor | None]]:
    """Tell, for some channels of x, which elements of each source have gone into them; None for no element."""
    weights = torch.empty(x.shape).uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(0)).to(x)
    found = []
    for channel in channels:
        one = torch.zeros_like(x)
        one.select(dim, channel).copy_(weights.select(dim, channel))
        found.append([None if g is None else g != 0 for g in _gradients(x, one, sources)])
    return found


def touched(source: Source, support: Tensor) -> list[int]:
    """Return the channels of a source that some elements lie in."""
    assert source.dim is not None
    whole: list[int] = (
        support.movedim(source.dim, 0)
        .reshape(support.shape[source.dim], -1)
        .any(1)
        .nonzero()
        .flatten()
        .tolist()
    )
    return whole


def _gradients(x: Tensor, weights: Tensor, sources: Sequence[Source]) -> tuple[Tensor | None, ...]:
    return torch.autograd.grad(
        x, [source.tensor for source in sources], weights, retain_graph=True, allow_unused=True
    )
