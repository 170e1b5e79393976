"""The progress bar: what it counts where a loader has a length, and where it has none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from bmrs_pyro import fit
from bmrs_pyro.training.progress import EpochBar
from tests.inference.programs import batches, blobs, program


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(list(zip(*blobs(), strict=True)))


def test_a_loader_over_a_stream_has_no_length_and_trains() -> None:
    model, guide = program()
    loader = DataLoader(Stream(), batch_size=32)
    with pytest.raises(TypeError, match="no len"):
        len(loader)
    history = fit(model, guide, loader, epochs=1, fine_tune_epochs=1, progress=False, criterion=None)
    assert [sum(epoch.examples) for epoch in history.epochs] == [480, 480]


@pytest.mark.parametrize(
    ("loader", "total", "after_a_step"),
    [(batches(), 2 * 15, 1), (DataLoader(Stream(), batch_size=32), 2, 0), (iter(()), 2, 0)],
    ids=["list", "stream", "iterator"],
)
def test_steps_are_counted_where_their_number_is_known(
    loader: Iterable[Any], total: int, after_a_step: int
) -> None:
    with EpochBar(2, loader, enabled=False) as bar:
        task = bar._bar.tasks[0]
        bar.step(-1.0)
        assert (task.completed, task.total) == (after_a_step, total)
