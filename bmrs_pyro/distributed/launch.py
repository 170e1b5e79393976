"""Joining the processes that torchrun started."""

from __future__ import annotations

__all__ = ["init_distributed", "main_process_first"]

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

from bmrs_pyro.distributed.heartbeat import Heartbeat
from bmrs_pyro.distributed.process_group import LostProcess, all_gather_int, rank, world_size

# a dead process is noticed by its heartbeat: what a living one does alone may take long, such as a download
_PATIENCE = timedelta(hours=2)


@contextmanager
def init_distributed(device: str | None = None) -> Iterator[str | None]:
    """Make one process group of the processes that torchrun started; without torchrun do nothing.

    Where a process dies, the others end within a minute.

    Args:
        device: ``"cuda"`` gives every process of a machine a GPU of its own, with NCCL; else gloo on the CPU.

    Yields:
        the device of this process.

    Raises:
        ValueError: there are fewer GPUs than processes, or one GPU is asked for by number.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    on_gpu = device is not None and torch.device(device).type == "cuda"
    if on_gpu:
        device = _own_gpu(str(device))
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=_PATIENCE)
    store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)  # type: ignore[attr-defined]
    heartbeat = Heartbeat(store, rank(), world_size())
    heartbeat.start()
    before = signal.signal(signal.SIGTERM, _stopped)
    try:
        yield device
        all_gather_int(0)  # nobody leaves while another one is at work
        heartbeat.leave()
        dist.destroy_process_group()
    finally:
        heartbeat.leave()
        signal.signal(signal.SIGTERM, before)


def main_process_first(work: Callable[[], None]) -> None:
    """Let the first process work while the others wait; where it fails, they end with it and say nothing."""
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


def _stopped(number: int, frame: FrameType | None) -> NoReturn:
    raise LostProcess(
        "told to stop, as torchrun does when another process has died; the last checkpoint is whole: start the same "
        "command again with --resume"
    )
