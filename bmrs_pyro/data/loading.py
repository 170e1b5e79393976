"""The function that loads data of every kind."""

from __future__ import annotations

__all__ = ["load"]

from dataclasses import replace
from pathlib import Path

import torch

from bmrs_pyro import data  # what imports torchvision or pandas is looked up here when it reads something
from bmrs_pyro.data.arrays import read_npz
from bmrs_pyro.data.dataset import DataError, Dataset, Splits
from bmrs_pyro.data.named import NAMES, known_name, read_digits
from bmrs_pyro.data.preparation import channel_moments, resized, with_channels
from bmrs_pyro.data.splitting import TEST_SHARE, stratified_split

_TABLES = (".csv", ".parquet")


def load(
    name_or_path: str | Path,
    *,
    data_root: str | Path | None = None,
    download: bool = False,
    size: int | None = None,
    validation: float = 0.2,
    seed: int = 0,
    channels: int | None = None,
    target: str | None = None,
    values: bool = False,
) -> Splits[Dataset]:
    """Load data into memory and split them into a training, a validation and a test part.

    The validation part is a stratified share of the training part, unless the data have one (an image folder
    with ``val/`` and ``test/``). If the data have no test part (``digits``, a folder of class folders), a
    stratified fifth becomes the test part, the same for every seed.

    Args:
        name_or_path: ``digits``, ``mnist``, ``fashion_mnist`` or ``cifar10``; an ``.npz`` file
            (:func:`~bmrs_pyro.data.arrays.read_npz`); a ``.csv`` or ``.parquet`` table
            (:func:`~bmrs_pyro.data.tables.read_table`); or an image folder
            (:func:`~bmrs_pyro.data.folder.read_folder`).
        data_root: folder of the named sets, as ``NAME.npz`` or in torchvision's layout; ``data`` by default.
        download: let torchvision download a named set that is missing.
        size: height and width of the images in pixels; None keeps their size. Images are scaled bilinearly
            until the shorter side fits, then cropped at the centre.
        validation: share of the training part to hold out, in (0, 1).
        seed: seed of the validation split.
        channels: 1 or 3 to convert images to grey or colour; None keeps their channels.
        target: the column of a table to predict.
        values: read the labels of a file as real values, not as classes.

    Returns:
        The three parts; ``mean`` and ``std`` of all three are those of the training part after the splits.

    Raises:
        DataError: the data cannot be used; the message gives the reason in one line.
    """
    table = Path(name_or_path).suffix.lower() in _TABLES
    if target is not None and not table:
        raise DataError(f"{name_or_path}: a target is a column of a .csv or .parquet file; leave it out")
    if table and Path(name_or_path).is_file():
        path = Path(name_or_path)
        name, parts = path.stem, data.read_table(path, target, values=values)
    else:
        name, parts = _read(name_or_path, Path(data_root or "data"), download, size, channels, values)
    if "test" not in parts:
        parts["train"], parts["test"] = stratified_split(parts["train"], TEST_SHARE)
    if "validation" not in parts:
        parts["train"], parts["validation"] = stratified_split(parts["train"], validation, seed=seed)
    if channels is not None:
        parts = {key: replace(part, images=with_channels(part, channels)) for key, part in parts.items()}
    if size is not None:
        parts = {key: replace(part, images=resized(part, size)) for key, part in parts.items()}
    shapes = {key: part.input_shape for key, part in parts.items()}
    if len(set(shapes.values())) > 1:
        told = ", ".join(f"{key} {shape}" for key, shape in shapes.items())
        raise DataError(f"{name_or_path}: the examples differ in shape: {told}")
    mean, std = _moments(parts["train"])
    return Splits(**{key: replace(part, name=name, mean=mean, std=std) for key, part in parts.items()})


def _moments(train: Dataset) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and std of the inputs; (0, 1) for tokens and categories, which are not normalised."""
    if train.images.dtype == torch.int64:
        return (0.0,), (1.0,)
    mean, std = channel_moments(train.images, train.channel_axis)
    if any(train.columns.values()):
        categories = list(train.columns.values())
        mean = tuple(0.0 if names else one for one, names in zip(mean, categories, strict=False))
        std = tuple(1.0 if names else one for one, names in zip(std, categories, strict=False))
    return mean, std


def _read(
    name_or_path: str | Path,
    root: Path,
    download: bool,
    size: int | None,
    channels: int | None,
    values: bool,
) -> tuple[str, dict[str, Dataset]]:
    known, path = known_name(str(name_or_path)), Path(name_or_path)
    if values and (known or path.is_dir()):
        raise DataError(f"{name_or_path} holds classes, not real values; use the categorical likelihood")
    if known == "digits":
        return known, read_digits()
    if known:
        return known, data.read_torchvision(known, root, download=download)
    if path.suffix.lower() == ".npz" and path.is_file():
        return path.stem, read_npz(path, values=values)
    if path.is_dir():
        return path.resolve().name, data.read_folder(path, size, channels)
    raise DataError(
        f"{name_or_path}: no such data; give one of {', '.join(NAMES)}, a .npz, .csv or .parquet file, or a folder of "
        "images"
    )
