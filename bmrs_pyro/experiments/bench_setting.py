"""What the benchmark's sections are run with."""

from __future__ import annotations

__all__ = ["Record", "Setting", "model_of"]

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bmrs_pyro.experiments.small_runs import source_of

Record = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """Settings of the sections.

    Args:
        rounds: number of alternating blocks in each measurement.
        device: device of the training steps; the other sections measure the CPU.
    """

    rounds: int
    device: str = "cpu"

    def at(self, net: nn.Module) -> nn.Module:
        """Return the network on the device."""
        return net.to(self.device)

    def examples(self, batch: int, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Return a batch of noise with labels, on the device."""
        x, y = torch.randn(batch, *shape), torch.randint(10, (batch,))
        return x.to(self.device), y.to(self.device)


def model_of(name: str, shape: tuple[int, ...]) -> Callable[[], nn.Module]:
    """Return what makes a network of the package, for ten classes."""
    return lambda: source_of(name).build(shape, 10)
