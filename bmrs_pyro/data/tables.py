"""Data from tables: ``.csv`` and ``.parquet`` files, with one column as the target."""

from __future__ import annotations

__all__ = ["read_table"]

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from pandas.api.types import is_bool_dtype, is_integer_dtype, is_list_like, is_numeric_dtype

from bmrs_pyro.data.dataset import DataError, Dataset


def read_table(path: Path, target: str | None, *, values: bool = False) -> dict[str, Dataset]:
    """Read a table; all columns but the target are features ``(N, F)``.

    Columns of numbers are normalised later. Other columns are categories: the feature is the category's place among
    the column's categories in alphabetical order, and is not normalised.

    Args:
        path: a ``.csv`` file with a header, or a ``.parquet`` file (needs pyarrow).
        target: name of the column to predict.
        values: read the target as real values; otherwise as classes, which may be texts or integers.

    Returns:
        ``{"train": …}``; its ``columns`` name the features in order, then the target.

    Raises:
        DataError: the file cannot be read, there is no such column, a cell is empty, infinite or a list, or the target
            does not fit.
    """
    table = _read(path)
    if target is None or target not in table:
        asked = "no target is named" if target is None else f"there is no column {target!r}"
        known = ", ".join(name if name == name.strip() else repr(name) for name in map(str, table.columns))
        if len(table.columns) == 1 and (separator := next((mark for mark in ";\t|" if mark in known), "")):
            raise DataError(
                f"{path} has a single column, {known}; separate columns by commas, not by {separator!r}"
            )
        raise DataError(f"{path}: {asked}; give --target, one of {known}")
    if table.empty:
        raise DataError(f"{path} has {len(table.columns)} columns but no rows; add a row for every example")
    if len(table.columns) < 2:
        raise DataError(f"{path} has no column but {target!r}; add a column for every feature")
    empty = table.isna().sum()
    if empty.any():
        name = empty.idxmax()
        raise DataError(
            f"{path}: column {name!r} has {empty[name]} empty cells (NA, None and NaN count as empty); fill them in or "
            "leave the rows out"
        )
    features = {
        str(name): _feature(table[name], f"{path}: column {name!r}")
        for name in table.columns
        if name != target
    }
    labels, names = _target(table[target], values, f"{path}: column {target!r}")
    columns = {name: categories for name, (_, categories) in features.items()} | {target: names}
    x = torch.from_numpy(np.stack([numbers for numbers, _ in features.values()], 1))
    y = torch.from_numpy(labels)
    return {"train": Dataset(x, y, len(names) or 1, str(path), names, columns=columns)}


def _read(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path) if path.suffix.lower() == ".csv" else pd.read_parquet(path, engine="pyarrow")
    except ImportError:
        raise DataError(f"{path}: parquet files need pyarrow: pip install 'bmrs-pyro[tables]'") from None
    except Exception as error:  # a damaged file raises many kinds of errors
        hint = "; separate the columns by commas" if isinstance(error, pd.errors.ParserError) else ""
        raise DataError(f"{path} cannot be read ({' '.join(str(error).split())}){hint}") from None


def _feature(column: pd.Series, where: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return a column's numbers and ``()``, or the places and names of its categories."""
    if is_numeric_dtype(column) and not is_bool_dtype(column):
        return _float32(column, where), ()
    if is_list_like(column.iloc[0]):
        raise DataError(
            f"{where} holds lists; a cell is one number or text, so give each element a column, or write a .npz file"
        )
    categories = pd.Categorical(column.astype(str))
    if len(categories.categories) > max(20, len(column) // 2):
        warnings.warn(
            f"{where} has {len(categories.categories)} different texts in {len(column)} rows, which are read as "
            "categories; write dates as numbers, write numbers with a decimal point, and leave out names that tell the "
            "rows apart",
            stacklevel=2,
        )
    return categories.codes.astype(np.float32), tuple(categories.categories)


def _float32(column: pd.Series, where: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        numbers = column.to_numpy(np.float64).astype(np.float32)
    if not (finite := np.isfinite(numbers)).all():
        raise DataError(
            f"{where} holds {column.iloc[int((~finite).argmax())]}, which is infinite or too large for float32"
        )
    return numbers


def _target(column: pd.Series, values: bool, where: str) -> tuple[np.ndarray, tuple[str, ...]]:
    if values:
        if not is_numeric_dtype(column):
            raise DataError(
                f"{where} holds texts, such as {column.iloc[0]!r:.40}; this likelihood needs numbers"
            )
        return _float32(column, where), ()
    if is_numeric_dtype(column) and not is_integer_dtype(column) and not is_bool_dtype(column):
        raise DataError(
            f"{where} holds real numbers, not classes; choose a likelihood, such as --likelihood normal, or write "
            "classes as integers"
        )
    # integers are sorted as numbers, not as texts
    categories = pd.Categorical(column if is_integer_dtype(column) else column.astype(str))
    if is_integer_dtype(column) and len(categories.categories) > max(20, len(column) // 2):
        warnings.warn(
            f"{where} has {len(categories.categories)} different integers in {len(column)} rows, which are read as "
            "classes; for counts choose --likelihood poisson, for values --likelihood normal",
            stacklevel=2,
        )
    return categories.codes.astype(np.int64), tuple(map(str, categories.categories))
