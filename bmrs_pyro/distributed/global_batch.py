"""The batch that several processes hold together, and this process's rows of it."""

from __future__ import annotations

__all__ = ["GlobalBatch"]

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from bmrs_pyro.distributed.process_group import all_gather_int, broadcast_, rank
from bmrs_pyro.distributions.central import uniforms

_ENDED = -1


class GlobalBatch:
    """This process's rows of the current batch: ``start … start + count`` of ``total``.

    The rows of a batch are ordered by rank. Every process draws the gains' random numbers for all ``total`` rows, as
    a single process would, and keeps those of its own rows.

    Args:
        device: where the gains are drawn.

    Attributes:
        seen: number of rows that this process has had since :meth:`over` was last called.
    """

    def __init__(self, device: torch.device) -> None:
        self.generator = torch.Generator(device)
        self.start = self.count = self.total = self.seen = 0
        first = torch.randint(2**31, (1,))
        broadcast_([first])
        self.seed(int(first))

    @property
    def weight(self) -> float:
        """This process's share of the batch: its weight in a mean over all examples."""
        return self.count / self.total

    def seed(self, seed: int) -> None:
        """Seed the generator of the gains; every process must pass the same number."""
        self.generator.manual_seed(seed)

    def over(self, batches: Iterable[tuple[Any, Tensor]]) -> Iterator[tuple[Any, Tensor]]:
        """Yield the batches of this process, in step with the other processes.

        A process without rows of a batch yields one row of zeros, whose weight is 0.

        Raises:
            ValueError: the processes have different numbers of batches, or a batch is empty in every process.
        """
        self.seen = steps = 0
        for x, y in batches:
            self._take(all_gather_int(len(y)), steps)
            steps += 1
            yield (x, y) if len(y) else (_stand_in(x), _stand_in(y))
        self._take(all_gather_int(_ENDED), steps)

    def local_draws(self, draws: int) -> int:
        """Return how many rows of gains serve the examples here, where example i of the batch has draw i mod draws."""
        return draws if self.count and self.count % draws == 0 else max(self.count, 1)

    def uniforms(self, draws: int | None, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """Return this process's uniform numbers to draw from.

        Args:
            draws: of the whole batch; None for one without a dimension of its own.
            shape: of one draw.
            dtype: of the parameters.

        Returns:
            ``(local_draws, *shape)``, or ``shape``; row i is of this process's example i.
        """
        whole = shape if draws is None else (draws, *shape)
        numbers = uniforms(tuple(whole), dtype, self.generator.device, self.generator)
        if draws is None:
            return numbers
        rows = torch.arange(self.start, self.start + self.local_draws(draws), device=numbers.device)
        return numbers[rows % draws]

    def _take(self, counts: list[int], steps: int) -> None:
        if _ENDED in counts:
            if set(counts) != {_ENDED}:
                ended = counts.index(_ENDED)
                raise ValueError(
                    f"the loader of process {ended} ended after {steps} batches, others went on; every process needs "
                    "the same number of batches"
                )
            return
        self.start, self.count, self.total = sum(counts[: rank()]), counts[rank()], sum(counts)
        self.seen += self.count
        if not self.total:
            raise ValueError(f"batch {steps + 1} of the loader is empty in every process")


def _stand_in(rows: Any) -> Any:
    """Replace every tensor without rows by one row of zeros."""

    def filled(leaf: Any) -> Any:
        if isinstance(leaf, Tensor) and leaf.dim() and not len(leaf):
            return leaf.new_zeros((1, *leaf.shape[1:]))
        return leaf

    return tree_map(filled, rows)
