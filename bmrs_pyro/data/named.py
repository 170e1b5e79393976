"""The data sets known by name, and scikit-learn's digits."""

from __future__ import annotations

__all__ = ["DIGITS", "NAMES", "known_name", "read_digits"]

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from bmrs_pyro.data.arrays import as_images
from bmrs_pyro.data.dataset import DataError, Dataset

DIGITS = tuple("0123456789")
NAMES = ("digits", "mnist", "fashion_mnist", "cifar10")
"""All names; the first one is the default."""


def known_name(text: str) -> str | None:
    """Return the data set's name, ignoring case and hyphens: ``"CIFAR-10"`` is ``"cifar10"``; None if unknown."""
    return next((name for name in NAMES if _plain(name) == _plain(text)), None)


def read_digits() -> dict[str, Dataset]:
    """Read scikit-learn's 1797 grey images of 8 × 8 pixels, with the levels 0 … 16 scaled to 0 … 255.

    The file is read without importing scikit-learn, because that takes longer than importing torch.

    Raises:
        DataError: scikit-learn is not installed, or keeps the file elsewhere.
    """
    package = find_spec("sklearn")
    file = Path(str(package.origin)).parent / "datasets" / "data" / "digits.csv.gz" if package else None
    if file is None or not file.exists():
        raise DataError("digits: scikit-learn's digits.csv.gz is not installed; run pip install scikit-learn")
    rows = np.loadtxt(file, delimiter=",", dtype=np.int64)
    images = as_images(np.rint(rows[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8), "digits")
    return {"train": Dataset(images, torch.from_numpy(rows[:, -1]), 10, "digits", DIGITS)}


def _plain(text: str) -> str:
    return text.lower().replace("-", "").replace("_", "")
