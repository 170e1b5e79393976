"""Whether the outputs of a network respond to the layers that hold structures."""

from __future__ import annotations

__all__ = ["silent_layers"]

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from bmrs_pyro.network.random_weights import noise, root_mean_square
from bmrs_pyro.network.structures import Member, StructureFamily

_SHARE = 0.25  # of the structures that a layer holds


def silent_layers(
    net: nn.Module,
    families: Sequence[StructureFamily],
    outputs: Sequence[Tensor],
    least: float,
    random: torch.Generator,
) -> dict[str, str]:
    """Name, for each family that has one, a layer that writes or reads it and does not move the outputs.

    The response to structure c in a layer of weights W is ‖∂L/∂W_c‖ √mean(W²), with L = Σ ⟨v, y⟩ / (max|y| √n) over
    the outputs y of n values, and v random: about how far the outputs move, relative to the largest, when W_c is
    replaced. A layer is silent if more than three quarters of a family's responses are below ``least``.

    Args:
        net: the network.
        families: its families.
        outputs: what it has put out, with the graph.
        least: smallest response that counts.
        random: where v comes from.
    """
    weights = dict(net.named_parameters(remove_duplicate=False))
    moved = [
        (y * noise(y, random, 1.0)).sum() / (float(y.detach().abs().max()) * y.numel() ** 0.5)
        for y in (torch.view_as_real(y) if y.is_complex() else y for y in outputs)
        if y.requires_grad and y.any()
    ]
    gradients = dict.fromkeys(weights)
    if moved:
        found = torch.autograd.grad(sum(moved), list(weights.values()), allow_unused=True)
        gradients = dict(zip(weights, found, strict=True))
    return {
        family.name: member.module
        for family in families
        for member in family.members
        if member.role == "produce" and _share(member, family.size, weights, gradients, least) < _SHARE
    }


def _share(
    member: Member,
    size: int,
    weights: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor | None],
    least: float,
) -> float:
    """Return the share of a family's structures whose response in one layer counts."""
    counts = torch.zeros(size, dtype=torch.bool)
    for name, dim in member.tensors:
        gradient = gradients.get(name)
        if gradient is not None:
            norms = gradient.movedim(dim, 0).reshape(gradient.shape[dim], -1).norm(dim=1) * root_mean_square(
                weights[name].detach()
            )
            counts[member.structures[norms.cpu()[member.positions] > least]] = True
    return float(counts.double().mean())
