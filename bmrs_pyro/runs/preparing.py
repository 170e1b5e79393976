"""The model, guide and batches of a run, made from its configuration."""

from __future__ import annotations

__all__ = ["Prepared", "batches_of", "fitted_likelihood", "program_of"]

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from bmrs_pyro import data
from bmrs_pyro.distributed import rank, world_size
from bmrs_pyro.inference import AutoTruncatedLogNormal, SupervisedModel
from bmrs_pyro.inference.likelihoods import Likelihood
from bmrs_pyro.network import NoisyNetwork, Structures
from bmrs_pyro.network.inputs import arguments
from bmrs_pyro.runs.config import RunConfig
from bmrs_pyro.runs.likelihoods import likelihood_of
from bmrs_pyro.runs.run_directory import RunDirectory
from bmrs_pyro.runs.splits import run_data, serving
from bmrs_pyro.training import Recipe
from bmrs_pyro.training.likelihood_fit import fit_likelihood_


@dataclass(frozen=True)
class Prepared:
    """Everything a run is trained with; each of several processes has its own part of the batches.

    Attributes:
        splits: the data.
        model: the model of the dense network.
        guide: the posteriors.
        loader: training batches.
        validation: validation batches.
    """

    splits: data.Splits[Any]
    model: SupervisedModel
    guide: AutoTruncatedLogNormal
    loader: Any
    validation: Any

    @classmethod
    def of(cls, run: RunDirectory, device: str) -> Prepared:
        """Load a run's data onto a device and make its model."""
        splits = run_data(run)
        count, example = len(splits.train), run.stored_example()
        model = program_of(run.dense(), run.config, count, example, run.structures)
        share = rank(), world_size()
        loader = batches_of(splits.train, run.config.recipe, device, share)
        validation = serving(splits.validation, 1000, shuffle=False, device=device, share=share)
        return cls(splits, model, AutoTruncatedLogNormal(model), loader, validation)


def program_of(
    net: nn.Module,
    config: RunConfig,
    num_data: int,
    example: Any = None,
    structures: Structures | None = None,
) -> SupervisedModel:
    """Return the model of a network for a run's configuration.

    Args:
        net: the dense network.
        config: the configuration.
        num_data: number of training examples.
        example: inputs of one example; None uses zeros of the configured shape.
        structures: the network's structures; None finds them.
    """
    recipe = config.recipe
    inputs = torch.zeros(2, *config.input_shape) if example is None else example
    return SupervisedModel(
        NoisyNetwork(net, *arguments(inputs), structures=structures, trained=config.cycle is not None),
        likelihood_of(config),
        num_data,
        draws=recipe.draws,
        kl_weight=recipe.kl_weight,
        mixed_precision=recipe.bfloat16,
    )


def fitted_likelihood(run: RunDirectory, net: nn.Module) -> Likelihood:
    """Return a run's likelihood, with its parameters fitted to the outputs of one network for the training data."""
    likelihood = likelihood_of(run.config)
    if isinstance(likelihood, nn.Module) and [*likelihood.parameters()]:
        fit_likelihood_(likelihood, net, batches_of(run_data(run).train, run.config.recipe))
    return likelihood


def batches_of(
    train: data.Dataset | data.Items, recipe: Recipe, device: str = "cpu", share: tuple[int, int] = (0, 1)
) -> Any:
    """Return the training batches of a recipe."""
    return serving(
        train,
        recipe.batch_size,
        seed=recipe.seed or 0,
        device=device,
        augmentation=data.Augmentation() if recipe.augment else None,
        share=share,
    )
