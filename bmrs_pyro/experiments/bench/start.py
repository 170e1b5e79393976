"""How long it takes until something happens: imports, help, the first step, and a path against one run."""

from __future__ import annotations

__all__ = ["path", "start"]

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyro

from bmrs_pyro import data
from bmrs_pyro.experiments.bench.setting import Record, Setting, model_of, repeated, timed
from bmrs_pyro.experiments.small_runs import noisy_model
from bmrs_pyro.inference import AutoTruncatedLogNormal, SupervisedModel
from bmrs_pyro.path import fit_path
from bmrs_pyro.runs import MODELS
from bmrs_pyro.training import fit

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
            "bmrs fit, first step": lambda: _FIRST_STEP.format(net=str(MODELS / "lenet5.py"), out=next(outs)),
        }
        seconds: dict[str, list[float]] = {name: [] for name in codes}
        for turn in range(setting.rounds + 1):
            for name, code in codes.items():
                command = [sys.executable, "-c", code()]
                _, took = timed(subprocess.run, command, check=True, stdout=subprocess.DEVNULL)
                if turn:  # the first one fills the cache of files
                    seconds[name].append(took)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        name: {"seconds": value, "per_import_torch": value / median["import torch"]}
        for name, value in median.items()
    } | {"import bmrs_pyro / import pyro": median["import bmrs_pyro"] / median["import pyro"]}


def path(setting: Setting, epochs: int = 36) -> Record:
    """(h) A path, and the refit of one of its networks, against one run at a constant KL weight: LeNet5.

    The run takes 20 epochs with pruning at ``cost`` × 0.22 and 12 without, the path a third of its epochs without
    gains before it. The refitted network is the one nearest in size to that of the run. The examples are scikit-learn's
    digits, repeated eight times: 144 steps of 64 in an epoch.
    """
    splits = data.load("digits", size=32)
    train = repeated(splits.train)
    batches, validation = data.Batches(train, 64), data.Batches(splits.validation, 1000)
    settings: dict[str, Any] = {"validation": validation, "criterion": "bmrs-n", "seed": 0, "progress": False}

    def model(kl_weight: Any) -> SupervisedModel:
        pyro.set_rng_seed(0)
        return noisy_model(model_of("lenet5", train.input_shape)(), train, 0.02, kl_weight=kl_weight)

    one, many = model(("cost", 0.22)), model("cost")
    guides = AutoTruncatedLogNormal(one), AutoTruncatedLogNormal(many)
    usual = epochs - epochs // 9, epochs // 3  # 32 and 12
    run, seconds = timed(
        fit, one, guides[0], batches, epochs=usual[0] - usual[1], fine_tune_epochs=usual[1],
        lr=1.5e-3, posterior_lr_factor=13.0, **settings,
    )  # fmt: skip
    found, of_path = timed(
        fit_path, many, guides[1], batches, epochs=epochs, dense_epochs=usual[1], **settings
    )
    size = sum(parameter.numel() for parameter in run.network.parameters())
    point = min(found.points, key=lambda point: abs(point.parameters - size))
    _, of_refit = timed(found.refit, point)
    return {
        "LeNet5, digits": {
            "run_seconds": seconds,
            "path_ratio": of_path / seconds,
            "refit_ratio": of_refit / seconds,
            "run_parameters": size,
            "refit_parameters": point.parameters,
            "networks": len(found.points),
        }
    }
