"""Functions that several processes run together, on gloo, as tests of torch.distributed need them."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

# forked from a process that has imported everything: a start takes a tenth of a second, not five
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["bmrs_pyro.runs.running", "bmrs_pyro.reporting.run_report"])
PATIENCE = 300.0  # seconds; for machines that are busy with something else


def started(work: Callable[..., object], folder: Path, size: int, *arguments: Any) -> list[Any]:
    """Start ``work(folder, *arguments)`` in processes that form a group; return them."""
    processes = [
        FORKS.Process(target=_member, args=(work, folder, rank, size, arguments)) for rank in range(size)
    ]
    for process in processes:
        process.start()
    return processes


def together(work: Callable[..., object], folder: Path, size: int, *arguments: Any) -> None:
    """Run ``work(folder, *arguments)`` in processes that form a group; all of them must succeed."""
    folder.mkdir(exist_ok=True)
    processes = started(work, folder, size, *arguments)
    for process in processes:
        process.join(PATIENCE)
    statuses = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert statuses == [0] * size


def _member(
    work: Callable[..., object], folder: Path, rank: int, size: int, arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    if size > 1:
        dist.init_process_group(
            "gloo",
            init_method=f"file://{folder / 'rendezvous'}",
            rank=rank,
            world_size=size,
            timeout=timedelta(seconds=PATIENCE),
        )
    work(folder, *arguments)
    if size > 1:
        dist.destroy_process_group()
