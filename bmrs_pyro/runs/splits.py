"""The data of a run."""

from __future__ import annotations

__all__ = ["digest_of", "load_splits", "outputs_for", "run_data", "serving", "training_batches"]

import hashlib
import math
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from bmrs_pyro import data
from bmrs_pyro.data import Dataset, Items, Splits
from bmrs_pyro.data.named import known_name
from bmrs_pyro.inference import OF_CLASSES
from bmrs_pyro.runs.config import RunConfig
from bmrs_pyro.runs.errors import RunError
from bmrs_pyro.runs.run_directory import RunDirectory
from bmrs_pyro.runs.user_code import SourceError, UserCode
from bmrs_pyro.training import Recipe


def load_splits(source: data.DataSource, recipe: Recipe) -> Splits[Any]:
    """Load a data set, split with a recipe's seed; code that gives the data is imported.

    Returns:
        The three parts, each a :class:`~bmrs_pyro.data.Dataset` or :class:`~bmrs_pyro.data.Items`.
    """
    likelihood, seed = recipe.likelihood.partition(":")[0], recipe.seed or 0
    values = likelihood not in OF_CLASSES
    given = None
    if source.imports:
        given = UserCode(source.data, "data() -> Dataset").call(purpose="give data")
        if given is None:
            raise data.DataError(f"{source.data} gave None; return a torch Dataset")
    elif data.is_saved_dataset(Path(source.data)):
        next_token = likelihood == "next-token"
        given = data.read_saved_dataset(Path(source.data), source.target, next_token=next_token)
    if given is not None:
        if source.size is not None:
            raise data.DataError(f"{source.data}: its inputs are used as they are; leave the size out")
        return data.split_items(given, source.data, source.validation, seed, values=values)
    splits = data.load(
        source.data,
        data_root=source.data_root,
        download=source.download,
        size=source.size,
        validation=source.validation,
        seed=seed,
        target=source.target,
        values=values,
    )
    if torch.equal(splits.train.labels, splits.train.images) and likelihood != "next-token":
        warnings.warn(
            f"{source.data}: each token is its own label; choose --likelihood next-token to predict the next one",
            stacklevel=2,
        )
    return splits


def run_data(run: RunDirectory) -> Splits[Any]:
    """Load the data of a run.

    Raises:
        DataError: the data can no longer be used.
        RunError: the data are not those that the run was made with.
        SourceError: the data come from code, and the run's ``trust_source`` is False.
    """
    config = run.config
    if config.data.imports and not run.trust_source:
        raise SourceError(
            f"{run.path} says that its data come from {config.data.data!r}, which is code outside it; if you know and "
            "trust that code, give trust_source=True, or --trust-source on the command line"
        )
    given = config.data.data
    if not (config.data.imports or known_name(given) or Path(given).exists()):
        raise data.DataError(
            f"{run.path} was made with the data {given}, which are not there; restore them, or run the command in the "
            "folder where the run was made"
        )
    splits = load_splits(replace(config.data, download=False), config.recipe)
    if change := _change(splits, config):
        raise RunError(
            f"{given} holds other data than {run.path} was made with: {change}; "
            "restore the original data, or fit the new data in another directory"
        )
    return splits


def digest_of(splits: Splits[Any], source: data.DataSource) -> str | None:
    """Return a digest of the labels of all parts, and of the inputs; None for data from code.

    Inputs that are resized depend on torch's version, and are left out.
    """
    if not all(isinstance(part, Dataset) for part in splits):
        return None
    digest = hashlib.blake2b(digest_size=16)
    for part in splits:
        for tensor in (part.labels, *([] if source.size is not None else [part.images])):
            digest.update(f"{tuple(tensor.shape)} {tensor.dtype} ".encode())
            digest.update(tensor.contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def outputs_for(train: Dataset | Items, recipe: Recipe) -> int:
    """Return the number of outputs that a network needs: twice as many if it predicts scales too."""
    return train.num_classes * (2 if recipe.likelihood.endswith(":predicted") else 1)


def serving(part: Dataset | Items, batch_size: int, **options: Any) -> Any:
    """Return batches of a part of the data: the DataLoader itself if it is one, else :class:`~bmrs_pyro.data.Batches`.

    Args:
        part: the part of the data.
        batch_size: examples per batch.
        **options: options of :class:`~bmrs_pyro.data.Batches`.

    Raises:
        DataError: a DataLoader is to be shared by several processes or augmented.
    """
    if not isinstance(part, Items) or not isinstance(part.source, DataLoader):
        return data.Batches(part, batch_size, **options)
    if options.get("share", (0, 1))[1] > 1 or options.get("augmentation"):
        raise data.DataError(
            f"{part.name} gives DataLoaders, which cannot be shared by processes or augmented; give Datasets"
        )
    return part.source


def training_batches(run: RunDirectory) -> Iterator[Any]:
    """Serve a run's training data without augmentation; they are loaded when the first batch is requested."""
    yield from serving(run_data(run).train, run.config.recipe.batch_size)


def _change(splits: Splits[Any], config: RunConfig) -> str | None:
    """Return how data differ from those of a configuration; None if they do not."""
    train: Dataset | Items = splits.train
    if train.input_shape != config.input_shape:
        return f"examples have shape {train.input_shape}, not {config.input_shape}"
    outputs = outputs_for(train, config.recipe)
    if outputs != config.num_classes:
        return f"there are {outputs} classes, not {config.num_classes}"
    if list(train.columns.items()) != list(config.columns.items()):
        changed = sorted(
            name
            for name in {*train.columns, *config.columns}
            if train.columns.get(name) != config.columns.get(name)
        )
        return f"the columns or their categories differ, in {', '.join(changed) or 'their order'}"
    for what in ("mean", "std"):
        values = zip(getattr(train, what), getattr(config, what), config.std, strict=True)
        for channel, (now, then, std) in enumerate(values):
            # sums depend a little on the number of threads
            if not math.isclose(now, then, rel_tol=1e-9, abs_tol=1e-6 * std):
                return f"the {what} of channel {channel} is {now:.8g}, not {then:.8g}"
    if config.data_digest not in (None, digest_of(splits, config.data)):
        return "labels or inputs have other values, or another order"
    return None
