"""What a step of variational inference costs, as a ratio to a plain training step of the same network.

Run ``python tests/benchmarks/svi_step.py`` on a quiet machine. All variants run in one process in alternating
blocks; reported are medians over blocks and the ratio to the plain step with a fused Adam.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, TraceMeanField_ELBO
from pyro.optim import Adam
from torch import Tensor, nn

from bmrs_pyro import (
    AutoTruncatedLogNormal,
    JointOptim,
    MeanFieldELBO,
    NoisyNetwork,
    SupervisedModel,
    remove_structures_,
)
from bmrs_pyro.cli.allocator import keep_freed_memory

BLOCK = 20
ADAM: dict[str, Any] = {"lr": 1e-3, "fused": True}


def lenet5() -> ModuleType:
    path = Path(__file__).parents[2] / "models" / "lenet5.py"
    spec = importlib.util.spec_from_file_location("lenet5", path)
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)
    return module


def plain(net: nn.Module, x: Tensor, y: Tensor) -> Callable[[], object]:
    optimizer = torch.optim.Adam(net.parameters(), **ADAM)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()

    return step


def packaged(
    net: nn.Module, x: Tensor, y: Tensor, *, draws: str = "example", keep: float = 1.0
) -> Callable[[], object]:
    model = SupervisedModel(
        NoisyNetwork(net, x[:1]),
        lambda z: dist.Categorical(logits=z),
        60_000,
        draws=draws,  # type: ignore[arg-type]
    )
    model.register_weights = False
    guide = AutoTruncatedLogNormal(model)
    if keep < 1.0:
        masks = {s.name: torch.arange(s.size) < max(1, round(keep * s.size)) for s in model.structures}
        remove_structures_(model, guide, masks)
    optim = JointOptim(torch.optim.Adam, ADAM, network=model.network)
    svi = SVI(model, guide, optim, MeanFieldELBO())
    return lambda: svi.step(x, y)


def by_hand(net: nn.Module, x: Tensor, y: Tensor) -> Callable[[], object]:
    program, network = lenet5(), NoisyNetwork(net, x[:1])
    optim = JointOptim(torch.optim.Adam, ADAM, network=network)
    svi = SVI(program.model, program.guide, optim, MeanFieldELBO())
    return lambda: svi.step(x, y, net=network, num_data=60_000)


def stock(net: nn.Module, x: Tensor, y: Tensor) -> Callable[[], object]:
    program, network = lenet5(), NoisyNetwork(net, x[:1])
    svi = SVI(program.model, program.guide, Adam({"lr": 1e-3}), TraceMeanField_ELBO())
    return lambda: svi.step(x, y, net=network, num_data=60_000)


def measure(steps: dict[str, Callable[[], object]], blocks: int) -> dict[str, float]:
    """Median seconds per step over alternating blocks, each variant in a parameter store of its own."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    stores: dict[str, object] = {}
    for block in range(blocks + 1):
        for name, step in steps.items():
            with pyro.get_param_store().scope(stores.get(name)) as stores[name]:  # type: ignore[arg-type]
                start = time.perf_counter()
                for _ in range(BLOCK):
                    step()
                if block:  # the first block warms up
                    seconds[name].append((time.perf_counter() - start) / BLOCK)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=30)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(2)
    network = lenet5().network
    record: dict[str, object] = {
        "torch": str(torch.__version__),
        "pyro": pyro.__version__,
        "python": platform.python_version(),
    }
    for label, channels in (("MNIST", 1), ("CIFAR-10", 3)):
        pyro.set_rng_seed(0)
        x, y = torch.randn(64, channels, 32, 32), torch.randint(10, (64,))
        shape = tuple(x.shape[1:])
        steps = {
            "plain": plain(network(shape, 10), x, y),
            "packaged": packaged(network(shape, 10), x, y),
            "packaged, draws per batch": packaged(network(shape, 10), x, y, draws="batch"),
            "packaged, half pruned": packaged(network(shape, 10), x, y, keep=0.5),
            "hand-written": by_hand(network(shape, 10), x, y),
            "stock Pyro": stock(network(shape, 10), x, y),
        }
        with pyro.validation_enabled(False):
            seconds = measure(steps, options.blocks)
        print(f"LeNet5, {label} width, batch 64, 2 threads")
        for name, value in seconds.items():
            print(f"  {name:26s} {1e3 * value:7.2f} ms   {value / seconds['plain']:5.2f} x plain")
        record[label] = {
            name: {"seconds": value, "ratio": value / seconds["plain"]} for name, value in seconds.items()
        }
    if options.json:
        options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
