"""Preparation of images before they are stored: size, channels, and the statistics of the channels."""

from __future__ import annotations

__all__ = ["MAX_BYTES", "channel_moments", "check_room", "check_size", "resized", "with_channels"]

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from bmrs_pyro.data.dataset import DataError, Dataset

MAX_BYTES = 16 * 2**30
"""The largest array of images that is built in memory."""

_CHUNK = 1024  # examples per pass, so that float copies stay small beside the stored uint8 images


def check_size(size: int) -> None:
    """Refuse a size in pixels that is not positive."""
    if size < 1:
        raise DataError(f"size is {size}; it must be a positive number of pixels")


def check_room(name: str, shape: tuple[int, ...], itemsize: int = 1) -> None:
    """Refuse an array of images that would not fit in memory.

    Raises:
        DataError: it would take more than :data:`MAX_BYTES`.
    """
    needed = torch.Size(shape).numel() * itemsize
    if needed > MAX_BYTES:
        raise DataError(
            f"{name}: {shape[0]} images of shape {tuple(shape[1:])} take {needed / 2**30:.1f} GiB, more than "
            f"the {MAX_BYTES / 2**30:.0f} GiB held in memory; choose a smaller size or fewer images"
        )


def resized(dataset: Dataset, size: int) -> Tensor:
    """Scale images bilinearly, antialiased, until the shorter side fits, then crop them at the centre.

    Returns:
        Images ``(N, C, size, size)`` of the same dtype.

    Raises:
        DataError: the data are feature vectors, the size is not positive, or the result would not fit in
            memory.
    """
    _check_images(dataset, f"size {size}")
    check_size(size)
    images = dataset.images
    if images.shape[2:] == (size, size):
        return images
    shape = (*images.shape[:2], size, size)
    check_room(dataset.name, shape, images.itemsize)
    result = images.new_empty(shape)
    shorter = min(images.shape[2:])
    height, width = (size * side // shorter for side in images.shape[2:])
    top, left = (round((side - size) / 2) for side in (height, width))
    for source, target in zip(images.split(_CHUNK), result.split(_CHUNK), strict=True):
        scaled = interpolate(source, (height, width), mode="bilinear", align_corners=False, antialias=True)
        target.copy_(scaled[..., top : top + size, left : left + size])
    return result


def with_channels(dataset: Dataset, channels: int) -> Tensor:
    """Repeat a grey channel three times, or average three colours into grey (weights: ITU-R BT.601 luma).

    Returns:
        Images ``(N, channels, H, W)``; grey ones are expanded without a copy.

    Raises:
        DataError: the data are feature vectors, or the conversion is another one.
    """
    _check_images(dataset, f"channels {channels}")
    images = dataset.images
    match images.shape[1], channels:
        case present, wanted if present == wanted:
            return images
        case 1, 3:
            return images.expand(-1, 3, -1, -1)
        case 3, 1:
            return torch.cat([_grey(part) for part in images.split(_CHUNK)])
        case present, wanted:
            raise DataError(
                f"{dataset.name}: images have {present} channels, not {wanted}; only 1 and 3 convert"
            )


def channel_moments(images: Tensor, axis: int = 1) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel over all examples and pixels, in two float64 passes.

    Returns:
        C (or F) means and as many deviations; a constant channel gets the deviation 1, so that it maps to 0.
    """
    axes = [other for other in range(images.ndim) if other != axis]
    count = images.numel() // images.shape[axis]
    parts = images.split(_CHUNK)
    mean = torch.stack([part.double().sum(axes) for part in parts]).sum(0) / count
    centre = mean.view(-1, *[1] * (images.ndim - 1 - axis))
    variance = torch.stack([(part.double() - centre).square_().sum(axes) for part in parts]).sum(0) / count
    std = variance.sqrt()
    return tuple(mean.tolist()), tuple(std.where(std > 0, 1.0).tolist())


def _grey(images: Tensor) -> Tensor:
    red, green, blue = images.float().split(1, dim=1)
    return (0.2989 * red + 0.587 * green + 0.114 * blue).to(images.dtype)


def _check_images(dataset: Dataset, request: str) -> None:
    if dataset.images.ndim != 4:
        raise DataError(
            f"{dataset.name}: {request} is asked for, but these are feature vectors of length "
            f"{dataset.images.shape[1]}, not images; leave it out"
        )
