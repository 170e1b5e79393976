"""Layer norms and RMS norms whose statistics weigh every channel by its gain."""

from __future__ import annotations

__all__ = ["is_layer_norm", "weighed_norm"]

from typing import Any

import torch
from torch import Tensor, nn

_EPSILONS = ("eps", "variance_epsilon", "epsilon")


def is_layer_norm(layer: nn.Module) -> bool:
    """Whether a layer is a layer norm over the last dimension, of torch or a class like it, or an RMS norm over it."""
    if isinstance(layer, nn.LayerNorm | nn.RMSNorm):
        plain = type(layer).forward in (nn.LayerNorm.forward, nn.RMSNorm.forward)
        return len(layer.normalized_shape) == 1 and (plain or _computes_alike(layer))
    name = type(layer).__name__
    if not name.endswith("RMSNorm") and name != "T5LayerNorm":
        return False
    own = {name: weight.dim() for name, weight in layer.named_parameters() if weight is not None}
    return own == {"weight": 1} and any(isinstance(getattr(layer, one, None), float) for one in _EPSILONS)


@torch.no_grad()
def _computes_alike(layer: nn.LayerNorm | nn.RMSNorm) -> bool:
    """Whether a class of other code, such as timm's, computes what torch's does; it may put the channels elsewhere."""
    (width,) = layer.normalized_shape
    like = next(layer.parameters(), torch.empty(0))
    x = torch.linspace(-1, 2, 2 * width, dtype=like.dtype, device=like.device).sin().view(2, width)
    own: Any = type(layer)
    base: Any = nn.LayerNorm if isinstance(layer, nn.LayerNorm) else nn.RMSNorm
    try:
        with torch._C.DisableTorchFunction():  # and without hooks: a trace may be under way
            return torch.allclose(own.forward(layer, x), base.forward(layer, x), atol=1e-5)
    except Exception:  # of other code
        return False


def weighed_norm(layer: nn.Module, x: Tensor, gain: Tensor, plain: Tensor) -> Tensor:
    """Normalise with statistics that weigh channel c by its gain.

        y_c = γ_c (x_c − m)/√(v + ε) + β_c,    m = Σ_c θ_c x_c / Σ_c θ_c,    v = Σ_c θ_c (x_c − m)² / Σ_c θ_c

    Gains of 1 give the layer's own output. A channel with a gain of 0 has no effect on the others. An RMS norm has
    m = 0.

    Args:
        layer: the norm.
        x: its input, ``(…, C)``.
        gain: θ, of a shape that broadcasts to that of the input.
        plain: the layer's own output.
    """
    share = gain / gain.sum(-1, keepdim=True)
    if isinstance(layer, nn.LayerNorm):
        x = x - (share * x).sum(-1, keepdim=True)
        y = x * torch.rsqrt((share * x.square()).sum(-1, keepdim=True) + layer.eps)
        y = y if layer.weight is None else y * layer.weight
        return y if layer.bias is None else y + layer.bias
    # an RMS norm only divides by other numbers; its code multiplies by its weight in one way or another
    given = (getattr(layer, name, None) for name in _EPSILONS)
    epsilon = next((one for one in given if one is not None), torch.finfo(x.dtype).eps)
    square = x.square()
    ratio = (square.mean(-1, keepdim=True) + epsilon) / ((share * square).sum(-1, keepdim=True) + epsilon)
    return plain * ratio.sqrt()
