"""Connect the processes that torchrun started."""

from __future__ import annotations

__all__ = ["init_distributed", "main_process_first"]

import math
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType
from typing import NoReturn

import torch
import torch.distributed as dist

from bmrs_pyro.distributed.process_group import LostProcess, all_gather_int, rank

_TIMEOUT = "BMRS_TIMEOUT"


@contextmanager
def init_distributed(device: str | None = None) -> Iterator[str | None]:
    """Make one process group of the processes that torchrun started; without torchrun do nothing.

    If a process dies, the others end at once. If a process hangs, the others end after a timeout: the environment
    variable ``BMRS_TIMEOUT``, in seconds, by default 1800. Work that the first process does alone, such as a
    download, must take less time.

    Args:
        device: ``"cuda"`` gives every process its own GPU and uses NCCL; otherwise gloo runs on the CPU.

    Yields:
        the device of this process.

    Raises:
        ValueError: there are fewer GPUs than processes, ``device`` names a single GPU by number, or ``BMRS_TIMEOUT``
            is not a positive number.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    on_gpu = device is not None and torch.device(device).type == "cuda"
    if on_gpu:
        device = _own_gpu(str(device))
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=_timeout())
    before = signal.signal(signal.SIGTERM, _on_sigterm)
    try:
        yield device
        all_gather_int(0)  # no process leaves while another is still working
        dist.destroy_process_group()
    finally:
        signal.signal(signal.SIGTERM, before)


def main_process_first(work: Callable[[], None]) -> None:
    """Run ``work`` in the first process while the others wait; if it fails, they exit too, without a message."""
    if rank() > 0:
        if not all_gather_int(0)[0]:
            sys.exit(2)
        return
    try:
        work()
    except BaseException:
        all_gather_int(0)
        raise
    all_gather_int(1)


def _timeout() -> timedelta:
    given = os.environ.get(_TIMEOUT, "1800")
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ValueError(f"{_TIMEOUT} is {given!r}; it must be a positive number of seconds")
    return timedelta(seconds=seconds)


def _own_gpu(device: str) -> str:
    number, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if torch.device(device).index is not None:
        raise ValueError(
            f"the device is {device!r}, but there are several processes; with 'cuda' each has a GPU of its own"
        )
    if number >= count:
        raise ValueError(
            f"process {number} of this machine has no GPU: there are {count}; start as many processes as GPUs"
        )
    return f"cuda:{number}"


def _on_sigterm(number: int, frame: FrameType | None) -> NoReturn:
    raise LostProcess(
        "stopped by SIGTERM, which torchrun sends when another process has died; the last checkpoint is complete: "
        "start the same command again with --resume"
    )
