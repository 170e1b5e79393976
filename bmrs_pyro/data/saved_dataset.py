"""Data from a folder written by ``save_to_disk`` of Hugging Face's ``datasets``."""

from __future__ import annotations

__all__ = ["is_saved_dataset", "read_saved_dataset"]

import importlib
from pathlib import Path
from typing import Any

from bmrs_pyro.data.dataset import DataError
from bmrs_pyro.data.items import LABELS

_TOKENS = "input_ids"


def is_saved_dataset(path: Path) -> bool:
    """Whether ``save_to_disk`` has written a folder."""
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def read_saved_dataset(path: Path, target: str | None, *, next_token: bool = False) -> Any:
    """Return the parts of a saved data set in the form that :func:`~bmrs_pyro.data.items.split_items` takes.

    An item is a dict of the columns that hold numbers, with the target as ``"labels"``.

    Args:
        path: the folder.
        target: the column to predict; by default ``labels`` or ``label``.
        next_token: use the tokens ``input_ids`` as their own labels if there is no such column.

    Raises:
        DataError: ``datasets`` is not installed, the folder cannot be read, or there is no target.
    """
    try:
        found = importlib.import_module("datasets").load_from_disk(str(path))
    except ImportError:
        raise DataError(
            f"{path} needs the package datasets, which is not installed: pip install datasets"
        ) from None
    except Exception as error:  # a damaged folder raises many kinds of errors
        raise DataError(f"{path} cannot be read ({' '.join(str(error).split())})") from None
    if not isinstance(found, dict):
        return _prepared(found, path, target, next_token)
    parts = {str(name): _prepared(part, path, target, next_token) for name, part in found.items()}
    if "train" not in parts:
        raise DataError(
            f"{path} has the parts {', '.join(parts)}; expected train, and if there are, validation and test"
        )
    return {part: data for part, data in parts.items() if part in ("train", "validation", "test")}


def _prepared(data: Any, path: Path, target: str | None, next_token: bool) -> Any:
    names = data.column_names
    label = target or next((name for name in (LABELS, "label") if name in names), None)
    if label is None and next_token and _TOKENS in names:
        data, label = data.add_column(LABELS, data[_TOKENS]), LABELS
    if label not in data.column_names:
        raise DataError(f"{path} has no column {label or LABELS!r}; give --target, one of {', '.join(names)}")
    if label != LABELS:
        data = data.rename_column(label, LABELS)
    if not _holds_numbers(data.features[LABELS]):
        raise DataError(f"{path}: column {label!r} holds no numbers; number its classes from 0 before saving")
    numbers = [name for name in data.column_names if _holds_numbers(data.features[name])]
    if numbers in ([], [LABELS]):
        raise DataError(f"{path} has no column of numbers but {label!r}: tokenise texts before saving")
    return data.select_columns(numbers).with_format("torch")


def _holds_numbers(feature: Any) -> bool:
    while hasattr(feature, "feature"):
        feature = feature.feature
    return str(getattr(feature, "dtype", "")).startswith(("int", "uint", "float", "bool"))
