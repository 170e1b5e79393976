"""The record every source is read into, checked once, when it is made."""

from __future__ import annotations

__all__ = ["DataError", "Dataset", "Splits"]

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor


class DataError(ValueError):
    """Data that cannot be used; the message is one line that says what is wrong and what to do."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled examples in memory, as stored: they are normalised batch by batch, not here.

    Args:
        images: ``(N, C, H, W)`` images or ``(N, F)`` feature vectors, uint8 or finite float32.
        labels: ``(N,)`` int64 classes in 0 … num_classes − 1.
        num_classes: number of classes K.
        name: what messages and reports call these data.
        class_names: K names, or none.
        mean: subtracted from each channel (or feature) before use; C values, or 1 for all. In units of
            ``images``.
        std: divides each channel after that; as many values, all positive.

    Raises:
        DataError: a field does not fit this description.
    """

    images: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    num_classes: int
    name: str = "data"
    class_names: tuple[str, ...] = field(default=(), repr=False)
    mean: tuple[float, ...] = field(default=(0.0,), repr=False)
    std: tuple[float, ...] = field(default=(1.0,), repr=False)

    def __post_init__(self) -> None:
        problem = self._problem()
        if problem:
            raise DataError(f"{self.name}: {problem}")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one example, ``(C, H, W)`` or ``(F,)``."""
        return tuple(self.images.shape[1:])

    def _problem(self) -> str | None:
        images, labels, last = self.images, self.labels, self.num_classes - 1
        if images.ndim not in (2, 4):
            return f"images have shape {tuple(images.shape)}; expected (N, C, H, W) or (N, F)"
        if images.dtype not in (torch.uint8, torch.float32):
            return f"images are {images.dtype}; expected torch.uint8 or torch.float32"
        if labels.ndim != 1 or labels.dtype != torch.int64:
            return f"labels are {labels.dtype}, shape {tuple(labels.shape)}; expected torch.int64, shape (N,)"
        if len(images) != len(labels):
            return f"{len(images)} images but {len(labels)} labels; there must be one label per image"
        if not images.numel():
            return f"no examples: images have shape {tuple(images.shape)}"
        if not 0 <= labels.min() <= labels.max() <= last:
            return f"labels range from {labels.min()} to {labels.max()}; expected 0 to {last}"
        if images.is_floating_point() and not (finite := images.isfinite().flatten(1).all(1)).all():
            return f"example {int((~finite).nonzero()[0])} (counted from 0) holds NaN or infinity"
        if self.class_names and len(self.class_names) != self.num_classes:
            return f"{len(self.class_names)} class names for {self.num_classes} classes"
        if not len(self.mean) == len(self.std) in (1, images.shape[1]) or min(self.std) <= 0:
            return f"mean and std need 1 or {images.shape[1]} values each, std positive"
        return None


class Splits(NamedTuple):
    """The three parts of a data set, normalised alike: by the mean and deviation of the training part."""

    train: Dataset
    validation: Dataset
    test: Dataset
