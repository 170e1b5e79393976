"""Layers that hide their weights, such as ``nn.MultiheadAttention``, as layers from which channels can be removed."""

from __future__ import annotations

__all__ = ["ExplicitAttention", "as_fused", "make_explicit_"]

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from bmrs_pyro.network.experts import compute_one_by_one_
from bmrs_pyro.network.plain_weights import plain_layer


class ExplicitAttention(nn.Module):
    """The computation of ``nn.MultiheadAttention`` by four linear layers.

    It replaces such a layer, with its values and signature, but without ``bias_k``, ``bias_v`` and ``add_zero_attn``.

    Args:
        attention: the layer whose values it takes; its output projection is shared.

    Attributes:
        num_heads: H.
        head_dim: channels per head.
        batch_first: whether inputs are ``(batch, length, channels)``, not ``(length, batch, channels)``.
    """

    # nn.TransformerEncoderLayer checks these before it takes its fused path, which cannot apply gains
    in_proj_bias: None = None
    in_proj_weight: None = None
    _qkv_same_embed_dim = False

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.num_heads, self.head_dim = attention.num_heads, attention.head_dim
        self.batch_first, self.dropout = attention.batch_first, attention.dropout
        weights = (
            attention.in_proj_weight.chunk(3)
            if attention._qkv_same_embed_dim
            else (attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight)
        )
        biases = (None,) * 3 if attention.in_proj_bias is None else attention.in_proj_bias.chunk(3)
        self.q_proj, self.k_proj, self.v_proj = map(_linear, weights, biases)
        self.out_proj = _linear(attention.out_proj.weight, attention.out_proj.bias)
        self.train(attention.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Return what ``nn.MultiheadAttention`` returns: the outputs, and the weights if requested."""
        batched = query.dim() == 3
        first = self.batch_first or not batched  # unbatched sequences get a batch of one in front
        q, k, v = (
            layer(x if first else x.transpose(0, 1))
            .unflatten(-1, (self.num_heads, self.head_dim))
            .transpose(-2, -3)
            for layer, x in ((self.q_proj, query), (self.k_proj, key), (self.v_proj, value))
        )
        if not batched:
            q, k, v = q[None], k[None], v[None]
        mask = self._mask(q, k, attn_mask, key_padding_mask)
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = q @ k.transpose(-1, -2) / math.sqrt(self.head_dim)
            weights = (scores if mask is None else scores + mask).softmax(-1)
        if weights is not None and dropout:
            out = functional.dropout(weights, dropout) @ v
        else:  # its heads' channels can be followed
            out = functional.scaled_dot_product_attention(q, k, v, mask, dropout)
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        out = self.out_proj(out.transpose(1, 2).flatten(2))
        if not batched:
            return out[0], None if weights is None else weights[0]
        return (out if first else out.transpose(0, 1)), weights

    def _mask(self, q: Tensor, k: Tensor, attn_mask: Tensor | None, padding: Tensor | None) -> Tensor | None:
        """Bring both masks to ``(batch, heads, queries, keys)``, to be added to the scores."""
        mask = None
        if attn_mask is not None:
            mask = _added(attn_mask, q)
            if mask.dim() == 3:  # one per example and head; it does not say which heads were removed
                mask = mask.unflatten(0, (len(q), -1))
        if padding is not None:
            own = _added(padding, q).view(-1, 1, 1, k.shape[-2])
            mask = own if mask is None else mask + own
        return mask


def _added(mask: Tensor, like: Tensor) -> Tensor:
    if mask.dtype == torch.bool:
        return torch.zeros(mask.shape, dtype=like.dtype, device=like.device).masked_fill(mask, -math.inf)
    return mask.to(like.dtype)


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach().clone(), weight.requires_grad)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone(), bias.requires_grad)
    return layer


def make_explicit_(net: nn.Module, layers: Iterable[str] | None = None) -> None:
    """Replace the layers of a network that hide weights by layers that do not, and that compute the same.

    Each ``nn.MultiheadAttention`` becomes an :class:`ExplicitAttention`. A layer with weight norm, or that standardises
    its weights, gets the weights that it computes as its own, and these are trained from then on.

    Subclasses and layers with hooks, ``bias_k``, ``add_zero_attn`` or computed weights are not replaced. An
    ``nn.TransformerEncoder`` that contains one of the layers no longer makes nested tensors of padded sequences,
    because only torch's fused layers read these. Its outputs at padding are then the same in both modes. Experts that
    are fused in one tensor are computed one by one, because the fused computation needs widths that are multiples of 4.

    Args:
        net: the network.
        layers: names of layers; only these are replaced, and attention layers that contain one. None replaces all.
    """
    layers = None if layers is None else set(layers)
    owners = None if layers is None else {name.rpartition(".")[0] for name in layers}
    made: dict[nn.Module, nn.Module] = {}
    for name, module in list(net.named_modules(remove_duplicate=False)):
        if isinstance(module, nn.TransformerEncoder):
            inside = f"{name}." if name else ""
            if layers is None or any(layer.startswith(inside) for layer in layers):
                module.use_nested_tensor = False
        owner, _, own = name.rpartition(".")
        if layers is None or name in layers:
            compute_one_by_one_(module)
            plain = made[module] if module in made else plain_layer(module) if name else None
            if plain is not None:
                made[module] = plain
                setattr(net.get_submodule(owner), own, plain)
        wanted = name and (owners is None or name in owners)
        if wanted and type(module) is nn.MultiheadAttention and _plain(module):
            made[module] = made.get(module) or ExplicitAttention(module)
            setattr(net.get_submodule(owner), own, made[module])


def as_fused(net: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights for a network with ``nn.MultiheadAttention``, from those of its explicit form or its own.

    Args:
        net: the network.
        weights: tensors by name.
    """
    found = dict(weights)
    for name, module in net.named_modules():
        if not isinstance(module, nn.MultiheadAttention):
            continue
        inside = f"{name}." if name else ""
        for kind in ("weight", "bias"):
            parts = [f"{inside}{part}_proj.{kind}" for part in "qkv"]
            if not all(part in found for part in parts):
                continue
            values = [found.pop(part) for part in parts]
            if kind == "bias" or module._qkv_same_embed_dim:
                found[f"{inside}in_proj_{kind}"] = torch.cat(values)
            else:
                found |= {f"{inside}{part}_proj_weight": own for part, own in zip("qkv", values, strict=True)}
    return found


def _plain(attention: nn.MultiheadAttention) -> bool:
    computed = attention._qkv_same_embed_dim and "in_proj_weight" not in attention._parameters
    own = (
        attention.bias_k is not None
        or attention.add_zero_attn
        or "weight" not in attention.out_proj._parameters
    )
    return not (computed or own or attention._forward_hooks or attention._forward_pre_hooks)
