"""Corrupted inputs, to test a network's probabilities on data unlike its training data."""

from __future__ import annotations

__all__ = ["CORRUPTIONS", "corrupted"]

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from bmrs_pyro.inference.inputs import pairs


def _noise(x: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    noise = torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)
    return x + 0.25 * severity * noise


def _contrast(x: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    mean = x.mean(tuple(range(1, x.dim())), keepdim=True)
    return mean + (1 - 0.16 * severity) * (x - mean)


def _blur(x: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    # two 2 × 2 averages make the binomial 1-2-1 kernel; repeated, it tends to a Gaussian
    for _ in range(severity):
        x = avg_pool2d(avg_pool2d(pad(x, (1, 1, 1, 1), mode="replicate"), 2, stride=1), 2, stride=1)
    return x


def _occlusion(x: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    # a square of the mean intensity with 8 % of the area per degree, at a random place in every image
    height, width = x.shape[-2:]
    side = (0.08 * severity) ** 0.5
    tall, wide = max(round(side * height), 1), max(round(side * width), 1)

    def inside(length: int, size: int) -> Tensor:
        start = torch.randint(length - size + 1, (len(x), 1), generator=generator)
        position = torch.arange(length)
        return (position >= start) & (position < start + size)

    square = (inside(height, tall)[:, :, None] & inside(width, wide)[:, None, :]).to(x.device)
    return x.masked_fill(square[:, None], 0.0)


CORRUPTIONS: dict[str, Callable[[Tensor, int, torch.Generator], Tensor]] = {
    "noise": _noise,
    "contrast": _contrast,
    "blur": _blur,
    "occlusion": _occlusion,
}
"""The corruptions by name; ``blur`` and ``occlusion`` are for images ``(B, C, H, W)``."""


def corrupted(
    batches: Iterable[Any], corruption: str, severity: int = 3, *, seed: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches with corrupted inputs; the same seed gives the same corruption.

    Args:
        batches: pairs of inputs ``(B, …)``, normalised to mean 0 and deviation 1, and labels.
        corruption: ``noise`` (Gaussian, 0.25 deviations per degree), ``contrast`` (16 % less per degree),
            ``blur`` (a 3 × 3 binomial kernel per degree) or ``occlusion`` (8 % of the image per degree).
        severity: degree, from 1 to 5.
        seed: seed of the noise and of the occluded places.

    Raises:
        ValueError: the corruption is unknown, needs images, the severity is out of range, or the inputs are no array
            of real numbers.

    Reference: degrees 1 to 5 follow Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common
    Corruptions and Perturbations", ICLR 2019.
    """
    if corruption not in CORRUPTIONS:
        raise ValueError(f"corruption is {corruption!r}; use one of {', '.join(CORRUPTIONS)}")
    if severity not in range(1, 6):
        raise ValueError(f"severity is {severity}; it is a whole number from 1 to 5")
    return _each(batches, corruption, severity, torch.Generator().manual_seed(seed))


def _each(
    batches: Iterable[Any], corruption: str, severity: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    for x, y in pairs(batches):
        if not isinstance(x, Tensor) or not x.is_floating_point():
            raise ValueError(
                f"{corruption} is for one input of real numbers; tokens and several inputs have none"
            )
        if corruption in ("blur", "occlusion") and x.dim() != 4:
            raise ValueError(
                f"{corruption} is for images (B, C, H, W); the inputs have shape {tuple(x.shape)}"
            )
        yield CORRUPTIONS[corruption](x, severity, generator), y
