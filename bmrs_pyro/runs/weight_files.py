"""Weights of a network trained elsewhere, read from a file without running code from it."""

from __future__ import annotations

__all__ = ["WeightsError", "load_weights_", "read_weights"]

import operator
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from bmrs_pyro.network.explicit_attention import as_fused

_WRAPPERS = (
    "state_dict",
    "model",
    "model_state_dict",
)  # keys under which training scripts store a state dict
_PREFIXES = ("module.", "_orig_mod.")  # of torch's DataParallel, and of torch.compile


class WeightsError(ValueError):
    """A weights file cannot be used; the message names the file and what to do."""


def load_weights_(net: nn.Module, path: Path) -> None:
    """Load the weights of a file into a network, in place.

    Names may have the prefix of ``DataParallel`` or of ``torch.compile``. A network that this library has trained or
    pruned has three layers in the place of an ``nn.MultiheadAttention``'s joint one; their weights are joined.

    Args:
        net: the network.
        path: a ``.safetensors`` file, or a ``.pt``/``.pth`` file of a ``state_dict`` written by ``torch.save``.

    Raises:
        WeightsError: the file cannot be read, would run code, has other tensors than the network, or NaN in them.
    """
    weights, own = read_weights(path), net.state_dict()
    for prefix in _PREFIXES:
        if weights.keys() != own.keys() and all(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    weights = as_fused(net, weights)
    for name, value in own.items():
        if name not in weights:
            counts = f"the file has {len(weights)} tensors, the network {len(own)}"
            first = next(iter(weights), "none")
            raise WeightsError(
                f"{path} has no tensor {name!r} ({counts}; its first is {first!r}); give weights of this network"
            )
        if (shape := weights[name].shape) != value.shape:
            smaller = len(shape) == value.dim() and all(map(operator.le, shape, value.shape))
            hint = ", such as a run's dense.safetensors, if these are of a pruned network" if smaller else ""
            raise WeightsError(
                f"{path}: {name!r} has shape {tuple(shape)}, in the network {tuple(value.shape)}; "
                f"give weights for this width and number of classes{hint}"
            )
    if extra := [name for name in weights if name not in own]:
        raise WeightsError(f"{path} has {extra[0]!r}, which the network lacks; give weights of this network")
    for name, _ in net.named_parameters():
        if not weights[name].isfinite().all():
            raise WeightsError(
                f"{path}: {name!r} holds NaN or inf; give weights of a training that has not diverged"
            )
    net.load_state_dict(weights)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a file's tensors by name; a ``.pt`` file may hold only tensors and plain containers.

    Raises:
        WeightsError: the file is missing, damaged, of another kind, or a pickle that would run code.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.suffix in (".pt", ".pth"):
            # torch warns of unusual pickle protocols before it refuses them
            with warnings.catch_warnings(action="ignore", category=UserWarning):
                return _tensors(path, torch.load(path, map_location="cpu", weights_only=True))
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror or error})") from None
    except SafetensorError as error:
        raise WeightsError(f"{path} is damaged or no safetensors file ({error}); copy it again") from None
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} is refused: unpickling it could run code, or it is damaged ({_first_line(error)}); save the "
            "weights alone, torch.save(net.state_dict(), FILE), or as safetensors"
        ) from None
    except (RuntimeError, EOFError, KeyError, ValueError) as error:
        if isinstance(error, WeightsError):
            raise
        why = f" ({text})" if " " in (text := _first_line(error)) else ""  # a key alone says nothing
        raise WeightsError(f"{path} is damaged or no file of torch's weights{why}; copy it again") from None
    if path.is_dir():
        raise WeightsError(f"{path} is a folder; give a file of weights, such as a run's dense.safetensors")
    raise WeightsError(f"{path} is neither .safetensors, nor .pt, nor .pth; save the weights as one of these")


def _tensors(path: Path, found: Any) -> dict[str, Tensor]:
    if isinstance(found, Mapping):
        for key in _WRAPPERS:
            if isinstance(found.get(key), Mapping):
                found = found[key]
                break
        if found and all(isinstance(value, Tensor) for value in found.values()):
            return {str(name): value for name, value in found.items()}
    raise WeightsError(f"{path} holds no state dict; save one with torch.save(net.state_dict(), FILE)")


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].partition(". ")[0]
