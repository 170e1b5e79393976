"""The machine that benchmarks run on: its set-up, and its description beside the results."""

from __future__ import annotations

__all__ = ["environment", "prepare"]

import platform

import pyro
import torch

from bmrs_pyro.training import refuse_unusable


def prepare(threads: int, device: str) -> None:
    """Set the number of threads and the seed, and refuse a device that is not there."""
    refuse_unusable(device)
    torch.set_num_threads(threads)
    pyro.set_rng_seed(0)


def environment(section: str, rounds: int, threads: int, device: str) -> dict[str, str | None]:
    """Return the command, hardware and versions that a section was measured with."""
    return {
        "command": f"bmrs bench --section {section} --rounds {rounds} --threads {threads} --device {device}",
        "gpu": torch.cuda.get_device_name(device) if device.startswith("cuda") else None,
        "torch": str(torch.__version__),
        "pyro": pyro.__version__,
        "python": platform.python_version(),
        "processor": platform.machine(),
    }
