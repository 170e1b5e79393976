"""How long it takes until something happens: imports, help, the first step, and a path against plain epochs."""

from __future__ import annotations

__all__ = ["path", "start"]

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyro
import torch

from bmrs_pyro import data
from bmrs_pyro.experiments.bench_setting import Record, Setting, model_of
from bmrs_pyro.experiments.plain_training import train_plainly
from bmrs_pyro.inference import AutoTruncatedLogNormal, SmoothedLikelihood, SupervisedModel
from bmrs_pyro.network import NoisyNetwork
from bmrs_pyro.training import fit_path

_FIRST_STEP = """
import os, sys
from bmrs_pyro.cli import main
from bmrs_pyro.training.optimiser import JointOptim
JointOptim.__call__ = lambda *_, **__: os._exit(0)
sys.argv = ["bmrs", "fit", {net!r}, "--data", "digits", "--out", {out!r}, "--quiet"]
main()
"""


def start(setting: Setting) -> Record:
    """(g) Seconds of whole processes in turns: importing torch, Pyro and the library, help, and ``bmrs fit`` to a step.

    The last one ends where the optimiser would make the first step.
    """
    with tempfile.TemporaryDirectory() as folder:
        outs = iter(str(Path(folder) / str(number)) for number in range(setting.rounds + 1))
        codes = {
            "import torch": lambda: "import torch",
            "import pyro": lambda: "import pyro",
            "import bmrs_pyro": lambda: "import bmrs_pyro",
            "import bmrs_pyro, every name": lambda: "from bmrs_pyro import *",
            "bmrs --help": lambda: (
                "import sys; sys.argv = ['bmrs', '--help']; from bmrs_pyro.cli import main; main()"
            ),
            "bmrs fit, first step": lambda: _FIRST_STEP.format(
                net=str(Path(setting.folder) / "lenet5.py"), out=next(outs)
            ),
        }
        seconds: dict[str, list[float]] = {name: [] for name in codes}
        for turn in range(setting.rounds + 1):
            for name, code in codes.items():
                begun = time.perf_counter()
                subprocess.run([sys.executable, "-c", code()], check=True, stdout=subprocess.DEVNULL)
                if turn:  # the first one fills the cache of files
                    seconds[name].append(time.perf_counter() - begun)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        name: {"seconds": value, "per_import_torch": value / median["import torch"]}
        for name, value in median.items()
    } | {"import bmrs_pyro / import pyro": median["import bmrs_pyro"] / median["import pyro"]}


def path(setting: Setting, epochs: int = 12) -> Record:
    """(h) A path of growing KL weight against as many plain epochs: LeNet5 on scikit-learn's digits."""
    splits = data.load("digits", size=32)
    batches = data.Batches(splits.train, 64)
    pyro.set_rng_seed(0)
    make = model_of(setting.folder, "lenet5", splits.train.input_shape)
    plain, begun = make(), time.perf_counter()
    train_plainly(plain, batches, epochs)
    plain_seconds = time.perf_counter() - begun
    network = NoisyNetwork(make(), torch.zeros(1, *splits.train.input_shape))
    model = SupervisedModel(network, SmoothedLikelihood(0.02), len(splits.train), kl_weight="cost")
    begun = time.perf_counter()
    found = fit_path(
        model,
        AutoTruncatedLogNormal(model),
        batches,
        validation=data.Batches(splits.validation, 1000, shuffle=False),
        epochs=epochs,
        dense_epochs=0,
        progress=False,
        seed=0,
    )
    seconds = time.perf_counter() - begun
    return {
        "LeNet5, digits": {
            "plain_seconds": plain_seconds,
            "seconds": seconds,
            "ratio": seconds / plain_seconds,
            "networks": len(found.points),
        }
    }
