"""One call from a network and data to a smaller network."""

from __future__ import annotations

__all__ = ["prune"]

import copy
import warnings
from collections.abc import Collection
from dataclasses import fields
from itertools import islice
from pathlib import Path as FilePath
from typing import Any

from torch import Tensor, nn
from torch.utils.data import RandomSampler, SequentialSampler

from bmrs_pyro.inference import AutoTruncatedLogNormal, SupervisedModel
from bmrs_pyro.inference.function_parameters import with_parameters
from bmrs_pyro.inference.inputs import (
    count_batches,
    gaps,
    is_finite,
    labelled,
    one_pass,
    pairs,
    refuse_generator,
    refuse_untrainable,
)
from bmrs_pyro.inference.likelihoods import Likelihood, as_likelihood
from bmrs_pyro.network import NoisyNetwork
from bmrs_pyro.network.gates import Gates
from bmrs_pyro.network.kinds import refuse_unfit
from bmrs_pyro.network.nested import map_leaves
from bmrs_pyro.network.untouched import deep_copy
from bmrs_pyro.path import JointReduction, Path, Target, TargetMissed, TrainedPath, fit_path, limits_of
from bmrs_pyro.path.settings import OPTIONS, recorded, refuse_without_effect
from bmrs_pyro.pruning.pruned import Pruned
from bmrs_pyro.training import Cycle, refuse_unusable
from bmrs_pyro.training.counts import known_size
from bmrs_pyro.training.labels import refuse_few
from bmrs_pyro.training.loop import Batches
from bmrs_pyro.training.options import refuse_unknown
from bmrs_pyro.training.validation import validate

CLASSES = "categorical:0.02"
"""The default likelihood of class labels, with the label smoothing of the best recipe known."""

_OF_MODEL = {"draws": "draws", "bfloat16": "mixed_precision"}
"""Options that the model is made with, and their names there."""

_TARGET = {field.name for field in fields(Target)}
_CYCLE = {field.name for field in fields(Cycle)}
_TRAINED = {*_CYCLE, *(field.name for field in fields(JointReduction)), "device", "directory", "round_to"}
_TRAINED -= {"loader", "validation", "cycle"}


def prune(
    net: nn.Module,
    train: Batches,
    *,
    validation: Batches,
    likelihood: str | Likelihood | None = None,
    trained: bool = False,
    **options: Any,
) -> Pruned:
    """Train and prune a network: to the smallest size that predicts as well, or to a target.

    First the unpruned network is trained, as a reference. Then :func:`fit_path` fits a path of networks of falling
    size. A family's KL counts by its share of the parameters, or of the multiply-accumulates if the target limits
    these or the latency. A point of the path is chosen by its validation score (:class:`Target`) and refitted. If its
    score misses the target, a larger point is tried.

    A trained network keeps what it has learned: structures are removed in small cuts while its weights are trained,
    within one cycle of the learning rate (:class:`JointReduction`). Structures that layer norms normalise over are
    removed too, such as channels of a transformer's residual stream, and channels of attention heads.

    Args:
        net: the network, trained or not; it is copied, not changed.
        train: training batches ``(x, y)`` of one pass.
        validation: batches on which the network is chosen.
        likelihood: of y given the network's outputs, see :func:`as_likelihood`; by default ``"categorical:0.02"``.
            A module, or one that a function refers to, gets the parameters that belong to the small network.
        trained: whether the network is trained already.
        **options: fields of :class:`Target`, such as ``max_loss=0.5`` or ``max_macs="50%"``, and options of
            :func:`fit_path` and :func:`fit`, such as ``epochs``, ``directory``, ``seed`` and ``device``; ``draws`` as
            of :class:`SupervisedModel`, and ``bfloat16=True`` for mixed precision. With
            ``trained=True``: fields of :class:`Target`, of :class:`JointReduction`, such as ``epochs`` and
            ``teacher``, and of its :class:`Cycle`, such as ``lr`` and ``optimizer``; also ``round_to``, ``device`` and
            ``directory``.

    Raises:
        TargetMissed: no network can meet the budgets, or none of the path is fast enough; its ``path`` is the path.
        ValueError: a target is out of range, the labels are not classes and no likelihood is given, batches can be
            read only once, validation is a single example, gradients are switched off, or the weights are float16.
    """
    refuse_unfit(net)
    refuse_untrainable(net)
    for name, value in (("trained", trained), ("bfloat16", options.get("bfloat16", False))):
        if not isinstance(value, bool):
            raise TypeError(f"{name} is {value!r}; give True or False")
    target = Target(**{name: options.pop(name) for name in _TARGET & set(options)})
    how: dict[str, Any] = {}
    _refuse_of_the_other_kind(options, trained)
    if trained:
        refuse_unknown(options, _TRAINED | _TARGET, "prune() of a trained network")
    else:
        how = {name: options.pop(option) for option, name in _OF_MODEL.items() if option in options}
        refuse_without_effect(options, OPTIONS | _TARGET | {*_OF_MODEL}, "prune()")
    refuse_generator("train", train)
    refuse_generator("validation", validation)
    count_batches("validation", validation)
    refuse_few(validation)
    data = _whole_dataset(train)
    if train is validation or (data is not None and data is _whole_dataset(validation)):
        warnings.warn(
            "train and validation are batches of the same data set, so that the choice cannot see overfitting; hold "
            "examples out for validation",
            stacklevel=2,
        )
    x, y = next(labelled("training data", one_pass("train", train)))
    if not is_finite(x):
        raise ValueError(gaps("training data"))
    if likelihood is None and y.is_floating_point():
        raise ValueError(
            f"the labels are {y.dtype}, not classes; give their likelihood, such as likelihood='normal'"
        )
    plain = deep_copy(net.net if isinstance(net, NoisyNetwork) else net)
    Gates.detach_(plain)  # of a NoisyNetwork that has wrapped it before
    network = NoisyNetwork(plain, *_one_example(x), trained=trained)
    try:
        limits_of(target, network).refuse_impossible(network)
    except ValueError as error:
        raise TargetMissed(str(error)) from None
    if likelihood is not None and not isinstance(likelihood, str):
        likelihood = with_parameters(as_likelihood(likelihood), net)
    own = CLASSES if likelihood is None else copy.deepcopy(likelihood)
    # the path in a directory keeps its kind of KL weight, so that another target can choose from it
    kept = recorded(options.get("directory"))
    kind = target.kl_weight if kept.get("trained") else kept.get("kl_weight", target.kl_weight)
    if not trained and kind != target.kl_weight:
        warnings.warn(
            f"the path in {options['directory']} has the KL weight {kind!r} of an earlier target and is chosen from as "
            f"it is; a path for this target would have {target.kl_weight!r}: give another directory to fit it",
            stacklevel=2,
        )
    model = SupervisedModel(network, own, _num_data(train), kl_weight="elbo" if trained else kind, **how)
    if target.score is not None:  # refuse an accuracy that the likelihood lacks before training
        target.score_of(validate(model, {}, islice(validation, 1)))
    if trained:
        path: Path = _trained_path(model, train, validation, options)
    else:
        path = fit_path(model, AutoTruncatedLogNormal(model), train, validation=validation, **options)
    try:
        found = Pruned.of(path, target)
    except TargetMissed as error:
        error.path = path
        raise
    learnt = found.choice.refit.model.likelihood
    if isinstance(likelihood, nn.Module) and isinstance(learnt, nn.Module):
        likelihood.load_state_dict(learnt.state_dict())
    return found


def _refuse_of_the_other_kind(options: Collection[str], trained: bool) -> None:
    """Refuse options of a path for a trained network, and the other way round."""
    of_path = OPTIONS | {*_OF_MODEL}
    if others := sorted(set(options) & (of_path - _TRAINED if trained else _TRAINED - of_path)):
        names = ", ".join(others)
        raise TypeError(
            f"{names}: no option of a trained network's reduction; leave it out, or train along a path with "
            "trained=False"
            if trained
            else f"{names}: an option for trained networks; leave it out, or give trained=True too"
        )


def _trained_path(
    model: SupervisedModel, train: Batches, validation: Batches, options: dict[str, Any]
) -> TrainedPath:
    """Return the path of a trained network, with the options of its reduction."""
    if (device := options.pop("device", None)) is not None:
        refuse_unusable(device)
        model.to(device)
    round_to = options.pop("round_to", 1)
    directory = options.pop("directory", None)
    cycle = Cycle(**{name: options.pop(name) for name in _CYCLE & set(options)})
    reduction = JointReduction(train, validation, cycle=cycle, **options)
    if directory is None:
        return TrainedPath.of(model, reduction, round_to)
    return TrainedPath.kept(FilePath(directory), model, reduction, round_to)


def _whole_dataset(loader: Batches) -> object | None:
    """Return the data set that a loader reads all of; None if it reads a part, or is no loader of torch's kind."""
    sampler = getattr(loader, "sampler", None)
    # a loader with a batch sampler has a sequential sampler too, and no batch size
    in_batches = getattr(loader, "batch_size", None) is not None
    whole = sampler is None or (in_batches and type(sampler) in (SequentialSampler, RandomSampler))
    return getattr(loader, "dataset", None) if whole else None


def _num_data(loader: Batches) -> int:
    known = known_size(loader)
    return sum(len(y) for _, y in pairs(one_pass("train", loader))) if known is None else known


def _one_example(x: Any) -> tuple[Any, ...]:
    first = map_leaves(lambda leaf: leaf[:1] if isinstance(leaf, Tensor) else leaf, x)
    return tuple(first) if isinstance(first, (tuple, list)) else (first,)
