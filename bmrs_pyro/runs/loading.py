"""The small network of a run, from its directory or from a single file."""

from __future__ import annotations

__all__ = ["load", "save_portable"]

import copy
import json
from pathlib import Path

import torch
from torch import nn

from bmrs_pyro.files import load_tensors, save_tensors
from bmrs_pyro.network import NoisyNetwork, compact
from bmrs_pyro.reduction import KeepMask
from bmrs_pyro.runs.portable import SIZES, restored
from bmrs_pyro.runs.run_directory import RunDirectory, RunError
from bmrs_pyro.runs.source import NetworkSource


def load(path: str | Path, net: nn.Module | None = None) -> nn.Module:
    """Return a small network as a plain ``nn.Module`` in evaluation mode.

    The network's source file is imported for that (of a run directory, the copy in it), so load only what you would
    run the code of; or give the network yourself, and no code is imported. It stays as it is.

    Args:
        path: a run directory, or a ``.safetensors`` file that ``bmrs export`` or :func:`save` wrote.
        net: a dense network of the kind it was made from; by default made from its source, which a file of
            :func:`save` does not name.

    Raises:
        RunError: a file is missing, damaged, of a newer format, or of another network.
        SourceError: the network's source is missing, was changed or cannot be imported.
    """
    path = Path(path)
    dense = copy.deepcopy(net)  # it is about to get hooks
    return _portable(path, dense) if path.is_file() else RunDirectory(path).small(dense)


def save_portable(run: RunDirectory, path: Path) -> None:
    """Write a run's small network to one file: its weights, what was kept, and where its source is."""
    config = run.config
    meta = {
        "keep": run.decision().keep.to_json(),
        "input_shape": json.dumps(config.input_shape),
        "num_classes": str(config.num_classes),
        "model": config.model,
        "sha256": config.source_sha256 or "",
    }
    save_tensors(path, run.small().state_dict(), meta)


def _portable(path: Path, net: nn.Module | None) -> nn.Module:
    try:
        tensors, meta = load_tensors(path)
    except ValueError as error:
        raise RunError(f"{path} is damaged or no file of bmrs export ({error})") from None
    if SIZES in meta:
        if net is None:
            raise RunError(f"{path} holds no network's source; give a dense network: load(path, net)")
        return restored(path, tensors, meta, net)
    try:
        shape, num_classes = tuple(json.loads(meta["input_shape"])), int(meta["num_classes"])
        keep = KeepMask.from_json(meta["keep"])
        source = NetworkSource(meta["model"], meta["sha256"] or None)
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{path} is no file of bmrs export ({type(error).__name__}: {error})") from None
    dense = source.build(shape, num_classes) if net is None else net
    try:
        small = compact(NoisyNetwork(dense, torch.zeros(1, *shape)), keep)
        small.load_state_dict(tensors)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise RunError(f"{path} does not fit the network it was given ({reason})") from None
    return small.eval()
