"""Data from a folder of images, one subfolder per class."""

from __future__ import annotations

__all__ = ["read_folder"]

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, make_dataset

from bmrs_pyro.data.dataset import DataError, Dataset
from bmrs_pyro.data.preparation import check_room, check_size

_DEEP = ("I", "F")  # first letters of Pillow's 16 and 32 bit modes; Pillow clips these when it converts them
_DAMAGE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)  # which one depends on the format
# the transpose that turns an image upright, by its EXIF orientation
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class _Sample(NamedTuple):
    path: str
    label: int


class _Format(NamedTuple):
    mode: str  # Pillow's name: "L" or "RGB"
    size: tuple[int, int]  # (width, height)


def read_folder(path: Path, size: int | None = None, channels: int | None = None) -> dict[str, Dataset]:
    """Decode an image folder into uint8 arrays in memory.

    The folder holds one subfolder per class, or folders ``train/`` (and ``test/``, ``val/``) with these subfolders.
    If there are both ``val/`` and ``test/``, ``val/`` is for validation; if there is only one of them, it is the test
    part. Images are turned upright by their EXIF orientation.

    Args:
        path: the folder.
        size: height and width in pixels; images are scaled bilinearly until the shorter side fits, then cropped
            at the centre. Without it all images must have the same size.
        channels: 1 for grey, 3 for colour; by default grey if every image is.

    Returns:
        Data sets by ``"train"`` and, where these folders exist, ``"validation"`` and ``"test"``.

    Raises:
        DataError: there are no class folders, a class has no images, an image cannot be read, sizes differ and no
            ``size`` is given, a class is not in the training part, or the data are too large for memory.
    """
    if size is not None:
        check_size(size)
    if channels not in (None, 1, 3):
        raise DataError(f"{path}: channels is {channels}; images are read with 1 (grey) or 3 (colour)")
    folders = _part_folders(path)
    classes = _classes(folders["train"])
    samples = {part: _samples(folder, classes) for part, folder in folders.items()}
    every = [sample for part in samples.values() for sample in part]
    # decoding releases Python's global lock, so threads run in parallel
    with ThreadPoolExecutor() as pool:
        formats = dict(zip(every, pool.map(_format, every), strict=True))
        target = _common_format(path, formats, size, channels)
        check_room(str(path), (len(every), *_shape(target)))
        return {
            part: Dataset(
                _decoded(pool, samples[part], target),
                torch.tensor([sample.label for sample in samples[part]]),
                len(classes),
                str(folder),
                tuple(classes),
            )
            for part, folder in folders.items()
        }


def _part_folders(path: Path) -> dict[str, Path]:
    # a class may be called "train" too, but its folder holds images, not folders
    if not any(entry.is_dir() for entry in path.glob("train/*")):
        return {"train": path}
    held_out = [path / name for name in ("test", "val") if (path / name).is_dir()]
    return {"train": path / "train", **dict(zip(("test", "validation"), held_out, strict=False))}


def _classes(folder: Path) -> list[str]:
    try:
        return find_classes(folder)[0]
    except OSError as error:
        raise DataError(f"{folder}: no class folders; expected one subfolder of images per class") from error


def _samples(folder: Path, classes: Sequence[str]) -> list[_Sample]:
    found = _classes(folder)
    if unknown := sorted(set(found) - set(classes)):
        raise DataError(
            f"{folder}: class {unknown[0]!r} is not in the training part, whose classes are {classes}"
        )
    try:
        pairs = make_dataset(folder, {name: classes.index(name) for name in found}, extensions=IMG_EXTENSIONS)
    except FileNotFoundError as error:
        raise DataError(f"{folder}: {error}") from error
    return [_Sample(*pair) for pair in pairs]


@contextmanager
def _opened(path: str) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as image:
            yield image
    except _DAMAGE as error:
        raise DataError(f"{path}: not a readable image ({error})") from error


def _format(sample: _Sample) -> _Format:
    """Read the header of one file; a TIFF, or a PNG without EXIF data in its header, is read whole."""
    with _opened(sample.path) as image:
        on_its_side = _orientation(image) >= 5
        width, height = image.size
        return _Format(image.mode, (height, width) if on_its_side else (width, height))


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 (upright) to 8; 1 where there is none or it is damaged."""
    if image.format == "TIFF":
        image.load()  # turns it upright
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged EXIF data raise many kinds of errors; the pixels can still be read
        return 1
    return found if found in _UPRIGHT else 1


def _common_format(
    path: Path, formats: dict[_Sample, _Format], size: int | None, channels: int | None
) -> _Format:
    deep = [sample.path for sample, found in formats.items() if found.mode.startswith(_DEEP)]
    if deep:
        raise DataError(f"{deep[0]}: more than 8 bits per channel; convert the image to 8 bits")
    grey = channels == 1 or (channels is None and all(found.mode in ("1", "L") for found in formats.values()))
    mode = "L" if grey else "RGB"
    if size:
        return _Format(mode, (size, size))
    sizes = {found.size: sample.path for sample, found in formats.items()}
    if len(sizes) > 1:
        (one, first), (other, second) = list(sizes.items())[:2]
        raise DataError(
            f"{path}: images differ in size ({first} {one}, {second} {other}); choose a size for all, as with --size 64"
        )
    return _Format(mode, next(iter(sizes)))


def _shape(target: _Format) -> tuple[int, int, int]:
    width, height = target.size
    return Image.getmodebands(target.mode), height, width


def _decoded(pool: Executor, samples: Sequence[_Sample], target: _Format) -> torch.Tensor:
    """Decode images into one ``(N, C, H, W)`` uint8 tensor."""

    def decode(sample: _Sample) -> np.ndarray:
        with _opened(sample.path) as image:
            turn = _UPRIGHT.get(_orientation(image))
            upright = image if turn is None else image.transpose(turn)
            fitted = ImageOps.fit(upright.convert(target.mode), target.size, Image.Resampling.BILINEAR)
        return np.asarray(fitted).reshape(*fitted.size[::-1], -1).transpose(2, 0, 1)

    images = np.empty((len(samples), *_shape(target)), dtype=np.uint8)
    for row, image in zip(images, pool.map(decode, samples), strict=True):
        row[...] = image
    return torch.from_numpy(images)
