"""The progress bar of a training run."""

from __future__ import annotations

__all__ = ["EpochBar"]

from operator import length_hint
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from bmrs_pyro.training.history import Record


class EpochBar:
    """A progress bar over all steps that shows the results of the last epoch.

    Args:
        epochs: total number of epochs.
        loader: the batches of one epoch; if it has no length, the bar counts epochs only.
        enabled: False shows nothing.
        done: number of epochs made earlier; they do not count in the estimate of the remaining time.
        title: title of the bar.
    """

    def __init__(self, epochs: int, loader: object, *, enabled: bool, done: int = 0, title: str = "") -> None:
        # 0 also for torch's loader over a stream, whose len() raises
        self._per_epoch = length_hint(loader)
        self._epochs = epochs
        self._seen = 0
        label = f"{title}, epoch " if title else "epoch "
        width = len(f"{label}{epochs}/{epochs}")
        self._bar = Progress(
            # on narrow terminals the last column is cut
            TextColumn(f"{label}{{task.fields[epoch]}}", table_column=Column(min_width=width)),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[status]}"),
            console=Console(stderr=True),
            disable=not enabled,
        )
        self._task = self._bar.add_task(
            "fit",
            total=epochs * max(self._per_epoch, 1),
            completed=done * max(self._per_epoch, 1),
            epoch=f"{done}/{epochs}",
            status="",
        )

    def __enter__(self) -> EpochBar:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def step(self, elbo: float) -> None:
        """Advance by one batch, and count the epoch with its last one."""
        if self._per_epoch:
            self._bar.advance(self._task)
            done = int(self._bar.tasks[0].completed) // self._per_epoch
            self._bar.update(self._task, epoch=f"{done}/{self._epochs}")

    def finish(self, record: Record) -> None:
        """Show an epoch's record."""
        self._bar.update(
            self._task,
            completed=record.epoch * max(self._per_epoch, 1),
            epoch=f"{record.epoch}/{self._epochs}",
            status=record.status,
        )
