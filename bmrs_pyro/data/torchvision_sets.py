"""MNIST, Fashion-MNIST and CIFAR-10, as one file or in torchvision's layout.

Only these need torchvision, which takes several times as long to import as torch.
"""

from __future__ import annotations

__all__ = ["read_torchvision"]

from pathlib import Path

import numpy as np
import torch
from torchvision import datasets

from bmrs_pyro.data.arrays import as_images, read_npz
from bmrs_pyro.data.dataset import DataError, Dataset
from bmrs_pyro.data.named import DIGITS, known_name

_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_TORCHVISION = {
    "mnist": (datasets.MNIST, DIGITS),
    "fashion_mnist": (datasets.FashionMNIST, tuple(datasets.FashionMNIST.classes)),
    "cifar10": (datasets.CIFAR10, _CIFAR10),
}


def read_torchvision(name: str, root: Path, *, download: bool = False) -> dict[str, Dataset]:
    """Read ``NAME.npz`` by :func:`~bmrs_pyro.data.arrays.read_npz`, or torchvision's files if there is none.

    Args:
        name: ``"mnist"``, ``"fashion_mnist"`` or ``"cifar10"``.
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
