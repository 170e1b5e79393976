"""A sweep: a list of runs, each cached under a hash of its configuration, several at a time."""

from __future__ import annotations

__all__ = ["Config", "Sweep", "cached", "run_key"]

import hashlib
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from joblib import Parallel, delayed
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from bmrs_pyro.files import WriteError, alone, parse_json, write_atomically
from bmrs_pyro.training.allocator import keep_freed_memory

Config = Mapping[str, Any]


def run_key(config: Config) -> str:
    """Return the name that a run is cached under: a hash of its configuration, for any order of the keys."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]


def cached(config: Config, cache: Path) -> dict[str, Any] | None:
    """Return the result of a run, None if it is not finished or its file is damaged."""
    try:
        record = parse_json(_file(config, cache).read_text())
    except (FileNotFoundError, ValueError):
        return None  # not run yet, or a file cut off by a crash: run it
    if not isinstance(record, dict) or run_key(record.get("config", {})) != run_key(config):
        return None
    result = record.get("result")
    return result if isinstance(result, dict) else None


def _complete(config: Config) -> bool:
    return True


@dataclass(frozen=True)
class Sweep:
    """Runs that can be stopped at any point and started again: cached runs are not repeated.

    joblib makes the runs, by default in processes of this machine. On a cluster call :meth:`execute` within
    ``joblib.parallel_config("dask")`` or ``"ray"``; all machines have to see the cache.

    Args:
        run: makes one run: configuration in, JSON types out.
        cache: folder of one JSON file per finished run.
        workers: runs at a time; each gets an equal share of the cores, or ``OMP_NUM_THREADS``. With one worker, runs
            are made in this process.
        intact: whether the files that a finished run saved beside its result still exist; if not, it is repeated.
    """

    run: Callable[[Config], dict[str, Any]]
    cache: Path
    workers: int = 2
    intact: Callable[[Config], bool] = _complete

    def results(self, configs: Sequence[Config]) -> list[dict[str, Any]]:
        """Return the cached results of those runs that are finished."""
        found = (self._finished(config) for config in configs)
        return [result for result in found if result is not None]

    def make(self, config: Config) -> None:
        """Make one run in this process unless it is finished; if another process is making it, wait for that.

        Raises:
            WriteError: the result cannot be written.
        """
        file = _file(config, self.cache)
        with alone(file.with_suffix(".lock"), wait=True):
            if self._finished(config) is None:
                text = json.dumps({"config": dict(config), "result": dict(self.run(config))}, indent=1) + "\n"
                write_atomically(file, lambda partial: partial.write_text(text))

    def execute(self, configs: Sequence[Config], *, progress: bool = True) -> list[dict[str, Any]]:
        """Make the runs that are not cached, then return all results in order.

        Several sweeps may share a cache: each run is made by one of them.

        Raises:
            ValueError: runs failed, all because of their input or because they diverged; the other runs were finished
                and cached first.
            RuntimeError: a run failed for another reason; the other runs were finished and cached first.
            WriteError: a file cannot be written. No more runs are made, because they could not be saved.
        """
        self.cache.mkdir(parents=True, exist_ok=True)
        todo = [config for config in configs if self._finished(config) is None]
        bar = Progress(
            TextColumn("runs"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[last]}"),
            console=Console(stderr=True),
            disable=not progress,
        )
        failures: list[str] = []
        kind: type[Exception] = ValueError
        with bar:
            task = bar.add_task("runs", total=len(configs), completed=len(configs) - len(todo), last="")
            pool = Parallel(
                self.workers, return_as="generator_unordered", batch_size=1, initializer=_start_worker
            )
            for config, error, expected in pool(delayed(self._attempt)(config) for config in todo):
                if error is not None:
                    failures.append(f"{dict(config)}: {error}")
                    kind = kind if expected else RuntimeError
                bar.update(task, advance=1, last=" ".join(str(value) for value in config.values()))
        if failures:
            raise kind(f"{len(failures)} of {len(todo)} runs failed, the first: {failures[0]}")
        return self.results(configs)

    def _attempt(self, config: Config) -> tuple[Config, str | None, bool]:
        """Make a run; return its error, and whether it is an error that the user can act on."""
        try:
            self.make(config)
        except WriteError:
            raise  # it ends the sweep
        except Exception as error:
            # a loss that diverges is an ArithmeticError
            expected = isinstance(error, ValueError | OSError | ArithmeticError)
            return config, f"{type(error).__name__}: {error}", expected
        return config, None, True

    def _finished(self, config: Config) -> dict[str, Any] | None:
        result = cached(config, self.cache)
        return result if result is not None and self.intact(config) else None


def _file(config: Config, cache: Path) -> Path:
    return cache / f"{run_key(config)}.json"


def _start_worker() -> None:
    keep_freed_memory()
    sweep = multiprocessing.parent_process()
    if (
        sweep is not None and sweep.pid is not None
    ):  # joblib's own backends; a cluster ends its workers itself
        # Ctrl-C reaches all processes of a terminal; only the sweep handles it
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        threading.Thread(target=_end_with, args=(sweep.pid,), daemon=True).start()


def _end_with(sweep: int) -> None:
    """End this process soon after the sweep is killed; joblib notices that only when a run is finished."""
    while os.getppid() == sweep:
        time.sleep(0.5)
    os._exit(1)
