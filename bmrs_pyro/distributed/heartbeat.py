"""A sign of life from every process, so that none waits for one that is gone."""

from __future__ import annotations

__all__ = ["Heartbeat"]

import os
import sys
import threading
from typing import Any


class Heartbeat(threading.Thread):
    """Sets a number in a store every few seconds and ends its process where another one's number stands still.

    Collectives notice a peer whose connection closes, and on GPUs not always that; a machine without power or network
    closes none. Then this thread says so in one line and ends the process with status 2, from whatever it waits in.

    Args:
        store: a connection of its own to the TCPStore of the process group.
        rank: number of this process.
        size: number of processes.
        patience: seconds without a sign after which a process counts as dead.
        period: seconds between two signs.
    """

    def __init__(
        self, store: Any, rank: int, size: int, *, patience: float = 40.0, period: float = 4.0
    ) -> None:
        super().__init__(daemon=True, name="heartbeat")
        self.store, self.rank, self.size = store, rank, size
        self.patience, self.period = patience, period
        self._leaving = threading.Event()

    def leave(self) -> None:
        """Stop watching: the others may end now, too."""
        self._leaving.set()

    def run(self) -> None:
        """Beat and watch until :meth:`leave`."""
        keys = [f"bmrs/alive/{rank}" for rank in range(self.size)]
        # in beats of this process: one that was suspended itself must not take the others for dead
        beats, seen, since = 0, [0] * self.size, [0] * self.size
        while not self._leaving.wait(self.period):
            try:
                beats += 1
                self.store.set(keys[self.rank], str(beats))
                # adding nothing reads a number, 0 where there is none yet
                counts = [self.store.add(key, 0) for key in keys]
            except RuntimeError:
                self._end("the process that keeps the run's store is gone")
                continue
            for rank, count in enumerate(counts):
                if count != seen[rank]:
                    seen[rank], since[rank] = count, beats
                elif (beats - since[rank]) * self.period > self.patience:
                    self._end(f"process {rank} has not given a sign of life for {self.patience:.0f} seconds")

    def _end(self, reason: str) -> None:
        if not self._leaving.is_set():
            sys.stderr.write(
                f"error (process {self.rank} of {self.size}): {reason}; the last checkpoint is whole: "
                "start the same command again with --resume\n"
            )
            sys.stderr.flush()
            os._exit(2)
