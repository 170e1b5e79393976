"""Data from numpy arrays: their conversion, and ``.npz`` files with ``x_train y_train x_test y_test``."""

from __future__ import annotations

__all__ = ["as_images", "as_labels", "read_npz"]

import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bmrs_pyro.data.dataset import DataError, Dataset

_KEYS = ("x_train", "y_train", "x_test", "y_test")


def read_npz(path: Path, class_names: tuple[str, ...] = ()) -> dict[str, Dataset]:
    """Read the training and test part of an ``.npz`` file; nothing in it is unpickled.

    Args:
        path: a file with the arrays ``x_train y_train x_test y_test``, as :func:`as_images` and
            :func:`as_labels` describe them.
        class_names: the K names of the classes. Without them K is one more than the largest training label,
            and every label below it must occur: labels that start at 1 would else give the network a dead
            output.

    Returns:
        ``{"train": …, "test": …}``.

    Raises:
        DataError: the file cannot be read, an array is missing or not as described, or a class has no
            example.
    """
    arrays = _read(path)
    labels = {part: as_labels(arrays[f"y_{part}"], f"{path}: y_{part}") for part in ("train", "test")}
    names = class_names or _numbers(labels["train"], f"{path}: y_train")
    return {
        part: Dataset(
            as_images(arrays[f"x_{part}"], f"{path}: x_{part}"),
            labels[part],
            len(names),
            f"{path} (x_{part}, y_{part})",
            names,
        )
        for part in ("train", "test")
    }


def as_images(array: np.ndarray, where: str) -> Tensor:
    """Turn an array into images ``(N, C, H, W)`` or feature vectors ``(N, F)``.

    Args:
        array: ``(N, H, W)``, ``(N, H, W, C)``, ``(N, C, H, W)`` or ``(N, F)``; of axis 1 and the last, the
            shorter one is the channel axis. uint8 stays uint8, other real numbers become float32.
        where: what messages call the array.

    Raises:
        DataError: another rank or type.
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
    """Turn an array of integers ``(N,)`` or ``(N, 1)`` into ``(N,)`` int64 labels.

    Raises:
        DataError: another shape, or not integers.
    """
    if array.dtype.kind not in "iu":
        raise DataError(f"{where} holds {array.dtype}; labels must be integers 0 … K-1")
    if array.ndim != 1 and array.shape[1:] != (1,):
        raise DataError(f"{where} has shape {array.shape}; labels must have shape (N,)")
    return torch.from_numpy(array.ravel().astype(np.int64))


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as stream:  # numpy itself leaves a damaged file open
            file = np.load(stream, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("it holds a single array")
            if missing := [key for key in _KEYS if key not in file]:
                raise DataError(f"{path}: {', '.join(missing)} missing; found {', '.join(file) or 'nothing'}")
            return {key: file[key] for key in _KEYS}
    except DataError:
        raise
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}); write plain arrays with numpy.savez") from error


def _numbers(labels: Tensor, where: str) -> tuple[str, ...]:
    present = labels.unique()
    if not torch.equal(present, torch.arange(len(present))):
        raise DataError(
            f"{where} holds {len(present)} classes from {present.min()} to {present.max()}; "
            "number them 0 … K-1 without gaps"
        )
    return tuple(map(str, range(len(present))))
