"""Layer norms and RMS norms whose statistics weigh every channel by its gain."""

from __future__ import annotations

__all__ = ["channels_first", "is_layer_norm", "is_torchs", "weighed_norm"]

from typing import Any, cast

import torch
from torch import Tensor, nn

_EPSILONS = ("eps", "variance_epsilon", "epsilon")


def is_layer_norm(layer: nn.Module) -> bool:
    """Whether a layer is a layer norm over single positions, of torch or a class like it, or an RMS norm."""
    if isinstance(layer, nn.LayerNorm | nn.RMSNorm):
        single = len(layer.normalized_shape) == 1
        return single and (is_torchs(layer) or _computes_alike(layer, -1) or channels_first(layer))
    name = type(layer).__name__
    if not name.lower().endswith("rmsnorm") and name != "T5LayerNorm":
        return False
    own = {name: weight.dim() for name, weight in layer.named_parameters() if weight is not None}
    return own == {"weight": 1} and any(isinstance(getattr(layer, one, None), float) for one in _EPSILONS)


def is_torchs(layer: nn.Module) -> bool:
    """Whether a norm's code is torch's, which computes in the precision of its input."""
    return type(layer).forward in (nn.LayerNorm.forward, nn.RMSNorm.forward)


def channels_first(layer: nn.Module) -> bool:
    """Whether a layer is a layer norm over the channels of images, ``(B, C, H, W)``, such as ``LayerNorm2d``."""
    norms = isinstance(layer, nn.LayerNorm | nn.RMSNorm) and len(layer.normalized_shape) == 1
    return norms and not is_torchs(layer) and not _computes_alike(layer, -1) and _computes_alike(layer, 1)


@torch.no_grad()
def _computes_alike(layer: nn.Module, dim: int) -> bool:
    """Whether a class of other code, such as timm's, computes what torch's does along a dimension of images."""
    own: Any = type(layer)
    base: Any = nn.LayerNorm if isinstance(layer, nn.LayerNorm) else nn.RMSNorm
    (width,) = cast(Any, layer).normalized_shape
    like = next(layer.parameters(), torch.empty(0))
    # neighbours differ by much, so that no variance is small
    x = torch.arange(12 * width, device=like.device).mul(2.0).sin().to(like.dtype).view(2, 2, 3, width)
    x = x if width not in (2, 3) else x.repeat(1, 4, 3, 1)  # no other dimension is as wide
    try:
        with torch._C.DisableTorchFunction():  # and without hooks: a trace may be under way
            expected = base.forward(layer, x).movedim(-1, dim)
            actual = own.forward(layer, x.movedim(-1, dim))
            allowed = max(1e-4, 4 * torch.finfo(like.dtype).eps)
            return torch.allclose(actual, expected, rtol=allowed, atol=allowed)
    except Exception:  # of other code
        return False


def weighed_norm(layer: nn.Module, x: Tensor, gain: Tensor, plain: Tensor, *, dim: int = -1) -> Tensor:
    """Normalise with statistics that weigh channel c by its gain.

        y_c = γ_c (x_c − m)/√(v + ε) + β_c,    m = Σ_c θ_c x_c / Σ_c θ_c,    v = Σ_c θ_c (x_c − m)² / Σ_c θ_c

    Gains of 1 give the layer's own output. A channel with a gain of 0 has no effect on the others. An RMS norm has
    m = 0.

    Args:
        layer: the norm.
        x: its input, ``(…, C)``.
        gain: θ, of a shape that broadcasts to that of the input.
        plain: the layer's own output.
        dim: the dimension of the channels; −3 for a norm of images, ``(…, C, H, W)``.
    """
    # with gains that are all 0 nothing passes
    share = gain / gain.sum(dim, keepdim=True).clamp_min(torch.finfo(gain.dtype).tiny)
    trailing = (1,) * (-1 - dim)
    if isinstance(layer, nn.LayerNorm):
        x = x - (share * x).sum(dim, keepdim=True)
        y = x * torch.rsqrt((share * x.square()).sum(dim, keepdim=True) + layer.eps)
        y = y if layer.weight is None else y * layer.weight.view(-1, *trailing)
        return y if layer.bias is None else y + layer.bias.view(-1, *trailing)
    # an RMS norm only divides by other numbers; its code multiplies by its weight in one way or another
    given = (getattr(layer, name, None) for name in _EPSILONS)
    epsilon = next((one for one in given if one is not None), torch.finfo(x.dtype).eps)
    square = x.square()
    ratio = (square.mean(dim, keepdim=True) + epsilon) / ((share * square).sum(dim, keepdim=True) + epsilon)
    return plain * ratio.sqrt()
