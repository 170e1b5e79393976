"""A small network in one file, without a run: its weights and the sizes of its layers."""

from __future__ import annotations

__all__ = ["SIZES", "restored", "save"]

import json
import warnings
from collections.abc import Iterator, Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from bmrs_pyro.files import save_tensors
from bmrs_pyro.network import NoisyNetwork
from bmrs_pyro.network.experts import compute_one_by_one_
from bmrs_pyro.network.explicit_attention import make_explicit_
from bmrs_pyro.network.removal import set_count
from bmrs_pyro.runs.errors import RunError
from bmrs_pyro.training import History

SIZES, KINDS, SETTINGS = "sizes", "kinds", "settings"
"""Keys of a file's metadata; the first one marks files of this kind."""


def save(small: nn.Module | History, path: str | Path) -> None:
    """Write a small network to a ``.safetensors`` file; :func:`load` reads it, given the dense network.

    The file holds the tensors, the integer attributes of the layers, such as ``out_features``, their settings, such as
    ``negative_slope``, and the names of the layers' classes. It holds no code. Buffers with ``persistent=False`` are
    not in it: :func:`load` takes them from the dense network.

    Args:
        small: the network, or the history of the fit that made it.
        path: the file.

    Raises:
        TypeError: ``small`` is not a plain network.
        WriteError: the file cannot be written.
    """
    net = small.network if isinstance(small, History) else small
    if not isinstance(net, nn.Module) or isinstance(net, NoisyNetwork):
        raise TypeError(
            f"a {type(net).__name__} is not a small network; give compact(network, keep), or the history of a fit"
        )
    sizes = {name: dict(_numbers(module)) for name, module in net.named_modules()}
    meta = {SIZES: json.dumps(sizes), KINDS: json.dumps(_kinds(net)), SETTINGS: json.dumps(_settings(net))}
    save_tensors(Path(path), net.state_dict(), meta)


def restored(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, str], net: nn.Module) -> nn.Module:
    """Shrink a dense network, in place, to the sizes and weights in a file, and return it in evaluation mode.

    A layer with another setting than in the file is warned of.

    Raises:
        RunError: the file is of another network.
    """
    try:
        sizes, kinds = json.loads(meta[SIZES]), json.loads(meta.get(KINDS, "{}"))
        # attention with removable heads was saved as linear layers, and computed weights as plain ones
        changed = {name for name, kind in _kinds(net).items() if kinds.get(name, kind) != kind}
        changed |= {name.rpartition(".")[0] for name in net.state_dict().keys() ^ tensors.keys()}
        make_explicit_(net, changed)
        for module in net.modules():
            compute_one_by_one_(module)
        found = {name: dict(_numbers(module)) for name, module in net.named_modules()}
        state = net.state_dict(keep_vars=True)
        _compare("modules", found, sizes)
        _compare("tensors", state, tensors)
        for name, kind in _kinds(net).items():
            if kinds.get(name, kind) != kind:
                raise ValueError(f"layer {name!r} is a {kind}, in the file it is a {kinds[name]}")
        for name, own in found.items():
            lists = {one for one in own if "." in one}  # which older files do not have
            _compare(
                f"sizes of {name!r}",
                dict.fromkeys(own.keys() - lists | lists & sizes[name].keys()),
                sizes[name],
            )
            if not all(type(number) is int for number in sizes[name].values()):
                raise ValueError(f"the sizes of {name!r} are not integers")
        for name, tensor in state.items():
            new, old = tensors[name].shape, tensor.shape
            if len(new) != len(old) or not all(n == o or 0 < n < o for n, o in zip(new, old, strict=True)):
                raise ValueError(f"{name} has shape {tuple(new)}, and cannot be cut from {tuple(old)}")
        settings = json.loads(meta.get(SETTINGS, "{}"))
        others = [
            f"{name!r} has {setting}={own!r}, in the file {settings[name][setting]!r}"
            for name, values in _settings(net).items()
            for setting, own in values.items()
            if settings.get(name, {}).get(setting, own) != own
        ]
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise RunError(f"{path} does not fit the network it was given ({error})") from None
    if others:
        warnings.warn(
            f"{path}: layer {'; '.join(others)}. The network may predict otherwise than the one that was saved; give "
            "the code that it was made with, unless this is meant",
            stacklevel=3,
        )
    for name, module in net.named_modules():
        for attribute, number in sizes[name].items():
            set_count(module, attribute, number)
    for name, tensor in state.items():
        tensor.data = tensors[name].to(tensor.device)
    return net.eval()


def _kinds(net: nn.Module) -> dict[str, str]:
    return {name: type(module).__name__ for name, module in net.named_modules()}


def _settings(net: nn.Module) -> dict[str, dict[str, float | str]]:
    """Return the settings of every layer that has any: fractions and texts, such as a slope or a kind of padding."""
    found = {
        name: {
            key: value
            for key, value in vars(module).items()
            if not key.startswith("_") and (type(value) is str or (type(value) is float and isfinite(value)))
        }
        for name, module in net.named_modules()
    }
    return {name: values for name, values in found.items() if values}


def _numbers(module: nn.Module) -> Iterator[tuple[str, int]]:
    for name, value in vars(module).items():
        if name.startswith("_"):
            continue
        if type(value) is int:
            yield name, value
        elif type(value) in (tuple, list) and all(type(one) is int for one in value):
            yield from ((f"{name}.{index}", one) for index, one in enumerate(value))


def _compare(what: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    if other := sorted(ours.keys() ^ theirs.keys()):
        raise ValueError(f"{what} differ: {other[0]!r}")
