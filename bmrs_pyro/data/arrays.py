"""Data from numpy arrays: their conversion, and ``.npz`` files with ``x_train y_train x_test y_test``."""

from __future__ import annotations

__all__ = ["as_images", "as_labels", "as_values", "read_npz"]

import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bmrs_pyro.data.dataset import DataError, Dataset, values_each

_PARTS = ("train", "test")


def read_npz(path: Path, class_names: tuple[str, ...] = (), *, values: bool = False) -> dict[str, Dataset]:
    """Read the training and test part of an ``.npz`` file; nothing in it is unpickled.

    Args:
        path: a file with the arrays ``x_train y_train x_test y_test``, as :func:`as_images` and
            :func:`as_labels` describe them. Instead of ``x`` the file may hold ``tokens``, integers ``(N, T)``, or
            ``sequences``, real numbers ``(N, T, F)``. Tokens without ``y`` are their own labels.
        class_names: the K names of the classes. Without them, K is the largest training label plus 1, and
            every label below K must occur: labels that start at 1 would give the network an unused
            output. This is not required of labels per pixel or per token.
        values: read ``y`` as real values, not as classes.

    Returns:
        ``{"train": …, "test": …}``.

    Raises:
        DataError: the file cannot be read, an array is missing or does not fit the description, or a class
            has no example.
    """
    arrays = _read(path)
    kind = next(kind for kind in _INPUTS if f"{kind}_train" in arrays)
    inputs = {part: _INPUTS[kind](arrays[f"{kind}_{part}"], f"{path}: {kind}_{part}") for part in _PARTS}
    if "y_train" not in arrays:
        labels, target = inputs, kind
    else:
        target, read = "y", as_values if values else as_labels
        labels = {part: read(arrays[f"y_{part}"], f"{path}: y_{part}") for part in _PARTS}
    if values:
        outputs = values_each(labels["train"], inputs["train"])
    elif labels["train"].ndim > 1:
        outputs = int(max(part.max() for part in (labels if target == "y" else inputs).values())) + 1
        if outputs == 256 and target == "y" and len(labels["train"].unique()) < 256:
            warnings.warn(
                f"{path}: y_train holds the label 255, so the network needs 256 outputs; write -100 where nothing is "
                "labelled",
                stacklevel=2,
            )
    else:
        class_names = class_names or _numbered_classes(labels["train"], f"{path}: y_train")
        outputs = len(class_names)
    return {
        part: Dataset(
            inputs[part], labels[part], outputs, f"{path} ({kind}_{part}, {target}_{part})", class_names
        )
        for part in _PARTS
    }


def as_images(array: np.ndarray, where: str) -> Tensor:
    """Turn an array into images ``(N, C, H, W)`` or feature vectors ``(N, F)``.

    Args:
        array: ``(N, H, W)``, ``(N, H, W, C)``, ``(N, C, H, W)`` or ``(N, F)``. The channel axis is axis 1 or
            the last axis, whichever is shorter. uint8 stays uint8, other real numbers become float32.
        where: name of the array in messages.

    Raises:
        DataError: the array has another number of dimensions or another type.
    """
    if array.dtype.kind not in "buif":
        raise DataError(f"{where} holds {array.dtype}; expected uint8 or real numbers")
    if array.ndim not in (2, 3, 4):
        raise DataError(
            f"{where} has shape {array.shape}; expected (N, H, W), (N, H, W, C), (N, C, H, W) or (N, F)"
        )
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4 and array.shape[3] <= array.shape[1]:
        array = array.transpose(0, 3, 1, 2)
    dtype = np.uint8 if array.dtype == np.uint8 else np.float32
    with np.errstate(over="ignore"):  # too large for float32 gives infinity, which Dataset refuses
        return torch.from_numpy(np.require(array, dtype, ["C", "W"]))


def as_labels(array: np.ndarray, where: str) -> Tensor:
    """Turn integers or booleans ``(N,)`` or ``(N, 1)`` into int64 labels ``(N,)``; labels ``(N, …)`` keep their shape.

    Raises:
        DataError: neither integers nor booleans.
    """
    if array.dtype.kind not in "iub":
        raise DataError(
            f"{where} holds {array.dtype}; labels must be integers 0 … K-1; for real values "
            "choose a likelihood, such as --likelihood normal"
        )
    if array.ndim < 1:
        raise DataError(f"{where} has shape {array.shape}; labels must have shape (N,)")
    shape = array.shape[:1] if array.shape[1:] in ((), (1,)) else array.shape
    return torch.from_numpy(array.reshape(shape).astype(np.int64))


def as_values(array: np.ndarray, where: str) -> Tensor:
    """Turn an array of real numbers ``(N, …)`` into float32 values; ``(N, 1)`` is the same as ``(N,)``.

    Raises:
        DataError: not real numbers.
    """
    if array.dtype.kind not in "buif" or array.ndim < 1:
        raise DataError(f"{where} holds {array.dtype}, shape {array.shape}; values are real numbers (N, …)")
    shape = array.shape[:1] if array.shape[1:] == (1,) else array.shape
    with np.errstate(over="ignore"):  # too large for float32 gives infinity, which Dataset refuses
        return torch.from_numpy(array.reshape(shape).astype(np.float32))


def _tokens(array: np.ndarray, where: str) -> Tensor:
    if array.dtype.kind not in "iu" or array.ndim != 2 or array.size == 0 or array.min() < 0:
        raise DataError(
            f"{where} holds {array.dtype}, shape {array.shape}; tokens are integers (N, T) from 0"
        )
    return torch.from_numpy(array.astype(np.int64))


def _sequences(array: np.ndarray, where: str) -> Tensor:
    if array.ndim != 3:
        raise DataError(f"{where} has shape {array.shape}; sequences are real numbers (N, T, F)")
    return as_images(array, where)[:, 0]


_INPUTS: dict[str, Callable[[np.ndarray, str], Tensor]] = {
    "x": as_images,
    "tokens": _tokens,
    "sequences": _sequences,
}


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        if not zipfile.is_zipfile(path):  # numpy would advise to unpickle it
            raise ValueError("it is no .npz file")
        with path.open("rb") as stream:  # numpy itself leaves a damaged file open
            file = np.load(stream, allow_pickle=False)
            kind = next((kind for kind in _INPUTS if f"{kind}_train" in file), "x")
            targets = [] if kind == "tokens" and "y_train" not in file else ["y"]
            keys = [f"{name}_{part}" for part in _PARTS for name in (kind, *targets)]
            if missing := [key for key in keys if key not in file]:
                raise DataError(f"{path}: {', '.join(missing)} missing; found {', '.join(file) or 'nothing'}")
            return {key: file[key] for key in keys}
    except DataError:
        raise
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}); write plain arrays with numpy.savez") from error


def _numbered_classes(labels: Tensor, where: str) -> tuple[str, ...]:
    present = labels.unique()
    if not torch.equal(present, torch.arange(len(present))):
        raise DataError(
            f"{where} holds {len(present)} classes from {present.min()} to {present.max()}; number them 0 … K-1 "
            "without gaps, and give an example of each for training"
        )
    return tuple(map(str, range(len(present))))
