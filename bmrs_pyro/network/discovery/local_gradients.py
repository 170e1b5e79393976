"""Which channels of one tensor have gone into which channels of another, found by gradients.

Gradients are taken only between a tensor and the nearest layers before it, which is cheap. No operation needs its own
rule: whatever autograd can differentiate is followed, such as reshapes, splits, products and gathers.
"""

from __future__ import annotations

__all__ = ["Source", "channel_pairs", "repeated_pairs", "sources_of", "supports", "touched"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_LEAST = 1e-6  # a gradient below this share of the largest counts as a rounding error
_FAINT = 1e-3
_PRIME = 251
_FEW = 2048  # channel numbers up to this are exact as ratios of float32 gradients


@dataclass(eq=False)
class Source:
    """A tensor that gradients are taken with respect to: the output of a layer, or a bare parameter.

    Attributes:
        tensor: the leaf of the graph.
        name: name of the layer, or of the parameter.
        dim: its channel dimension; None for a parameter, whose channel dimension is not known beforehand.
        labels: labels of its channels, −1 for none.
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
    """Find the channel of x that each element of the sources has gone into.

    Take the gradients of Σ r x, Σ r c x and Σ r h(c) x, with r random, c the channel's number and h a hash. If an
    element has gone into channel c alone, their ratios to the first are c and h(c). For many channels, a and b of
    c = 251 a + b replace c, for which float32 has too few digits.

    Returns:
        For each source a tensor of its shape with c, or −1 for elements that are not read; None if an element has gone
        into several channels.
    """
    n = x.shape[dim]
    shape = [1] * x.dim()
    shape[dim] = n
    place = torch.arange(n, device=x.device)
    generator = torch.Generator().manual_seed(n)
    check = torch.randint(1, _PRIME, (n,), generator=generator).to(place)
    digits = (place,) if n <= _FEW else (place // _PRIME, place % _PRIME)
    weights = torch.empty(x.shape).uniform_(0.5, 1.5, generator=generator).to(x)
    codes = (torch.ones_like(place), *digits, check)
    moments = [_gradients(x, weights * code.view(shape), sources) for code in codes]
    pairs: list[Tensor | None] = []
    for source, *found in zip(sources, *moments, strict=True):
        given = [one for one in found if one is not None]
        if len(given) < len(codes):
            pairs.append(torch.full(source.tensor.shape, -1))
            continue
        largest = given[0].abs()
        for one in given[1:]:
            largest = torch.maximum(largest, one.abs())
        read = largest > _LEAST * float(largest.max() or 1)
        total = given[0].where(read, 1)
        ratios = [_real(one.where(read, 0) / total) for one in given[1:]]
        whole = [ratio.nan_to_num(0.5, 0.5, 0.5).round() for ratio in ratios]
        number = whole[0] if len(digits) == 1 else whole[0] * _PRIME + whole[1]
        channel = number.clamp(0, n - 1).long()
        exact = (channel == number) & (check[channel] == whole[-1])
        for ratio, one in zip(ratios, whole, strict=True):
            exact &= (ratio - one).abs() < 0.02
        size = given[0].abs()
        faint = read & (
            size < _FAINT * size.max()
        )  # what a sum leaves that cancels: rounding errors hide the channel
        for code, one in zip(codes, given, strict=True):
            faint &= one.abs() <= code.max() * size + _LEAST * one.abs().max()
        pairs.append(channel.where(read & exact, -1) if bool((exact | ~read | faint).all()) else None)
    return pairs


def _real(ratio: Tensor) -> Tensor:
    """Return a real ratio; of complex weights those of one channel are real too, and the others become one half."""
    return ratio.real.where(ratio.imag.abs() < 0.02, 0.5) if ratio.is_complex() else ratio


def repeated_pairs(x: Tensor, dim: int, source: Source) -> list[tuple[int, int]] | None:
    """Find the channel of a source from which each channel of x was computed, where elements have gone into several.

    It takes the products of the Jacobian ∂x/∂s and r, r c and r h(c), as :func:`channel_pairs` takes those of its
    transpose; each is a derivative of the product of the transpose and u, with respect to u.

    Returns:
        Pairs of the source's channel and the channel of x; None if some were computed from several channels, or if an
        operation can be differentiated only once.
    """
    assert source.dim is not None
    n = source.tensor.shape[source.dim]
    shape = [1] * source.tensor.dim()
    shape[source.dim] = n
    place = torch.arange(n, device=x.device)
    generator = torch.Generator().manual_seed(n)
    check = torch.randint(1, _PRIME, (n,), generator=generator).to(place)
    weights = torch.empty(source.tensor.shape).uniform_(0.5, 1.5, generator=generator).to(x)
    u = torch.ones_like(x, requires_grad=True)
    try:
        (transposed,) = torch.autograd.grad(x, source.tensor, u, create_graph=True)
        moments = [
            torch.autograd.grad(
                transposed, u, weights * code.view(shape), retain_graph=True, allow_unused=True
            )[0]
            for code in (torch.ones_like(place), place, check)
        ]
    except RuntimeError:
        return None
    total, first, second = (one if one is not None else torch.zeros_like(x) for one in moments)
    read = total.abs() > _LEAST * total.abs().max()
    number = (first / total.where(read, 1)).round()
    channel = number.clamp(0, n - 1).long()
    exact = (channel == number) & (check[channel] == (second / total.where(read, 1)).round())
    if n > _FEW or not bool((exact | ~read).all()):
        return None
    codes = channel + n * torch.arange(x.shape[dim], device=x.device).view(
        [-1] + [1] * (x.dim() - dim % x.dim() - 1)
    )
    return [(code % n, code // n) for code in codes[read].unique().tolist()]


def supports(
    x: Tensor, dim: int, sources: Sequence[Source], channels: Sequence[int]
) -> list[list[Tensor | None]]:
    """Return, for some channels of x, which elements of each source have gone into them; None for no element."""
    weights = torch.empty(x.shape).uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(0)).to(x)
    found = []
    for channel in channels:
        one = torch.zeros_like(x)
        one.select(dim, channel).copy_(weights.select(dim, channel))
        found.append([None if g is None else g != 0 for g in _gradients(x, one, sources)])
    return found


def touched(source: Source, support: Tensor) -> list[int]:
    """Return the channels of a source in which the elements of a mask lie."""
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
