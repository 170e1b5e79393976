"""What a step of variational inference costs, as a ratio to a plain training step of LeNet5.

Run ``python tests/benchmarks/svi_step.py`` on a quiet machine. All variants run in one process in alternating
blocks; reported are medians and the ratio to the plain step with a fused Adam. ``bmrs bench`` measures more.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
from pathlib import Path

import pyro
import torch
from pyro.infer import TraceMeanField_ELBO
from pyro.optim import Adam

from bmrs_pyro.experiments.bench.steps import by_hand_step, interleaved, plain_step, svi_step
from bmrs_pyro.training.allocator import keep_freed_memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(2)
    spec = importlib.util.spec_from_file_location(
        "lenet5", Path(__file__).parents[2] / "models" / "lenet5.py"
    )
    program = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(program)
    record: dict[str, object] = {
        "torch": str(torch.__version__),
        "pyro": pyro.__version__,
        "python": platform.python_version(),
    }
    for label, channels in (("MNIST", 1), ("CIFAR-10", 3)):
        pyro.set_rng_seed(0)
        x, y = torch.randn(64, channels, 32, 32), torch.randint(10, (64,))

        def net(shape: torch.Size = x.shape) -> torch.nn.Module:
            made: torch.nn.Module = program.network(shape[1:], 10)
            return made

        steps = {
            "plain": plain_step(net(), x, y),
            "packaged": svi_step(net(), x, y),
            "packaged, draws per batch": svi_step(net(), x, y, draws="batch"),
            "packaged, half pruned": svi_step(net(), x, y, keep=0.5),
            "hand-written": by_hand_step(program, net(), x, y),
            "stock Pyro": by_hand_step(program, net(), x, y, Adam({"lr": 1e-3}), TraceMeanField_ELBO()),
        }
        seconds = interleaved(steps, rounds=options.rounds)
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
