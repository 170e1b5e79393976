"""The optimiser of training without gains, and one cycle of its learning rate that ends at 0."""

from __future__ import annotations

__all__ = ["Cycle"]

import math
from dataclasses import dataclass, replace

from bmrs_pyro.training.options import refuse_no_flags, refuse_no_number

CLIP = 5.0
"""Largest norm of the gradient of a mean over labels; one step of a larger one can silence a network without norms."""


@dataclass(frozen=True)
class Cycle:
    """The optimiser of plain steps; its learning rate rises to a peak, and falls to 0 by the last step.

    Attributes:
        optimizer: sgd (Nesterov's momentum of 0.9; lr 0.05 by default) or adamw (lr 1e-3). By default it is sgd for
            classes, and adamw for other labels, whose gradients have no fixed scale.
        lr: Peak learning rate; by default the optimiser's.
        weight_decay: Weight decay of all weights.
        warm_up: Share of the steps in which the learning rate rises.
        clip: Largest norm of the gradient. By default it is 5 for sgd and classes, and the gradient is not clipped
            otherwise.
        bfloat16: Train in mixed precision.

    Raises:
        ValueError: a value is out of range.
        TypeError: a value is of another type.
    """

    optimizer: str | None = None
    lr: float | None = None
    weight_decay: float = 5e-4
    warm_up: float = 0.1
    clip: float | None = None
    bfloat16: bool = False

    def __post_init__(self) -> None:
        refuse_no_flags(self, ["bfloat16"])
        refuse_no_number("weight_decay", self.weight_decay, least=0)
        refuse_no_number("warm_up", self.warm_up)
        if not isinstance(self.optimizer, str | None):
            raise TypeError(
                f"optimizer is a {type(self.optimizer).__name__}; give its name, 'sgd' or 'adamw'"
            )
        if self.optimizer not in (None, "sgd", "adamw"):
            raise ValueError(f"optimizer is {self.optimizer!r}; use 'sgd' or 'adamw'")
        for name in ("lr", "clip"):
            value = getattr(self, name)
            refuse_no_number(name, value, optional=True)
            if value is not None and value <= 0:
                raise ValueError(f"{name} is {value}; it must be finite and above 0")
        if not 0 <= self.warm_up < 1:
            raise ValueError(f"warm_up is {self.warm_up}; it is a share of the steps, in [0, 1)")

    @property
    def peak(self) -> float:
        """The largest learning rate."""
        return self.lr or (1e-3 if self.optimizer == "adamw" else 0.05)

    def for_labels(self, classes: bool) -> Cycle:
        """Return the cycle with the defaults for the labels, where it has none: optimiser, and norm of the gradient."""
        optimizer = self.optimizer or ("sgd" if classes else "adamw")
        clip = CLIP if self.clip is None and classes and optimizer == "sgd" else self.clip
        return replace(self, optimizer=optimizer, clip=clip)

    def rate(self, progress: float) -> float:
        """Return the learning rate after a share of the steps, in [0, 1): linear up, then half a cosine down."""
        if progress < self.warm_up:
            return self.peak * progress / self.warm_up
        return self.peak * (1 + math.cos(math.pi * (progress - self.warm_up) / (1 - self.warm_up))) / 2
