"""Random changes of images that do not change their class."""

from __future__ import annotations

__all__ = ["Augmentation"]

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad


@dataclass(frozen=True)
class Augmentation:
    """Shift every image by up to ``shift`` pixels each way, and mirror it left to right half of the time.

    Pixels that a shift uncovers are set to 0, the mean colour of normalised images.

    Args:
        shift: largest shift in pixels, along height and width; 0 for none.
        mirror: whether to mirror.

    Raises:
        ValueError: ``shift`` is negative.
    """

    shift: int = 4
    mirror: bool = True

    def __post_init__(self) -> None:
        if self.shift < 0:
            raise ValueError(f"shift is {self.shift}; it is a number of pixels, at least 0")

    def __call__(
        self, x: Tensor, random: np.random.Generator, *, first: int = 0, total: int | None = None
    ) -> Tensor:
        """Change a batch of images ``(B, C, H, W)``, each one independently.

        Args:
            x: the images, rows ``first … first + B`` of a batch of ``total`` (by default B).
            random: generator from which the changes of all ``total`` rows are drawn.
            first: number of the first row.
            total: number of rows of the whole batch.

        Raises:
            ValueError: ``x`` holds no images.
        """
        if x.ndim != 4:
            raise ValueError(f"only images (B, C, H, W) can be shifted and mirrored, got {tuple(x.shape)}")
        count, _, height, width = x.shape
        total, own = count if total is None else total, slice(first, first + count)
        offsets = torch.from_numpy(random.integers(0, 2 * self.shift + 1, (2, total, 1))[:, own]).to(x.device)
        rows = offsets[0] + torch.arange(height, device=x.device)
        columns = offsets[1] + torch.arange(width, device=x.device)
        if self.mirror:
            mirrored = torch.from_numpy(random.random(total)[own] < 0.5).to(x.device)
            columns = torch.where(mirrored[:, None], columns.flip(1), columns)
        image = torch.arange(count, device=x.device)[:, None, None]
        window = pad(x, [self.shift] * 4)[image, :, rows[:, :, None], columns[:, None, :]]
        return window.permute(0, 3, 1, 2)
