"""What experiments share: networks by name and size, the first examples, training with pruning, evaluation."""

from __future__ import annotations

__all__ = ["build", "evaluated", "first", "noisy_model", "run_config", "source_of", "train_pruned"]

import runpy
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from bmrs_pyro.data import Batches, Dataset, DataSource
from bmrs_pyro.experiments.sweep import Config
from bmrs_pyro.inference import AutoTruncatedLogNormal, SmoothedLikelihood, SupervisedModel
from bmrs_pyro.metrics import ClassEvaluation, evaluate
from bmrs_pyro.network import NoisyNetwork
from bmrs_pyro.runs import MODELS, NetworkSource, RunConfig
from bmrs_pyro.training import History, Recipe, fit


def source_of(name: str) -> NetworkSource:
    """Return the source of a network that comes with the package."""
    return NetworkSource(str(MODELS / f"{name}.py"))


def build(name: str, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Make a network: ``vgg`` as its file has it, ``vgg-16`` of width 16, ``vit-64x2`` of width 64 and depth 2."""
    file, _, sizes = name.partition("-")
    make = runpy.run_path(str(MODELS / f"{file}.py"))["network"]
    return make(input_shape, num_classes, *map(int, sizes.split("x") if sizes else ()))


def first(dataset: Dataset, count: int) -> Dataset:
    """Return the first examples of a data set."""
    return replace(dataset, images=dataset.images[:count], labels=dataset.labels[:count])


def evaluated(
    predict: Callable[[Tensor], Tensor], part: Dataset, batch_size: int = 1000, device: str = "cpu"
) -> ClassEvaluation:
    """Evaluate a network or another classifier on a part of the data."""
    return evaluate(predict, Batches(part, batch_size, shuffle=False, device=device), part.num_classes)


def noisy_model(
    net: nn.Module, train: Dataset, label_smoothing: float = 0.0, **options: Any
) -> SupervisedModel:
    """Put gains into a network, and return the model of the training data; for options see its class."""
    device = next(net.parameters()).device
    network = NoisyNetwork(net, torch.zeros(1, *train.input_shape, device=device))
    return SupervisedModel(network, SmoothedLikelihood(label_smoothing), len(train), **options)


def train_pruned(
    net: nn.Module,
    train: Dataset,
    batches: Batches,
    config: Config,
    criterion: str,
    kl_weight: str,
    *,
    posterior_lr_factor: float,
) -> History:
    """Train with gains and prune after each of the first three quarters of the epochs; the last epoch's weights stay.

    The learning rate is 1e-3, and that of the posteriors ``posterior_lr_factor`` times as high, so that they cross the
    prior. ``config`` has the ``epochs`` in all and the ``seed``.
    """
    model, epochs = noisy_model(net, train, kl_weight=kl_weight), config["epochs"]
    return fit(
        model,
        AutoTruncatedLogNormal(model),
        batches,
        criterion=criterion,
        epochs=epochs * 3 // 4,
        fine_tune_epochs=epochs - epochs * 3 // 4,
        lr=1e-3,
        posterior_lr_factor=posterior_lr_factor,
        seed=config["seed"],
        progress=False,
    )


def run_config(
    source: NetworkSource, train: Dataset, recipe: Recipe, data_root: str, validation: float
) -> RunConfig:
    """Return the configuration of a run on named data."""
    return RunConfig(
        model=str(source.file),
        data=DataSource(train.name, data_root, size=source.input_size(), validation=validation),
        recipe=recipe,
        input_shape=train.input_shape,
        num_classes=train.num_classes,
        mean=train.mean,
        std=train.std,
        versions={"bmrs_pyro": version("bmrs-pyro")},
    )
