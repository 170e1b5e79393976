"""A sweep: a list of runs, each cached under a hash of its configuration, two at a time."""

from __future__ import annotations

__all__ = ["Sweep", "cached", "run_key"]

import hashlib
import json
import multiprocessing
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from bmrs_pyro.experiments.allocator import keep_freed_memory
from bmrs_pyro.inference import write_atomically

Config = Mapping[str, Any]


def run_key(config: Config) -> str:
    """Return the name a run is cached under: a hash of its configuration, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]


def cached(config: Config, cache: Path) -> dict[str, Any] | None:
    """Return the result of a run, None where it is not finished."""
    try:
        record: dict[str, Any] = json.loads(_file(config, cache).read_text())
    except (FileNotFoundError, ValueError):
        return None  # not run yet, or a file cut off by a crash: run it
    return record["result"]


@dataclass(frozen=True)
class Sweep:
    """Runs that can be stopped at any point and started again: what is in the cache is not run.

    Args:
        run: makes one run: configuration in, JSON types out. Must be importable (it runs in another process).
        cache: folder of one JSON file per finished run.
        workers: runs at a time; each gets an equal share of the cores.
    """

    run: Callable[[Config], dict[str, Any]]
    cache: Path
    workers: int = 2

    def results(self, configs: Sequence[Config]) -> list[dict[str, Any]]:
        """Return the cached results of those runs that are finished."""
        found = (cached(config, self.cache) for config in configs)
        return [result for result in found if result is not None]

    def execute(self, configs: Sequence[Config], *, progress: bool = True) -> list[dict[str, Any]]:
        """Make the runs that are not cached, then return all results in order.

        Raises:
            ValueError: runs failed, all for what they were given; the others were finished and cached first.
            RuntimeError: some failed for another reason; likewise.
        """
        self.cache.mkdir(parents=True, exist_ok=True)
        todo = [config for config in configs if cached(config, self.cache) is None]
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
        threads = max((os.cpu_count() or 1) // self.workers, 1)
        # fork would copy the threads' locks of torch's pool; a fresh interpreter has none
        context = multiprocessing.get_context("spawn")
        with bar, ProcessPoolExecutor(self.workers, context, _start_worker, (threads,)) as pool:
            task = bar.add_task("runs", total=len(configs), completed=len(configs) - len(todo), last="")
            pending = {pool.submit(self.run, config): config for config in todo}
            for future in as_completed(pending):
                config = pending[future]
                error = future.exception()
                if error is None:
                    self._write(config, future.result())
                else:
                    failures.append(f"{dict(config)}: {type(error).__name__}: {error}")
                    if not isinstance(error, ValueError | OSError):
                        kind = RuntimeError
                bar.update(task, advance=1, last=" ".join(str(value) for value in config.values()))
        if failures:
            raise kind(f"{len(failures)} of {len(todo)} runs failed, the first: {failures[0]}")
        return self.results(configs)

    def _write(self, config: Config, result: Mapping[str, Any]) -> None:
        text = json.dumps({"config": dict(config), "result": dict(result)}, indent=1) + "\n"
        write_atomically(_file(config, self.cache), lambda file: file.write_text(text))


def _file(config: Config, cache: Path) -> Path:
    return cache / f"{run_key(config)}.json"


def _start_worker(threads: int) -> None:
    import torch

    # OMP_NUM_THREADS, which torch has read, may ask for fewer
    torch.set_num_threads(min(threads, torch.get_num_threads()))
    keep_freed_memory()
    # a sweep that is killed takes its workers along: nobody would take the results of their runs
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
