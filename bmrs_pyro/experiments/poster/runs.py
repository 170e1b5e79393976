"""One run of the BMRS poster's experiment: a network, a data set, a method, a protocol, a seed."""

from __future__ import annotations

__all__ = [
    "ASKED",
    "DATASETS",
    "METHODS",
    "NETWORKS",
    "POSTER",
    "PROTOCOLS",
    "Protocol",
    "Trial",
    "continuous_criterion",
    "grid",
    "recipe_key",
    "run",
]

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from typing import Any

import pyro
import torch

from bmrs_pyro import data
from bmrs_pyro.experiments import study
from bmrs_pyro.experiments.small_runs import evaluated, noisy_model, source_of
from bmrs_pyro.experiments.sweep import Config, run_key
from bmrs_pyro.inference import AutoTruncatedLogNormal
from bmrs_pyro.network import complexity
from bmrs_pyro.reduction import Criterion, ModelReduction, named_criterion, spike
from bmrs_pyro.training import Checkpoint, Epoch, History, Recipe, fit

NETWORKS = ("mlp", "lenet5")
DATASETS = ("mnist", "fashion_mnist", "cifar10")
METHODS = ("none", "l2", "expected", "snr", "bmrs-n", "bmrs-u-8", "bmrs-u-4")

# parameter compression and test accuracy in percent, as the poster reports them
POSTER: Mapping[tuple[str, str], tuple[tuple[float, float], ...]] = {
    # (network, method): MNIST, Fashion-MNIST, CIFAR-10
    ("mlp", "none"): ((0, 97.43), (0, 88.17), (0, 44.94)),
    ("mlp", "l2"): ((43.11, 10.39), (87.86, 18.23), (42.89, 10.00)),
    ("mlp", "expected"): ((52.08, 96.88), (91.76, 85.59), (77.99, 43.39)),
    ("mlp", "snr"): ((58.57, 96.92), (99.83, 10.00), (75.93, 43.97)),
    ("mlp", "bmrs-n"): ((48.86, 96.95), (93.20, 84.99), (76.36, 43.59)),
    ("mlp", "bmrs-u-8"): ((48.73, 96.93), (93.02, 85.01), (77.17, 43.45)),
    ("mlp", "bmrs-u-4"): ((54.47, 96.99), (91.57, 85.79), (76.63, 44.06)),
    ("lenet5", "none"): ((0, 99.07), (0, 89.16), (0, 67.62)),
    ("lenet5", "l2"): ((83.42, 11.35), (83.62, 10.00), (52.29, 10.00)),
    ("lenet5", "expected"): ((88.29, 51.30), (89.71, 50.93), (66.19, 65.83)),
    ("lenet5", "snr"): ((92.66, 62.70), (98.47, 17.01), (70.29, 67.68)),
    ("lenet5", "bmrs-n"): ((86.90, 95.59), (88.02, 77.90), (62.87, 66.14)),
    ("lenet5", "bmrs-u-8"): ((86.11, 95.27), (87.61, 77.23), (62.54, 66.28)),
    ("lenet5", "bmrs-u-4"): ((87.58, 96.66), (88.72, 81.10), (68.07, 67.66)),
}


# targets for parameter compression and test accuracy of BMRS_N with the default KL weight, in percent
ASKED: Mapping[tuple[str, str], tuple[float, float]] = {
    ("mlp", "mnist"): (67, 97.0),
    ("lenet5", "mnist"): (92, 98.5),
    ("lenet5", "fashion_mnist"): (92, 87),
    ("lenet5", "cifar10"): (85, 67.6),
}


@dataclass(frozen=True)
class Protocol:
    """How a run is trained.

    Attributes:
        recipe: the recipe that all its runs share.
        label_smoothing: ε of the likelihood, by network.
        margin: log prior odds of BMRS_N and BMRS_U, nats.
        kind: kind of the KL weight, by network.
        grid: factors of the KL weight that are swept, by network.
        default: the default one of these factors, by network.
    """

    recipe: Recipe
    label_smoothing: Mapping[str, float]
    margin: tuple[float, float]
    kind: Mapping[str, str]
    grid: Mapping[str, tuple[float, ...]]
    default: Mapping[str, float]

    def recipe_of(self, config: Config) -> Recipe:
        """Return the recipe of one run; without gains to learn, the KL weight is too small to matter."""
        network = config["network"]
        pruned = config["method"] != "none"
        return replace(
            self.recipe,
            kl_weight=f"{self.kind[network]}:{config['kl_weight']}" if pruned else "mean:1e-9",
            label_smoothing=self.label_smoothing[network],
            seed=config["seed"],
        )


PROTOCOLS = {
    "published": Protocol(
        recipe=Recipe(
            epochs=50,
            fine_tune_epochs=10,
            batch_size=64,
            draws="example",
            lr=1e-3,
            posterior_lr_factor=1.0,
            schedule="constant",
        ),
        label_smoothing={"mlp": 0.0, "lenet5": 0.0},
        # the published code compares ΔF + ½ log 2π with 0: it drops that constant
        margin=(0.5 * math.log(2 * math.pi), 0.0),
        kind={"mlp": "mean", "lenet5": "mean"},
        grid={"mlp": (1.0,), "lenet5": (1.0,)},
        default={"mlp": 1.0, "lenet5": 1.0},
    ),
    "ours": Protocol(
        recipe=Recipe(
            epochs=20,
            fine_tune_epochs=12,
            batch_size=128,
            draws="example",
            lr=1.5e-3,
            posterior_lr_factor=13.0,
            schedule="linear-decay",
        ),
        label_smoothing={"mlp": 0.0, "lenet5": 0.02},
        margin=(1.0, 0.0),
        kind={"mlp": "cost", "lenet5": "cost"},
        grid={"mlp": (0.1, 0.2, 0.5), "lenet5": (0.1, 0.22, 0.5)},
        default={"mlp": 0.1, "lenet5": 0.22},
    ),
}


def grid(
    protocol: str,
    networks: Sequence[str] = NETWORKS,
    datasets: Sequence[str] = DATASETS,
    methods: Sequence[str] = METHODS,
    kl_weights: Sequence[float] = (),
    seeds: int = 1,
) -> list[Config]:
    """Return the configurations of a sweep, by default with the protocol's own factors of the KL weight."""
    cells = study.grid(seeds, network=networks, dataset=datasets, method=methods, protocol=[protocol])
    return [
        {**cell, "kl_weight": weight}
        for cell in cells
        for weight in (
            (0.0,) if cell["method"] == "none" else kl_weights or PROTOCOLS[protocol].grid[cell["network"]]
        )
    ]


def recipe_key(protocol: str) -> str:
    """Return a key of all that runs depend on besides their configurations: the protocol's settings, the networks."""
    settings = asdict(PROTOCOLS[protocol])
    del settings["grid"], settings["default"]  # what is swept says nothing about a single run
    networks = [source_of(name).build((3, 32, 32), 10) for name in NETWORKS]
    settings["networks"] = [repr(net) for net in networks]
    return f"{protocol}-{run_key(settings)}"


class Trial:
    """Network, model and guide of a run, before it is trained.

    Args:
        config: ``network``, ``dataset``, ``method``, ``protocol``, ``kl_weight`` (a factor; 0 for ``none``), ``seed``.
        data_root: folder of the data sets.
    """

    def __init__(self, config: Config, *, data_root: str) -> None:
        self.seed, name = config["seed"], config["network"]
        self.protocol = PROTOCOLS[config["protocol"]]
        self.source = source_of(name)
        self.splits = data.load(
            config["dataset"], data_root=data_root, size=self.source.input_size(), seed=self.seed
        )
        pyro.set_rng_seed(self.seed)
        shape = self.splits.train.input_shape
        self.example = torch.zeros(1, *shape)
        net = self.source.build(shape, self.splits.train.num_classes)
        self.parameters = complexity(net, self.example).parameters
        self.recipe = self.protocol.recipe_of(config)
        options = {"draws": self.recipe.draws, "kl_weight": self.recipe.kl_weight}
        self.model = noisy_model(net, self.splits.train, self.recipe.label_smoothing, **options)
        self.structures = sum(family.size for family in self.model.structures)
        pruned = config["method"] != "none"
        self.guide = AutoTruncatedLogNormal(self.model, init_log_scale=-5.0 if pruned else -12.0)
        if not pruned:
            self.guide.requires_grad_(False)
        self.seconds = 0.0

    def fit(
        self,
        criterion: Criterion | None,
        *,
        prune_every: int = 1,
        validate: bool = True,
        callbacks: Sequence[Callable[[Epoch], object]] = (),
        checkpoint: Checkpoint | None = None,
    ) -> History:
        """Train by the protocol; keep the weights of the best epoch, or of the last one without ``validate``."""
        start = time.perf_counter()
        history = fit(
            self.model,
            self.guide,
            data.Batches(self.splits.train, self.recipe.batch_size, seed=self.seed),
            self.recipe,
            criterion=criterion,
            prune_every=prune_every,
            validation=data.Batches(self.splits.validation, 1000, shuffle=False) if validate else None,
            progress=False,
            channels_last=True,  # same numbers up to rounding, a quarter faster on images with three channels
            callbacks=callbacks,
            checkpoint=checkpoint,
        )
        self.seconds = time.perf_counter() - start
        return history

    def result(self, history: History) -> dict[str, Any]:
        """Return the row of the table: compression (of the parameters) and accuracies in percent, epochs and time."""
        small = history.network
        test, best = evaluated(small, self.splits.test), history.best()
        assert best is not None
        return {
            "compression": 100 * (1 - complexity(small, self.example).parameters / self.parameters),
            "accuracy": 100 * test.accuracy,
            "nll": test.nll,
            "validation_accuracy": None if best.accuracy is None else 100 * best.accuracy,
            "best_epoch": best.epoch,
            "structures": dict(best.structures),
            "epochs": len(history),
            "seconds": self.seconds,
            "version": version("bmrs-pyro"),
        }


def run(config: Config, *, data_root: str) -> dict[str, Any]:
    """Make one run of a method that prunes during training, or of ``none``; for arguments see :class:`Trial`."""
    trial = Trial(config, data_root=data_root)
    return trial.result(trial.fit(continuous_criterion(config["method"], trial.protocol)))


def continuous_criterion(method: str, protocol: Protocol) -> Criterion | None:
    """Return the criterion of a method that has its own threshold.

    Raises:
        ValueError: the method has no threshold: ``l2`` and ``expected`` are told how much to remove.
    """
    if method in ("l2", "expected"):
        raise ValueError(f"method {method!r} has no threshold of its own to prune by")
    if method == "bmrs-n" and protocol.margin[0] != 1.0:
        return ModelReduction(spike, protocol.margin[0])
    return named_criterion(method)
