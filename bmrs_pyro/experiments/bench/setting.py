"""What the benchmark's sections are run with."""

from __future__ import annotations

__all__ = ["Record", "Setting", "model_of", "repeated", "timed"]

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ParamSpec, TypeVar

import pyro
import torch
from torch import Tensor, nn

from bmrs_pyro.data import Dataset
from bmrs_pyro.experiments.small_runs import source_of
from bmrs_pyro.training import refuse_unusable

Record = dict[str, Any]
Given = ParamSpec("Given")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Setting:
    """Settings of the sections.

    Args:
        rounds: number of alternating blocks in each measurement.
        device: device of the training steps; the other sections measure the CPU.
        threads: number of torch's threads.
    """

    rounds: int
    device: str = "cpu"
    threads: int = 2

    @property
    def on_gpu(self) -> bool:
        """Whether training steps are measured on a GPU."""
        return self.device.startswith("cuda")

    def prepare(self) -> None:
        """Set the number of threads and the seed, and refuse a device that is not there."""
        refuse_unusable(self.device)
        torch.set_num_threads(self.threads)
        pyro.set_rng_seed(0)

    def environment(self, section: str) -> dict[str, str | None]:
        """Return the command, hardware and versions that a section is measured with."""
        return {
            "command": f"bmrs bench --section {section} --rounds {self.rounds} --threads {self.threads} "
            f"--device {self.device}",
            "gpu": torch.cuda.get_device_name(self.device) if self.on_gpu else None,
            "torch": str(torch.__version__),
            "pyro": pyro.__version__,
            "python": platform.python_version(),
            "processor": platform.machine(),
        }

    def at(self, net: nn.Module) -> nn.Module:
        """Return the network on the device."""
        return net.to(self.device)

    def examples(self, batch: int, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Return a batch of noise with labels, on the device."""
        x, y = torch.randn(batch, *shape), torch.randint(10, (batch,))
        return x.to(self.device), y.to(self.device)


def model_of(name: str, shape: tuple[int, ...]) -> Callable[[], nn.Module]:
    """Return what makes a network of the package, for ten classes."""
    return lambda: source_of(name).build(shape, 10)


def repeated(digits: Dataset, channels: int = 1) -> Dataset:
    """Repeat scikit-learn's digits eight times, for epochs of 144 steps of 64; the data do not change a step's cost."""
    return replace(digits, images=digits.images.repeat(8, channels, 1, 1), labels=digits.labels.repeat(8))


def timed(make: Callable[Given, Made], *args: Given.args, **kwargs: Given.kwargs) -> tuple[Made, float]:
    """Return what a function makes, and the seconds it took."""
    start = time.perf_counter()
    made = make(*args, **kwargs)
    return made, time.perf_counter() - start
