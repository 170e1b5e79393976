"""Where the channels of a layer lie: tensors, dimensions, and the attributes that count them."""

from __future__ import annotations

__all__ = ["Side", "channel_dim", "group_side", "input_side", "obstacle", "output_side", "parameter_side"]

from itertools import chain
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from bmrs_pyro.network.feature_selection import FeatureSelection
from bmrs_pyro.network.layer_norms import channels_first, is_layer_norm
from bmrs_pyro.network.structures import Role

_FROZEN = {"weight", "bias", "running_mean", "running_var"}  # buffers of a FrozenBatchNorm2d
_TENSORS = {"weight", "bias", "running_mean", "running_var", "index"}  # of the layers known here


class Side(NamedTuple):
    """The input or the output channels of one layer."""

    role: Role
    size: int
    tensors: tuple[tuple[str, int], ...] = ()
    """Names of the layer's tensors with these channels, and the dimension they lie along."""
    attributes: tuple[str, ...] = ()
    """Integer attributes of the layer that count the channels."""


def output_side(layer: nn.Module) -> Side | None:
    """Describe the output channels of a layer; None for a layer that has nothing per channel."""
    match layer:
        case nn.Linear():
            return Side(
                "produce", layer.out_features, _present(layer, 0, "weight", "bias"), ("out_features",)
            )
        case _ if _is_conv1d(layer):
            tensors = _present(layer, 1, "weight") + _present(layer, 0, "bias")
            return Side("produce", _integer(layer, "nf"), tensors, ("nf",))
        case FeatureSelection():
            return Side("produce", layer.out_features, (("weight", 0), ("index", 0)), ("out_features",))
        case nn.Embedding(max_norm=None):  # max_norm rescales whole rows
            return Side("produce", layer.embedding_dim, (("weight", 1),), ("embedding_dim",))
        case _ConvNd(transposed=True):
            weight = (
                (("weight", 1),) if layer.groups == 1 else ()
            )  # grouped: the whole group lies in input rows
            role: Role = "produce" if layer.groups == 1 else "carry"
            return Side(role, layer.out_channels, (*weight, *_present(layer, 0, "bias")), ("out_channels",))
        case _ConvNd():
            role = "produce" if layer.groups == 1 else "carry"
            return Side(role, layer.out_channels, _present(layer, 0, "weight", "bias"), ("out_channels",))
        case _BatchNorm() | _InstanceNorm():
            vectors = _present(layer, 0, "weight", "bias", "running_mean", "running_var")
            return Side("carry", layer.num_features, vectors, ("num_features",))
        case nn.GroupNorm():
            return Side("carry", layer.num_channels, _present(layer, 0, "weight", "bias"), ("num_channels",))
        case _ if layer._buffers.keys() >= _FROZEN:
            return Side(
                "carry", layer.state_dict()["weight"].numel(), tuple((name, 0) for name in sorted(_FROZEN))
            )
        case nn.LayerNorm() | nn.RMSNorm() if is_layer_norm(layer):
            vectors = _present(layer, 0, "weight", "bias")
            return Side("normalise", layer.normalized_shape[0], vectors, ("normalized_shape.0",))
        case _ if is_layer_norm(layer):
            counts = ("normalized_shape.0",) if hasattr(layer, "normalized_shape") else ()
            return Side("normalise", len(layer.get_parameter("weight")), (("weight", 0),), counts)
        case nn.PReLU() if layer.num_parameters > 1:
            return Side("carry", layer.num_parameters, (("weight", 0),), ("num_parameters",))
        case nn.RNNBase():
            rows = tuple((name, 0) for names in layer._all_weights for name in names if "_hr" not in name)
            return Side("produce", getattr(layer, rows[0][0]).shape[0], rows)
    return None


def input_side(layer: nn.Module) -> Side | None:
    """Describe the input channels of a layer; None if they are its output channels too."""
    match layer:
        case nn.RNNBase():
            first = [f"weight_ih_l0{end}" for end in ("", "_reverse") if hasattr(layer, f"weight_ih_l0{end}")]
            return Side("consume", layer.input_size, tuple((name, 1) for name in first), ("input_size",))
        case nn.Linear():
            return Side("consume", layer.in_features, (("weight", 1),), ("in_features",))
        case _ if _is_conv1d(layer):
            return Side("consume", _integer(layer, "nx"), (("weight", 0),), ("nx",))
        case _ConvNd(groups=1):
            along = 0 if layer.transposed else 1
            return Side("consume", layer.in_channels, (("weight", along),), ("in_channels",))
        case _ConvNd():
            rows = (("weight", 0),) if layer.transposed else ()
            return Side("carry", layer.in_channels, rows, ("in_channels",))
    return None


def channel_dim(layer: nn.Module, x: Tensor) -> int:
    """Return the channel dimension of a layer's input or output."""
    match layer:
        case _ConvNd():
            return x.dim() - len(layer.kernel_size) - 1
        case _InstanceNorm():
            return x.dim() - layer._get_no_batch_dim()
        case _BatchNorm() | nn.GroupNorm() | nn.PReLU() | FeatureSelection():
            return 1
    return 1 if layer._buffers.keys() >= _FROZEN or channels_first(layer) else x.dim() - 1


def group_side(layer: _ConvNd | nn.GroupNorm) -> Side:
    """Describe the groups of a layer: only whole groups can be removed, so a structure holds whole groups."""
    if isinstance(layer, nn.GroupNorm):
        return Side("carry", layer.num_groups, (), ("num_groups",))
    return Side("carry", layer.groups, (), ("groups",))


def _is_conv1d(layer: nn.Module) -> bool:
    """Whether a layer is transformers' Conv1D: a linear layer, its weight transposed."""
    return any(
        base.__name__ == "Conv1D" and base.__module__ == "transformers.pytorch_utils"
        for base in type(layer).__mro__
    )


def parameter_side(layer: nn.Module, name: str, parameter: nn.Parameter, dim: int) -> Side:
    """Describe a parameter with one entry, or slice, per channel, which other code than the layer's own reads."""
    sides = [side for side in (output_side(layer), input_side(layer)) if side is not None]
    attributes = [one for side in sides if (name, dim) in side.tensors for one in side.attributes]
    if isinstance(layer, _ConvNd) and layer.groups == layer.in_channels == layer.out_channels:
        attributes += ["in_channels", "groups"]
    return Side("carry", parameter.shape[dim], ((name, dim),), tuple(attributes))


def obstacle(layer: nn.Module, name: str) -> str | None:
    """Say why no channel of a layer can be removed by itself; None if one can."""
    match layer:
        case nn.GroupNorm(num_groups=1):
            return f"{type(layer).__name__} {name!r} normalises over them"
        case nn.MultiheadAttention():
            return f"MultiheadAttention {name!r} hides its projections (separate linear layers would not)"
        case nn.RNNBase() if layer.proj_size:
            return f"{type(layer).__name__} {name!r} projects its hidden units (proj_size): what it puts out are others"
    side = output_side(layer)
    if side is None:
        return None
    own = dict(chain(layer._parameters.items(), layer._buffers.items()))
    for attribute, _ in side.tensors:
        if attribute not in own:
            return f"the {attribute} of {name!r} is computed from other parameters ({_made_plain(layer, attribute)})"
    lengths = {side.size, (input_side(layer) or side).size}
    for attribute, tensor in own.items():
        known = attribute in _TENSORS or attribute in dict(side.tensors)
        if tensor is not None and not known and lengths & {*tensor.shape}:
            return f"{name!r} is a {type(layer).__name__} with a tensor of its own, {attribute!r}, for its channels"
    return None


def _made_plain(layer: nn.Module, attribute: str) -> str:
    """Say which call makes a computed tensor a parameter of the layer again."""
    if parametrize.is_parametrized(layer, attribute):
        return f"torch.nn.utils.parametrize.remove_parametrizations(layer, {attribute!r}) makes it one"
    for hook in layer._forward_pre_hooks.values():
        match hook:
            case prune.BasePruningMethod():
                return f"torch.nn.utils.prune.remove(layer, {attribute!r}) makes it one"
            case WeightNorm():
                return f"torch.nn.utils.remove_weight_norm(layer, {attribute!r}) makes it one"
            case SpectralNorm():
                return f"torch.nn.utils.remove_spectral_norm(layer, {attribute!r}) makes it one"
    return "make it one"


def _integer(layer: nn.Module, attribute: str) -> int:
    value = getattr(layer, attribute)
    assert isinstance(value, int)
    return value


def _present(layer: nn.Module, dim: int, *names: str) -> tuple[tuple[str, int], ...]:
    return tuple((name, dim) for name in names if getattr(layer, name, None) is not None)
