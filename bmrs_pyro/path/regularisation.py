"""The regularisation path: one run that passes through networks of all sizes."""

from __future__ import annotations

__all__ = ["Path", "fit_path"]

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path as FilePath
from typing import Any

import torch
from torch import Tensor, nn

from bmrs_pyro.distributed import all_gather_int, broadcast_, rank, world_size
from bmrs_pyro.files import make_folder
from bmrs_pyro.inference.guide import AutoTruncatedLogNormal
from bmrs_pyro.inference.inputs import count_batches, on_device_of, one_pass, refuse_generator
from bmrs_pyro.inference.model import SupervisedModel
from bmrs_pyro.metrics import latency
from bmrs_pyro.network import compact
from bmrs_pyro.network.inputs import Call
from bmrs_pyro.network.nested import map_leaves
from bmrs_pyro.network.untouched import deep_copy
from bmrs_pyro.path.pace import LONGEST, Pace, has_ended, kl_weights, refuse_short, refuse_standing
from bmrs_pyro.path.point import PathPoint, told
from bmrs_pyro.path.settings import refuse_other_settings, refuse_without_effect
from bmrs_pyro.path.shelf import Shelf
from bmrs_pyro.path.signature import identity
from bmrs_pyro.path.trainee import Refit, Trainee, score_of
from bmrs_pyro.reduction import Criterion, Decision, criterion_name, named_criterion, refuse_no_criterion
from bmrs_pyro.training.checkpoint import Checkpoint
from bmrs_pyro.training.devices import refuse_unusable
from bmrs_pyro.training.history import Epoch, History
from bmrs_pyro.training.labels import (
    refuse_labels,
    warn_of_probabilities,
    warn_of_units,
    warn_of_unscored,
)
from bmrs_pyro.training.limits import Limits
from bmrs_pyro.training.loop import Batches, StopTraining
from bmrs_pyro.training.options import refuse_no_callbacks
from bmrs_pyro.training.recipe import Recipe


@dataclass(frozen=True)
class Path:
    """Networks of falling size from one run; each of them can be refitted.

    Attributes:
        dense: the unpruned network, trained without gains.
        points: the other networks, largest first.
        history: every epoch of the path.
        trainee: the model before the path, and how it is trained.
        shelf: the states of the points.
    """

    dense: PathPoint
    points: tuple[PathPoint, ...]
    history: History
    trainee: Trainee
    shelf: Shelf

    def __repr__(self) -> str:
        ends = {"unpruned": self.dense, **({"smallest": self.points[-1]} if self.points else {})}
        lines = [f"{type(self).__name__}, networks: {len(self.points)}", *told(ends)]
        return "\n  ".join(lines)

    def refit(self, point: PathPoint, *, epochs: int | None = None, limits: Limits | None = None) -> Refit:
        """Train a point further: half the epochs with pruning at its KL weight, half with rates falling to 0.

        On the path, structures are removed later than at a constant weight; the first half makes up for that.
        A path in a directory keeps its refits there: an interrupted refit is continued, a finished one is loaded.

        Args:
            point: a point of the path.
            epochs: number of epochs; by default a third of the path's.
            limits: budgets, which the last removal of the first half meets.

        Raises:
            ValueError: the point is not on this path, or there are fewer than 2 epochs.
        """
        epochs = max(2, self.trainee.pace.epochs // 3) if epochs is None else epochs
        if epochs < 2:
            raise ValueError(
                f"a refit takes at least 2 epochs, one with pruning and one without; got {epochs}"
            )
        self._refuse_unknown_point(point)
        limits = limits or Limits()
        return self.trainee.refit(self.shelf.refitted(point.epoch, epochs, limits), point, epochs, limits)

    def decision(self, history: History) -> Decision:
        """Return what the criterion decided about every structure, from the history of a network of this path."""
        criterion = self.trainee.criterion
        return Decision.by(criterion, criterion_name(criterion), history.keep, history.scores)

    def network(self, point: PathPoint) -> nn.Module:
        """Return the plain network of a point before its refit, or of ``dense``, in evaluation mode.

        Raises:
            ValueError: the point is not on this path.
        """
        if point == self.dense:
            return compact(self.trainee.model.network, {}).eval()
        self._refuse_unknown_point(point)
        return self.trainee.network(self.shelf[point.epoch])

    def latency(self, point: PathPoint, batch_size: int = 1) -> float:
        """Return the median seconds that a point's network, before its refit, takes for a batch.

        Raises:
            ValueError: the point is not on this path.
        """
        return self.latencies([self.network(point)], batch_size)[0]

    def latencies(self, nets: Sequence[nn.Module], batch_size: int = 1) -> list[float]:
        """Return the median seconds that networks take for a batch of examples like the path's, measured in turns."""
        model = self.trainee.model.network
        device = next(model.parameters()).device
        inputs = map_leaves(
            lambda leaf: _rows(leaf, batch_size).to(device) if isinstance(leaf, Tensor) else leaf,
            model.example_inputs,
        )
        call = Call.of(model.net, inputs)
        named = {str(number): partial(_called, call, net) for number, net in enumerate(nets)}
        measured = torch.tensor([*latency(named, inputs).values()], dtype=torch.float64)
        broadcast_([measured])  # all processes must choose the same network
        return [float(seconds) for seconds in measured]

    def _refuse_unknown_point(self, point: PathPoint) -> None:
        if point not in self.points:
            raise ValueError("the point is not on this path; take one of path.points")


def fit_path(
    model: SupervisedModel,
    guide: AutoTruncatedLogNormal,
    loader: Batches,
    *,
    validation: Batches,
    criterion: Criterion | str = "bmrs-n",
    epochs: int = 36,
    dense_epochs: int = 12,
    directory: str | FilePath | None = None,
    **options: Any,
) -> Path:
    """Train with a growing KL weight, so that structures are removed, and keep the networks of all sizes.

    First the unpruned network is trained, as a reference. Then the KL weight starts so small that almost nothing is
    removed (:meth:`Trainee.start`), and grows whenever the KL of all gains falls too slowly
    (:func:`~bmrs_pyro.path.pace.kl_weights`). Each network starts from the weights of the one before it, as in a
    regularisation path of glmnet (Friedman, Hastie, Tibshirani 2010), and epochs get cheaper along the path. If
    smaller networks still score as well at the end, the path goes on, up to twice its epochs. Learning rates are
    constant along the path; :meth:`Path.refit` finishes the training of a point.

    Args:
        model: the model; its network becomes the smallest of the path. The kind of its KL weight is kept, its factor
            is replaced.
        guide: the posteriors, which shrink with the network.
        loader: training batches of one pass; small data sets get several passes in an epoch.
        validation: batches on which every network is scored.
        criterion: criterion by which structures are removed, or its name.
        epochs: planned epochs of the path.
        dense_epochs: epochs without pruning before the path; 0 for a trained network.
        directory: folder of the points' files; an interrupted path in it is continued, a finished one is loaded.
            None keeps the points in memory.
        **options: options of :func:`fit`, such as ``lr``, ``seed``, ``device`` and ``progress``. The posteriors'
            learning rate follows from the number of steps. Callbacks are called in the unpruned training, on the path
            and in refits; StopTraining ends the one that it is raised in.

    Raises:
        ValueError: there are fewer than 2 epochs, batches that can be read only once, or several processes without a
            directory, an option has no effect, or the directory holds a path with other settings.
        CheckpointError: a file in the directory cannot be read.
        WriteError: the directory cannot be made.
    """
    refuse_short(epochs, dense_epochs)
    refuse_without_effect(options)
    refuse_no_callbacks(options.get("callbacks", ()))
    if (device := options.get("device")) is not None:
        refuse_unusable(device)
    options = {"lr": Recipe().lr, **options}
    refuse_standing(options["lr"])
    names = {field.name for field in fields(Recipe)}
    Recipe(**{name: value for name, value in options.items() if name in names})  # it checks them
    if world_size() > 1 and directory is None:
        raise ValueError(
            "several processes share the points of a path in files; give a directory they all see"
        )
    refuse_generator("loader", loader)
    refuse_generator("validation", validation)
    count_batches("validation", validation)
    folder = None if directory is None else make_folder(FilePath(directory))
    x, y = next(on_device_of(model, one_pass("the training loader", loader)))
    y = y.to(next(model.parameters()).device)
    refuse_labels(model, x, y)
    warn_of_probabilities(model, model.network, model.likelihood, x)
    warn_of_units(model, x, y)
    warn_of_unscored(model, x, y)
    pace = Pace.of(loader, model.prior, epochs=epochs)
    judge = named_criterion(criterion) if isinstance(criterion, str) else criterion
    if judge is None:
        raise ValueError("the criterion is 'none': a path removes structures, so give one such as 'bmrs-n'")
    refuse_no_criterion(judge)
    trainee = Trainee(deep_copy(model), loader, validation, judge, pace, options)
    if folder is not None:
        name = criterion if isinstance(criterion, str) else criterion_name(judge)
        settings = {
            "trained": False,
            "criterion": name,
            "epochs": epochs,
            "dense_epochs": dense_epochs,
            "batches in an epoch": count_batches("loader", loader),
            **_settings(trainee),
        }
        refuse_other_settings(folder, settings, write=rank() == 0)
    store = None if folder is None else Checkpoint(folder / "dense.safetensors")
    dense = trainee.dense(model, dense_epochs, store)
    trainee.model.load_state_dict(model.state_dict())
    shelf = Shelf(folder)
    start, known = trainee.start(), shelf.load()
    records = [] if known is None else [*known.epochs]

    def weights() -> list[float]:
        return kl_weights(records, start, epochs, model.num_data)

    def press(record: Epoch) -> None:
        records.append(record)
        trainee.press_(model, weights()[-1])
        if has_ended(records, epochs):
            raise StopTraining

    trainee.press_(model, weights()[-1])

    history = trainee.train(
        model,
        guide,
        stage="path",
        epochs=len(records) if has_ended(records, epochs) else LONGEST * epochs,
        fine_tune_epochs=0,
        schedule=lambda progress: 1.0,
        callbacks=(*options.get("callbacks", ()), press),
        checkpoint=shelf,
    )
    all_gather_int(0)  # the first process has written the last point
    return Path(dense, _points(trainee, shelf, weights()), history, trainee, shelf)


def _settings(trainee: Trainee) -> dict[str, Any]:
    """Return what a path in a folder is continued with, as plain JSON types."""
    usual = Recipe()
    names = ("lr", "seed", "min_keep", "round_to")
    return {
        **{name: trainee.options.get(name, getattr(usual, name)) for name in names},
        **identity(trainee.model, trainee.validation),
    }


def _points(trainee: Trainee, shelf: Shelf, weights: list[float]) -> tuple[PathPoint, ...]:
    points = []
    for epoch in shelf.epochs():
        state = shelf[epoch]
        points.append(
            trainee.point(
                state.tensors["network"],
                state.keep,
                state.tensors["scores"],
                score_of(state.epochs[-1]),
                epoch,
                weights[epoch - 1],
            )
        )
    return tuple(points)


def _rows(example: Tensor, count: int) -> Tensor:
    return example[:1].expand(count, *example.shape[1:]) if example.dim() else example


def _called(call: Call, net: nn.Module, _: object) -> object:
    return call(net)
