"""Which structures the outputs of a network respond to."""

from __future__ import annotations

__all__ = ["Responses", "responses", "silent"]

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from bmrs_pyro.network.discovery.random_weights import noise, root_mean_square
from bmrs_pyro.network.structures import Member, StructureFamily

Responses = dict[str, dict[str, Tensor]]
"""By family and producer: mask ``(C,)``, True for the structures that move the outputs."""


def responses(
    net: nn.Module,
    families: Sequence[StructureFamily],
    outputs: Sequence[Tensor],
    least: float,
    random: torch.Generator,
) -> Responses:
    """Find the structures that move the outputs when the weights that produce them change.

    The response to structure c in a layer of weights W is ‖∂L/∂W_c‖ √mean(W²), with L = Σ ⟨v, y⟩ / (max|y| √n) over
    the outputs y of n values, which need their graph, and v random. It is about how far the outputs move, relative to
    the largest one, when W_c is replaced.
    """
    weights = dict(net.named_parameters(remove_duplicate=False))
    moved = [
        (y * noise(y, random, 1.0)).sum() / (float(y.detach().abs().max()) * y.numel() ** 0.5)
        for y in (torch.view_as_real(y) if y.is_complex() else y for y in outputs)
        if y.requires_grad and y.any()
    ]
    sizes: dict[str, Tensor] = {}
    if moved:
        gradients = torch.autograd.grad(sum(moved), list(weights.values()), allow_unused=True)
        sizes = {
            name: gradient.abs() * root_mean_square(weight.detach())
            for (name, weight), gradient in zip(weights.items(), gradients, strict=True)
            if gradient is not None
        }
    return {
        family.name: {
            member.module: _moving(member, family.size, sizes, least)
            for member in family.members
            if member.role == "produce"
        }
        for family in families
    }


def _moving(member: Member, size: int, responses: Mapping[str, Tensor], least: float) -> Tensor:
    moving = torch.zeros(size, dtype=torch.bool)
    for name, dim in member.tensors:
        if name in responses:
            by_channel = responses[name].movedim(dim, 0)
            norms = by_channel.reshape(len(by_channel), -1).norm(dim=1).cpu()
            moving[member.structures[norms[member.positions] > least]] = True
    return moving


def silent(moved: Mapping[str, Tensor], share: float) -> str | None:
    """Name a producer of whose structures less than ``share`` have moved the outputs; None if there is none."""
    if not moved:
        return "all layers"
    return next((repr(layer) for layer, moving in moved.items() if moving.float().mean() < share), None)
