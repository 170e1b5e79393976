"""A trained network pruned to budgets, by this package and by torch-pruning, with the same epochs afterwards."""

from __future__ import annotations

__all__ = ["BUDGETS", "CONTENDERS", "EPOCHS", "NETWORKS", "grid", "run"]

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from bmrs_pyro.data import Augmentation, Batches, Dataset, Splits, load, stratified_split
from bmrs_pyro.experiments import study
from bmrs_pyro.experiments.small_runs import build, evaluated
from bmrs_pyro.experiments.sweep import Config, run_key
from bmrs_pyro.experiments.torch_pruning_cuts import CUTS, IMPORTANCES, SHARE, trained_on
from bmrs_pyro.experiments.trained.pretraining import Stage, pretrain
from bmrs_pyro.files import alone, write_atomically
from bmrs_pyro.inference.likelihoods import SmoothedLikelihood
from bmrs_pyro.inference.model import SupervisedModel
from bmrs_pyro.network import NoisyNetwork, complexity
from bmrs_pyro.path import JointReduction, Target, TrainedPath
from bmrs_pyro.training import Cycle, PlainSteps, reestimate_batch_norm_

BUDGETS, EPOCHS = (70, 50, 30, 15, 7), (0, 1, 5, 15)
VALIDATION = 0.05
"""Share of the training images that networks are chosen by."""
_TORCH_PRUNING = "torch-pruning-"
CONTENDERS = (
    "dense",
    "bmrs-path",
    "bmrs-path-teacher",
    "bmrs-laplace",
    *(f"{_TORCH_PRUNING}{name}{kind}" for name in IMPORTANCES for kind in ("", "-local", "-iterative")),
)
"""``-local`` is the same share of every layer; ``-iterative`` makes its cuts where ours are, others all at once.

``-teacher`` trains with the dense network as the teacher.
"""


def vgg(widths: Sequence[int] = (32, 64, 64, 128, 128, 256)) -> nn.Module:
    """Return six 3 × 3 convolutions with batch norm, two max-poolings, and a linear layer behind the mean."""
    layers: list[nn.Module] = []
    fan_in = 3
    for index, width in enumerate(widths):
        layers += [nn.Conv2d(fan_in, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if index in (1, 3) else []
        fan_in = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(fan_in, 10))


def resnet20() -> nn.Module:
    """Return ResNet-20 for small images (He et al. 2016, section 4.2), 1 × 1 convolutions where the width changes."""
    return build("resnet-16x3x3", (3, 32, 32), 10)


def vit() -> nn.Module:
    """Return a vision transformer of width 96, with three blocks of three heads, for 16 × 16 images."""
    return build("vit-96x3", (1, 16, 16), 10)


class Setting(NamedTuple):
    """A network and how it is trained before it is pruned."""

    build: Callable[[], nn.Module]
    size: int
    """Pixels of the images."""
    share: float
    """Share of the training images that networks are trained on."""
    epochs: int
    dataset: str = "cifar10"
    cycle: Cycle = Cycle(bfloat16=True)
    """How it is trained after it was cut; by AdamW, it is trained so before, too."""


NETWORKS = {
    "vgg": Setting(vgg, 16, 0.5, 20),
    "vgg-wide": Setting(partial(vgg, (64, 128, 128, 256, 256, 512)), 16, 0.5, 20),
    "resnet20": Setting(resnet20, 32, 0.9, 30),
    "vit": Setting(vit, 16, 0.5, 20, "fashion_mnist", Cycle("adamw", weight_decay=0.05)),
}


def grid(
    networks: Sequence[str],
    contenders: Sequence[str],
    budgets: Sequence[int],
    epochs: Sequence[int],
    seeds: int,
) -> list[Config]:
    """Return the configurations, seeds outermost; the dense network has no budget, and no 0 epochs."""
    cells = study.grid(seeds, network=networks, contender=contenders, epochs=epochs)
    return [
        {**cell, "budget": budget}
        for cell in cells
        for budget in (budgets if cell["contender"] != "dense" else (100,))
    ]


@dataclass(frozen=True)
class _Trial:
    """One configuration with its data."""

    config: Config
    data: Splits[Dataset]
    device: str

    @classmethod
    def of(cls, config: Config, data_root: str, device: str) -> _Trial:
        setting = NETWORKS[config["network"]]
        left_out = 1 - setting.share
        splits = load(setting.dataset, data_root=data_root, size=setting.size, validation=left_out)
        if left_out > VALIDATION:
            held_out = stratified_split(splits.validation, round(VALIDATION / left_out, 9))[1]
            splits = splits._replace(validation=held_out)
        return cls(config, splits, device)

    @property
    def seed(self) -> int:
        return int(self.config["seed"])

    @property
    def setting(self) -> Setting:
        return NETWORKS[self.config["network"]]

    @property
    def example(self) -> Tensor:
        return torch.zeros(1, *self.data.train.input_shape, device=self.device)

    def augmented(self) -> Batches:
        return self._batches(drop_last=True, augmentation=Augmentation())

    def still(self) -> Batches:
        """Return the images as they are, for gradients and batch-norm statistics."""
        return self._batches()

    def _batches(self, **options: Any) -> Batches:
        return Batches(self.data.train, 128, seed=self.seed, device=self.device, **options)

    def accuracy(self, net: nn.Module, part: Dataset) -> float:
        return 100 * evaluated(net, part, 500, self.device).accuracy

    def dense(self, cache: Path) -> tuple[nn.Module, float]:
        """Return the dense network, trained before or now, and its test accuracy in percent."""
        network, size, epochs = self.config["network"], self.setting.size, self.setting.epochs
        recipe = run_key({"size": size, "examples": len(self.data.train), "epochs": epochs})
        file = cache / f"{network}-{self.seed}-{recipe}.safetensors"
        cache.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(self.seed)
        net = self.setting.build().to(self.device)
        with alone(file.with_suffix(".lock"), wait=True):
            if not file.exists():
                if self.setting.cycle.optimizer == "adamw":
                    train = self.augmented()
                    steps = epochs * len(train)
                    PlainSteps(net, SmoothedLikelihood(0.1), train, steps, self.setting.cycle).make(steps)
                    net.eval()
                else:
                    pretrain(net, self.data, [Stage(epochs, size)], file.with_suffix(".jsonl"), peak_rate=0.1)
                weights = {name: value.contiguous() for name, value in net.state_dict().items()}
                note = {"accuracy": str(self.accuracy(net, self.data.test))}
                write_atomically(file, lambda partial: save_file(weights, partial, note))
        with safe_open(file, "pt") as kept:
            net.load_state_dict({name: kept.get_tensor(name) for name in kept.keys()})  # noqa: SIM118
            return net, float(kept.metadata()["accuracy"])

    def ours(self, net: nn.Module, macs: int) -> nn.Module:
        """Return the network cut by this package."""
        contender = self.config["contender"]
        model = SupervisedModel(
            NoisyNetwork(net, self.example, trained=True), "categorical:0.02", len(self.data.train)
        )
        reduction = JointReduction(
            self.augmented(),
            Batches(self.data.validation, 500, device=self.device),
            epochs=self.config["epochs"],
            cycle=self.setting.cycle,
            cuts=CUTS,
            share=0.0 if contender == "bmrs-laplace" else SHARE,
            teacher=copy.deepcopy(net) if contender.endswith("-teacher") else None,
            seed=self.seed,
            progress=False,
        )
        _, choice = TrainedPath.of(model, reduction).chosen(Target(max_macs=macs))
        return choice.refit.history.network

    def theirs(self, net: nn.Module, macs: int) -> nn.Module:
        """Return the network cut by torch-pruning, or the dense network, trained on."""
        contender, train = self.config["contender"].removeprefix(_TORCH_PRUNING), self.augmented()
        total = self.config["epochs"] * len(train)

        def begin(small: nn.Module) -> PlainSteps:
            return PlainSteps(small, SmoothedLikelihood(0.02), train, total, self.setting.cycle)

        trained = trained_on(net, self.example, contender, macs, self.still(), begin)
        reestimate_batch_norm_(trained, self.still())
        return trained.eval()


def run(config: Config, *, data_root: str, cache: str, device: str = "cpu") -> dict[str, Any]:
    """Prune the trained network to a budget and train it on; test data are read once, at the end.

    Args:
        config: ``network``, ``contender``, ``budget`` (percent of the MACs), ``epochs`` and ``seed``.
        data_root: folder of CIFAR-10.
        cache: folder that trained networks are kept in.
        device: where networks are trained.
    """
    trial = _Trial.of(config, data_root, device)
    net, dense = trial.dense(Path(cache))
    whole = complexity(net, trial.example).macs
    net.to(memory_format=torch.channels_last)
    torch.manual_seed(trial.seed)
    start = time.process_time()
    budget = whole * config["budget"] // 100
    small = (trial.ours if config["contender"].startswith("bmrs-") else trial.theirs)(net, budget)
    seconds, cost = time.process_time() - start, complexity(small, trial.example)
    return {
        "dataset": trial.setting.dataset,
        "accuracy": trial.accuracy(small, trial.data.test),
        "validation_accuracy": trial.accuracy(small, trial.data.validation),
        "dense_accuracy": dense,
        "macs": 100 * cost.macs / whole,
        "parameters": cost.parameters,
        "widths": [len(module.weight) for module in small.modules() if isinstance(module, nn.Conv2d)],
        "seconds": seconds,
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu",
        "version": version("bmrs-pyro"),
    }
