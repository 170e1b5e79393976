"""The dataclass that every data source is read into; its content is checked on creation."""

from __future__ import annotations

__all__ = ["DataError", "Dataset", "Splits", "values_each"]

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

_NOT_SCORED = -100


class DataError(ValueError):
    """Data that cannot be used; the message is one line that says what is wrong and what to do."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Examples in memory with their labels or values, not normalised: that is done batch by batch.

    Args:
        images: inputs: ``(N, C, H, W)`` images, ``(N, F)`` features or ``(N, T, F)`` sequences of them, uint8 or
            finite float32; or ``(N, T)`` int64 tokens.
        labels: int64 classes in 0 … num_classes − 1: ``(N,)``, or one per pixel ``(N, H, W)`` or per token
            ``(N, T)``, where −100 is not scored; or finite float32 values ``(N, …)``.
        num_classes: number of outputs that a network needs for the labels: K classes, or values per example.
        name: name of the data in messages and reports.
        class_names: the K names of the classes, or an empty tuple.
        mean: subtracted from each channel (or feature) before use; C values, or 1 for all. In units of
            ``images``.
        std: divides each channel after that; the same number of values, all positive.
        columns: for a table, the categories of each column by its name; empty for a column of numbers. A
            category's feature is its place in this tuple.

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
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        problem = self._problem()
        if problem:
            raise DataError(f"{self.name}: {problem}")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one example, ``(C, H, W)``, ``(F,)``, ``(T, F)`` or ``(T,)``."""
        return tuple(self.images.shape[1:])

    @property
    def channel_axis(self) -> int:
        """Axis of the inputs that ``mean`` and ``std`` belong to."""
        return 2 if self.images.ndim == 3 else 1

    @property
    def example(self) -> Tensor:
        """Return the first input, normalised, ``(1, …)``."""
        return self.normalised(self.images[:1], *self.moments())

    def moments(self, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Return mean and std, shaped to broadcast with the inputs."""
        shape = (-1, *[1] * (self.images.ndim - 1 - self.channel_axis))
        return (
            torch.tensor(self.mean, device=device).view(shape),
            torch.tensor(self.std, device=device).view(shape),
        )

    @staticmethod
    def normalised(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        """Return the network's inputs: (images − mean) / std, or tokens unchanged."""
        return images if images.dtype == torch.int64 else images.to(torch.float32).sub(mean).div_(std)

    def _problem(self) -> str | None:
        images = self.images
        if images.ndim not in (2, 3, 4):
            return f"images have shape {tuple(images.shape)}; expected (N, C, H, W), (N, T, F) or (N, F)"
        tokens = images.dtype == torch.int64 and images.ndim == 2
        if not tokens and images.dtype not in (torch.uint8, torch.float32):
            return f"images are {images.dtype}; expected torch.uint8 or torch.float32, or torch.int64 tokens (N, T)"
        if len(images) != len(self.labels):
            one = {2: "row", 3: "sequence"}.get(images.ndim, "image")
            return f"{len(images)} {one}s but {len(self.labels)} labels; there must be one label per {one}"
        if not images.numel():
            return f"no examples: images have shape {tuple(images.shape)}"
        if problem := self._label_problem():
            return problem
        if images.is_floating_point() and not (finite := images.isfinite().flatten(1).all(1)).all():
            return f"example {int((~finite).nonzero()[0])} (counted from 0) holds NaN or infinity"
        if self.class_names and len(self.class_names) != self.num_classes:
            return f"{len(self.class_names)} class names for {self.num_classes} classes"
        size = images.shape[self.channel_axis]
        if not len(self.mean) == len(self.std) in (1, size) or min(self.std) <= 0:
            return f"mean and std need 1 or {size} values each, std positive"
        return None

    def _label_problem(self) -> str | None:
        labels, last = self.labels, self.num_classes - 1
        if labels.dtype == torch.float32:
            wanted = values_each(labels, self.images)
            if self.num_classes != wanted:
                return (
                    f"labels are torch.float32 values, {wanted} per example, for {self.num_classes} outputs"
                )
            finite = labels.reshape(len(labels), -1).isfinite().all(1)
            if finite.all():
                return None
            return f"value {int((~finite).nonzero()[0])} (counted from 0) is not finite"
        images = self.images
        tokens = images.dtype == torch.int64 or images.ndim == 3
        places = {3: images.shape[1:2], 4: images.shape[2:]}.get(
            images.ndim, images.shape[1:] if tokens else ()
        )
        if labels.dtype != torch.int64 or labels.shape[1:] not in ((), places):
            several = f", or one per place, (N, {', '.join(map(str, places))})" if places else ""
            return (
                f"labels are {labels.dtype}, shape {tuple(labels.shape)}; expected torch.int64, shape (N,){several}; "
                "for several labels or values per example choose a likelihood, such as --likelihood bernoulli"
            )
        scored = labels if labels.ndim == 1 else labels[labels != _NOT_SCORED]
        if not len(scored) or not 0 <= scored.min() <= scored.max() <= last:
            if not len(scored):
                return f"no label is scored, all are {_NOT_SCORED}"
            return f"labels range from {scored.min()} to {scored.max()}; expected 0 to {last}"
        return None


def values_each(labels: Tensor, inputs: Tensor) -> int:
    """Return D for values ``(N, D)``, ``(N, T, D)`` of sequences and maps ``(N, D, H, W)``, and 1 for other values."""
    if labels.ndim == 3:
        return labels.shape[2] if inputs.ndim == 3 else 1
    return labels.shape[1] if labels.ndim in (2, 4) else 1


PartT = TypeVar("PartT")


class Splits(NamedTuple, Generic[PartT]):
    """The three parts of a data set, all normalised by the mean and deviation of the training part."""

    train: PartT
    validation: PartT
    test: PartT
