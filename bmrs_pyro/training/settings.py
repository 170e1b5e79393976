"""The settings of a path, as recorded beside its points, so that it is continued with the same ones."""

from __future__ import annotations

__all__ = ["refuse_other_settings", "refuse_without_effect"]

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from bmrs_pyro.files import seal, unseal, write_atomically

FILE = "settings.json"

_WITHOUT_EFFECT = {
    "recipe",
    "kl_weight",
    "posterior_lr_factor",
    "schedule",
    "fine_tune_epochs",
    "likelihood",
    "label_smoothing",
    "batch_size",
    "augment",
}


def refuse_other_settings(folder: Path, settings: Mapping[str, Any], *, write: bool) -> None:
    """Record the settings in a folder, or compare them with those of the path that is there.

    Args:
        folder: folder of the points.
        settings: plain JSON types by name.
        write: whether this process writes.

    Raises:
        ValueError: the folder's path has other settings.
    """
    file, settings = folder / FILE, json.loads(json.dumps(settings))
    if file.exists():
        known = unseal(file.read_text(encoding="utf-8"))
        for name, value in settings.items():
            if known.get(name, value) != value:
                raise ValueError(
                    f"{folder} holds a path with {name} {known[name]!r}, not {value!r}; give another directory, or "
                    "the same settings"
                )
    elif write:
        text = json.dumps(seal(settings))
        write_atomically(file, lambda partial: partial.write_text(text, encoding="utf-8"))


def refuse_without_effect(options: Collection[str]) -> None:
    """Raise ValueError for an option of :func:`fit` that a path sets itself, or takes from model and loader."""
    if useless := sorted(_WITHOUT_EFFECT & set(options)):
        raise ValueError(
            f"{', '.join(useless)} has no effect on a path, which sets KL weight and rates itself and takes likelihood "
            "and batches from model and loader; leave it out, or call fit()"
        )
