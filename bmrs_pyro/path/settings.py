"""The settings of a path, as recorded beside its points, so that it is continued with the same ones."""

from __future__ import annotations

__all__ = ["OPTIONS", "recorded", "refuse_other_settings", "refuse_without_effect"]

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from bmrs_pyro.files import seal, unseal, write_atomically
from bmrs_pyro.training.options import refuse_unknown
from bmrs_pyro.training.recipe import OF_MODEL_AND_LOADER, Hardware, Recipe

FILE = "settings.json"

_STATES = ("dense", "epoch-*", "refit-*", "reduced-*")
"""Names of the files of states."""

_WITHOUT_EFFECT = OF_MODEL_AND_LOADER | {"recipe", "posterior_lr_factor", "schedule", "fine_tune_epochs"}

OPTIONS = {
    *("criterion", "epochs", "dense_epochs", "directory", "hardware", "optim", "progress", "callbacks"),
    *(
        field.name
        for kind in (Recipe, Hardware)
        for field in fields(kind)
        if field.name not in _WITHOUT_EFFECT
    ),
}
"""Options of :func:`fit_path`: its own and those that it passes to :func:`fit`."""


def recorded(folder: str | Path | None) -> dict[str, Any]:
    """Return the settings of the path in a folder; none if there is no path.

    Raises:
        ValueError: the file cannot be read.
    """
    file = None if folder is None else Path(folder) / FILE
    if file is None or not file.exists():
        return {}
    try:
        return unseal(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{file} cannot be read ({error}): delete the folder {folder}, or give another one"
        ) from None


def refuse_other_settings(folder: Path, settings: Mapping[str, Any], *, write: bool) -> None:
    """Record the settings in a folder, if this process writes, or compare them with those of the path that is there.

    Raises:
        ValueError: the folder's path has other settings, or none are recorded.
    """
    found, settings = recorded(folder), json.loads(json.dumps(settings))
    if not found and any(any(folder.glob(f"{state}.safetensors")) for state in _STATES):
        raise ValueError(
            f"{folder} holds the states of a path without their {FILE}: restore that file, or give another directory"
        )
    known = {"trained": False, **found} if found else found  # paths of earlier versions
    for name, value in settings.items():
        before = known.get(name, value)
        if not _same(before, value):
            if isinstance(before, list):
                raise ValueError(
                    f"{folder} holds a path with another network or likelihood, or other validation data: the layers "
                    "are alike, but with the same weights the data are predicted otherwise; give another directory, or "
                    "the same of all three"
                )
            if isinstance(before, dict):  # tell of one entry that differs
                key = next(key for key in {**before, **value} if before.get(key) != value.get(key))
                if key not in before or key not in value:
                    has, lacks = ("its", "this network's") if key in before else ("this network's", "its")
                    raise ValueError(
                        f"{folder} holds a path with another network: {key!r} is among {has} {name}, but not among "
                        f"{lacks}; give another directory, or the same network"
                    )
                name, before, value = f"{name}[{key!r}]", before[key], value[key]
            if str(value).startswith("of digest"):  # its letters say nothing
                raise ValueError(
                    f"{folder} holds a path with other {name}; give another directory, or the same {name}"
                )
            raise ValueError(
                f"{folder} holds a path with {name} {_told(before)}, not {_told(value)}; give another directory, "
                "or the same settings"
            )
    if write and not known:
        text = json.dumps(seal(settings))
        write_atomically(folder / FILE, lambda partial: partial.write_text(text, encoding="utf-8"))


def _told(value: Any) -> str:
    return "by default" if value is None else repr(value)


def _same(known: Any, value: Any) -> bool:
    """Whether two settings are the same; measured numbers may differ by rounding on another machine."""
    if isinstance(known, list) and isinstance(value, list) and known and value:
        return all(math.isclose(*pair, rel_tol=1e-3) for pair in zip(known, value, strict=True))
    return isinstance(known, list) or known == value


def refuse_without_effect(
    options: Collection[str], known: Collection[str] = OPTIONS, what: str = "fit_path()"
) -> None:
    """Refuse options that :func:`fit_path` does not take.

    Raises:
        ValueError: an option of :func:`fit` is one that a path sets itself, or takes from model and loader.
        TypeError: an option is unknown.
    """
    if useless := sorted(_WITHOUT_EFFECT & set(options)):
        have = "have" if useless[1:] else "has"
        raise ValueError(
            f"{', '.join(useless)} {have} no effect on a path, which sets KL weight and rates itself and takes "
            "likelihood, draws, precision and batches from model and loader; leave it out, or call fit()"
        )
    refuse_unknown(options, known, what)
