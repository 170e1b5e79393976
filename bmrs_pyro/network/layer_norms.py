"""Layer norms and RMS norms whose statistics weigh every channel by its gain."""

from __future__ import annotations

__all__ = ["is_layer_norm", "weighed_norm"]

import torch
from torch import Tensor, nn

_EPSILONS = ("eps", "variance_epsilon", "epsilon")


def is_layer_norm(layer: nn.Module) -> bool:
    """Whether a layer is torch's layer norm over the last dimension, or an RMS norm over it, of torch or not."""
    if isinstance(layer, nn.LayerNorm):
        # a class of one's own may put the channels elsewhere
        return type(layer).forward is nn.LayerNorm.forward and len(layer.normalized_shape) == 1
    if isinstance(layer, nn.RMSNorm):
        return type(layer).forward is nn.RMSNorm.forward and len(layer.normalized_shape) == 1
    name = type(layer).__name__
    if not name.endswith("RMSNorm") and name != "T5LayerNorm":
        return False
    own = {name: weight.dim() for name, weight in layer.named_parameters() if weight is not None}
    return own == {"weight": 1} and any(isinstance(getattr(layer, one, None), float) for one in _EPSILONS)


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
