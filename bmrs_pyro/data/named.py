"""The data sets known by name: scikit-learn's digits; MNIST, Fashion-MNIST and CIFAR-10 by torchvision."""

from __future__ import annotations

__all__ = ["NAMES", "known_name", "read_digits", "read_torchvision"]

from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torchvision import datasets

from bmrs_pyro.data.arrays import as_images, read_npz
from bmrs_pyro.data.dataset import DataError, Dataset

_DIGITS = tuple("0123456789")
_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_TORCHVISION = {
    "mnist": (datasets.MNIST, _DIGITS),
    "fashion_mnist": (datasets.FashionMNIST, tuple(datasets.FashionMNIST.classes)),
    "cifar10": (datasets.CIFAR10, _CIFAR10),
}
NAMES = ("digits", *_TORCHVISION)
"""All names; the first one is the default."""


def known_name(text: str) -> str | None:
    """Return the data set's name, ignoring case and hyphens: ``"CIFAR-10"`` is ``"cifar10"``; None if unknown."""
    return next((name for name in NAMES if _plain(name) == _plain(text)), None)


def read_digits() -> dict[str, Dataset]:
    """Read scikit-learn's 1797 grey images of 8 × 8 pixels, with the levels 0 … 16 scaled to 0 … 255."""
    digits = load_digits()
    images = as_images(np.rint(digits.images * (255 / 16)).astype(np.uint8), "digits")
    return {"train": Dataset(images, torch.from_numpy(digits.target).long(), 10, "digits", _DIGITS)}


def read_torchvision(name: str, root: Path, *, download: bool = False) -> dict[str, Dataset]:
    """Read ``NAME.npz`` by :func:`~bmrs_pyro.data.arrays.read_npz`, or torchvision's files if there is none.

    Args:
        name: one of :data:`NAMES` except ``"digits"``.
        root: the folder of the file, or of torchvision's files (``MNIST/raw/…``, ``cifar-10-batches-py/…``).
        download: let torchvision download missing files.

    Returns:
        ``{"train": …, "test": …}``.

    Raises:
        DataError: there are no such files, or they cannot be read.
    """
    source, class_names = _TORCHVISION[name]
    for path in sorted(root.glob("*.npz")):
        if known_name(path.stem) == name:
            return read_npz(path, class_names)
    try:
        parts = {part: source(root, train=part == "train", download=download) for part in ("train", "test")}
    # a missing file raises RuntimeError, a damaged file any other kind of error
    except Exception as error:
        reason = str(error).partition(". ")[0].partition("\n")[0]
        raise DataError(
            f"{name}: found neither {name}.npz nor torchvision's files in {root} ({reason}); "
            "give their folder with --data-root, or allow the download with --download of bmrs fit"
        ) from error
    return {
        part: Dataset(
            as_images(np.asarray(found.data), f"{name} {part}"),
            torch.as_tensor(found.targets),
            len(class_names),
            f"{name} {part}",
            class_names,
        )
        for part, found in parts.items()
    }


def _plain(text: str) -> str:
    return text.lower().replace("-", "").replace("_", "")
