"""The small network of a run, from its directory or from a single file."""

from __future__ import annotations

__all__ = ["load", "save_portable"]

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from bmrs_pyro.files import from_record, load_tensors, parse_json, save_tensors
from bmrs_pyro.network import compact
from bmrs_pyro.network.untouched import deep_copy
from bmrs_pyro.reduction import KeepMask
from bmrs_pyro.runs.errors import RunError
from bmrs_pyro.runs.gained import gained
from bmrs_pyro.runs.portable import SIZES, restored
from bmrs_pyro.runs.run_directory import RunDirectory
from bmrs_pyro.runs.run_files import example_of, example_tensors
from bmrs_pyro.runs.saved_choice import SMALL
from bmrs_pyro.runs.source import NetworkSource, SourceError


def load(path: str | Path, net: nn.Module | None = None, *, trust_source: bool = False) -> nn.Module:
    """Return a small network as a plain ``nn.Module`` in evaluation mode.

    A run directory holds a copy of the network's source file, ``model.py``. It is imported, so load only directories
    whose ``model.py`` you would run. Code outside the directory is imported only with ``trust_source=True``. No code
    is imported if you give the network yourself.

    Args:
        path: a run directory, a directory written by :meth:`Pruned.save`, or a ``.safetensors`` file written by
            ``bmrs export`` or :func:`save`.
        net: the dense network with any weights; it is copied, not changed. By default it is made from its source,
            which a file written by :func:`save` does not name.
        trust_source: import the network's source (a module or file) if it is outside the directory or the file.
            Networks of torchvision and timm do not need this.

    Raises:
        RunError: a file is missing, damaged, of a newer format, or of another network.
        SourceError: the network's source is missing, was changed, cannot be imported, or is not trusted.
    """
    path = Path(path)
    if not path.exists():
        raise RunError(f"{path}: no such file or directory; give a run directory or a .safetensors file")
    dense = None if net is None else deep_copy(net)  # NoisyNetwork adds hooks to it
    if path.is_file():
        return _portable(path, dense, trust_source)
    if (path / SMALL).exists() and not RunDirectory(path).exists():
        return _portable(path / SMALL, dense, trust_source)
    return RunDirectory(path, trust_source).small(dense)


def save_portable(run: RunDirectory, path: Path) -> None:
    """Write a run's small network to one file: its weights, the keep masks and the name of its source."""
    config = run.config
    meta = {
        "keep": run.decision().keep.to_json(),
        "model": config.model,
        "input_shape": json.dumps(config.input_shape),
        "num_classes": str(config.num_classes),
        "sha256": config.source_sha256 or "",
    }
    stored = run.stored_example()
    example = {} if stored is None else example_tensors(stored)
    save_tensors(path, {**run.small().state_dict(), **example}, meta)


@dataclass(frozen=True)
class _Origin:
    """The metadata of a file about the dense network."""

    model: str
    input_shape: tuple[int, ...]
    num_classes: int
    sha256: str


def _portable(path: Path, net: nn.Module | None, trust_source: bool) -> nn.Module:
    try:
        tensors, meta = load_tensors(path)
    except ValueError as error:
        raise RunError(f"{path} is damaged, or bmrs export did not write it ({error})") from None
    if SIZES in meta:
        if net is None:
            raise RunError(
                f"{path} does not name the network's source; give a dense network: load(path, net)"
            )
        return restored(path, tensors, meta, net)
    try:
        keep = KeepMask.from_json(meta["keep"])
        numbers = {name: parse_json(meta[name]) for name in ("input_shape", "num_classes")}
        origin = from_record(_Origin, {"model": meta["model"], "sha256": meta["sha256"], **numbers})
    except (KeyError, ValueError) as error:
        raise RunError(f"bmrs export did not write {path} ({type(error).__name__}: {error})") from None
    if net is None:
        source = NetworkSource(origin.model, origin.sha256 or None)
        if source.imports and not trust_source:
            raise SourceError(f"{source.consent(path)}; or give the network: load(path, net)")
        net = source.build(origin.input_shape, origin.num_classes)
    try:
        example = example_of(tensors)
        inputs = torch.zeros(1, *origin.input_shape) if example is None else example
        small = compact(gained(net, inputs, keep, trained=True), keep)
        small.load_state_dict({name: x for name, x in tensors.items() if not name.startswith("example::")})
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise RunError(f"{path} does not fit the network it was given ({reason})") from None
    return small.eval()
