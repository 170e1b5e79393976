"""Steps by Pyro's own objective and optimiser, of the packaged model and guide and of programs written by hand."""

from __future__ import annotations

__all__ = ["stock"]

import runpy
from types import SimpleNamespace

from pyro.infer import SVI, TraceMeanField_ELBO
from pyro.optim import Adam  # type: ignore[attr-defined]
from torch import Tensor, nn

from bmrs_pyro.experiments.bench.setting import Record, Setting, model_of
from bmrs_pyro.experiments.bench.steps import NUM_DATA, Step, by_hand_step, interleaved, plain_step
from bmrs_pyro.inference import AutoTruncatedLogNormal, SmoothedLikelihood, SupervisedModel
from bmrs_pyro.network import NoisyNetwork
from bmrs_pyro.runs import MODELS

CASES = {
    "LeNet5, MNIST, batch 64": ("lenet5", (1, 32, 32), 64),
    "LeNet5, CIFAR-10, batch 64": ("lenet5", (3, 32, 32), 64),
    "MLP, MNIST, batch 128": ("mlp", (1, 28, 28), 128),
}


def stock(setting: Setting) -> Record:
    """(a) A step by TraceMeanField_ELBO and Pyro's Adam against the plain step: packaged, and written by hand."""
    record = {}
    for case, (name, shape, batch) in CASES.items():
        x, y = setting.examples(batch, shape)
        program = SimpleNamespace(**runpy.run_path(str(MODELS / f"{name}.py")))
        nets = [setting.at(model_of(name, shape)()) for _ in range(3)]
        steps = {
            "plain": plain_step(nets[0], x, y),
            "packaged": stock_step(nets[1], x, y),
            "by hand": by_hand_step(program, nets[2], x, y, Adam({"lr": 1e-3}), TraceMeanField_ELBO()),
        }
        seconds = interleaved(steps, rounds=setting.rounds, block=10)
        record[case] = {
            "plain_seconds": seconds["plain"],
            "packaged_ratio": seconds["packaged"] / seconds["plain"],
            "by_hand_ratio": seconds["by hand"] / seconds["plain"],
        }
    return record


def stock_step(net: nn.Module, x: Tensor, y: Tensor) -> Step:
    """Return a step of the packaged model and guide by Pyro's own objective and optimiser."""
    model = SupervisedModel(NoisyNetwork(net, x[:1]), SmoothedLikelihood(), NUM_DATA)
    svi = SVI(model, AutoTruncatedLogNormal(model), Adam({"lr": 1e-3}), TraceMeanField_ELBO())
    return lambda: svi.step(x, y)
