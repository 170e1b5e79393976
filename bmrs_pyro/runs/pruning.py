"""Pruning a finished run again from its posteriors, and training of the small network."""

from __future__ import annotations

__all__ = ["prune_run"]

import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict
from operator import length_hint
from typing import Any

import torch
from torch import nn

from bmrs_pyro.data import DataError
from bmrs_pyro.distributions import LogUniform, TruncatedLogNormal
from bmrs_pyro.inference import KLWeight, SupervisedModel
from bmrs_pyro.inference.inputs import outputs_of
from bmrs_pyro.inference.likelihoods import OF_CLASSES, Likelihood
from bmrs_pyro.metrics import evaluate
from bmrs_pyro.network import NoisyNetwork, compact, complexity, producer_norms
from bmrs_pyro.network.generators import generators_kept, seed_generators
from bmrs_pyro.network.inputs import arguments
from bmrs_pyro.path import JointReduction, Target
from bmrs_pyro.path.skill import Quality, warn_if_much_worse
from bmrs_pyro.reduction import (
    Criterion,
    Decision,
    KeepMask,
    ModelReduction,
    WeightNorm,
    bmrs_n,
    named_criterion,
    score_structures,
    select,
)
from bmrs_pyro.runs.likelihoods import scored_by
from bmrs_pyro.runs.preparing import batches_of, fitted_likelihood
from bmrs_pyro.runs.pruning_record import PruningRecord
from bmrs_pyro.runs.run_directory import RunDirectory
from bmrs_pyro.runs.splits import run_data, serving, training_batches
from bmrs_pyro.training import Cycle, History, Limits, NothingLeft, PlainSteps, reestimate_batch_norm_
from bmrs_pyro.training.progress import EpochBar

RANKED = ("expected", "l2")


def prune_run(
    directory: RunDirectory,
    criterion: str,
    fraction: float | None = None,
    limits: Limits | None = None,
    *,
    target: Target | None = None,
    epochs: int = 0,
    cycle: Cycle | None = None,
    device: str = "cpu",
    progress: bool = False,
) -> None:
    """Apply a criterion to the posteriors at the end of training, and write the resulting small network.

    The posteriors are kept, so that a run can be pruned to several budgets.

    Args:
        directory: the finished run; its decision and small network are replaced.
        criterion: ``bmrs-n``, ``bmrs-u-BITS``, ``snr``, ``expected`` or ``l2``.
        fraction: for ``expected`` and ``l2``, share of the remaining structures to remove; None takes BMRS_N's share.
        limits: multiples and budgets.
        target: budgets that may be shares of the dense network; they replace those of the limits.
        epochs: epochs that the small network is trained for, without gains.
        cycle: optimiser and learning rates of these epochs.
        device: the device of these epochs.
        progress: show a progress bar.

    Raises:
        ValueError: the criterion is unknown, or a fraction is given to a criterion that decides how much to remove.
        NonFiniteLoss: the training diverges; the run's small network is kept.
    """
    if fraction is not None and criterion not in RANKED:
        raise ValueError(
            f"--fraction is for {' and '.join(RANKED)}; {criterion!r} decides by itself how much to remove"
        )
    if epochs < 0:
        raise ValueError(f"there are {epochs} epochs of fine-tuning; give 0 or more")
    limits = limits or Limits()
    directory.refuse_none()
    with directory.locked():
        if target is not None:
            dense = complexity(directory.dense(), *arguments(directory.example()))
            limits = Limits(limits.round_to, *target.budgets(dense), target.unmet)
        whole, small, decision = _decided(directory, criterion, fraction, limits)
        if epochs:
            _fine_tune_(directory, small, epochs, cycle or Cycle(), device, progress)
        size, before = (sum(weight.numel() for weight in net.parameters()) for net in (small, whole))
        given = size == before and not epochs and directory.config.cycle is not None
        if not given:  # a trained network that keeps all its structures stays as it is
            reestimate_batch_norm_(small, training_batches(directory))
        options: dict[str, Any] = {"criterion": criterion, "fraction": fraction, "round_to": limits.round_to}
        options |= {"max_macs": limits.max_macs, "max_params": limits.max_parameters}
        if epochs:
            options |= {"fine_tune_epochs": epochs, **asdict(cycle or Cycle())}
        record, earlier = directory.path_record(), directory.pruned()
        chosen = None if record is None else record.target
        quality, likelihood, caution = _validated(directory, small, whole)
        pruned = PruningRecord(options, earlier.target if earlier else chosen, caution)
        scores = quality.accuracy, quality.rmse
        directory.save_decision(decision, small, *scores, likelihood, pruned)
        if record is not None:  # the choice was of another network
            directory.save_path_record(record.without_choice())


def _decided(
    directory: RunDirectory, criterion: str, fraction: float | None, limits: Limits
) -> tuple[nn.Module, nn.Module, Decision]:
    """Return the run's network, the small one before any further training, and the decision about its structures."""
    network, posteriors, kept = directory.network()
    first = next(iter(posteriors.values()))
    prior = LogUniform(first.low, first.high)
    decide: Criterion | None
    if criterion in RANKED:
        decide = _ranked(criterion, network, posteriors, prior, fraction)
    else:
        decide = named_criterion(criterion)
    if decide is None:
        raise ValueError(
            "criterion 'none' prunes nothing; use bmrs-n, bmrs-u-4, bmrs-u-8, snr, expected or l2"
        )
    scores = score_structures(posteriors, prior, decide)
    budgets = limits.max_macs or limits.max_parameters
    units = _units(directory) if budgets and isinstance(decide, ModelReduction) else None
    reduced = directory.config.cycle is not None  # a trained network, trained with gains of 1
    joint = reduced and isinstance(decide, ModelReduction)
    theta = {} if reduced else {name: posterior.mean for name, posterior in posteriors.items()}
    whole = compact(network, {}, theta)
    if joint:
        keep, theta = _jointly(directory, network, limits)
    else:
        keep = limits.applied(network, KeepMask.from_scores(scores), scores, units=units)
    if budgets and not keep.removed:
        cost = complexity(network)
        warnings.warn(
            f"nothing was removed: the network that {directory.path} has trained meets the budget with "
            f"{cost.macs:,} MACs and {cost.parameters:,} parameters; give a smaller budget",
            NothingLeft,
            stacklevel=3,
        )
    same = criterion == directory.config.recipe.criterion  # then its scores go on from those in training
    history = History(kept, scores=directory.scores() if same else {})
    history.note_scores(scores)
    decision = Decision.by(decide, criterion, kept.then(keep), history.scores, joint=joint)
    return whole, compact(network, keep, theta), decision


def _jointly(
    run: RunDirectory, network: NoisyNetwork, limits: Limits
) -> tuple[KeepMask, dict[str, torch.Tensor]]:
    """Return the structures of a trained network that a budget leaves, by the loss of removing them together.

    The gains of the others adapt, and are returned too.

    The evidence of single structures is not enough: where the network fits its data, it is next to nothing for all.

    Raises:
        ValueError: there is no budget.
    """
    if limits.max_macs is None and limits.max_parameters is None:
        raise ValueError(
            f"{run.path} reduces a trained network, which is pruned again to a budget: give --max-macs or --max-params"
        )
    train = run_data(run).train
    model = SupervisedModel(network, run.trained_likelihood(), len(train), kl_weight="elbo")
    loss = JointReduction(batches_of(train, run.config.recipe), [], epochs=0).loss(model)
    whole = {family.name: torch.ones(family.size, dtype=torch.bool) for family in network.structures}
    keep = limits.applied(network, KeepMask(whole), loss)
    return keep, loss.gains(keep)


def _fine_tune_(
    run: RunDirectory, small: nn.Module, epochs: int, cycle: Cycle, device: str, progress: bool
) -> None:
    """Train a small network on the run's training data, in place; it is on the CPU afterwards."""
    recipe, likelihood = run.config.recipe, run.trained_likelihood()
    if isinstance(likelihood, nn.Module):  # its parameters are those of the run
        likelihood.to(device).requires_grad_(False)
    loader = batches_of(run_data(run).train, recipe, device)
    steps = length_hint(loader) or sum(1 for _ in loader)
    total, cycle = epochs * steps, cycle.for_labels(recipe.likelihood.partition(":")[0] in OF_CLASSES)
    with (
        generators_kept() if recipe.seed is not None else nullcontext(),
        EpochBar(epochs, range(steps), enabled=progress, title="fine-tuning") as bar,
    ):
        if recipe.seed is not None:
            seed_generators(recipe.seed)
        PlainSteps(small.to(device), likelihood, loader, total, cycle, bar.step).make(total)
    small.cpu().eval()


def _units(run: RunDirectory) -> Mapping[str, float]:
    """Return the KL weight of each family in training, up to one factor; a budget compares evidence in these units."""
    return KLWeight.parse(run.config.recipe.kl_weight).scales(run.noisy(), 1)


def _validated(
    run: RunDirectory, small: nn.Module, whole: nn.Module
) -> tuple[Quality, Likelihood, str | None]:
    """Return a small network's quality on the validation data, the likelihood fitted to it, and a caution if it is bad.

    If the data are missing, nothing is known.

    Raises:
        RunError: the data are not those that the run was made with.
    """
    try:
        splits = run_data(run)
    except DataError as error:
        warnings.warn(f"the small network is not scored: {error}", stacklevel=3)
        return Quality(None, None), run.trained_likelihood(), None
    likelihood = fitted_likelihood(run, small)
    held_out = serving(splits.validation, 1000, shuffle=False)
    found = evaluate(small, held_out, likelihood=scored_by(run.config, likelihood))
    before = evaluate(whole, held_out, likelihood=scored_by(run.config, run.trained_likelihood()))
    caution = warn_if_much_worse(
        Quality.of(found),
        Quality.of(before),
        lambda x: likelihood(outputs_of(small, x)),
        held_out,
        advice="give it more epochs (--fine-tune-epochs), a lower learning rate or a larger budget",
        stacklevel=3,
    )
    return Quality.of(found), likelihood, caution


def _ranked(
    name: str,
    network: NoisyNetwork,
    posteriors: Mapping[str, TruncatedLogNormal],
    prior: LogUniform,
    fraction: float | None,
) -> Criterion:
    """Return the criterion ``expected`` or ``l2``, which removes a share of the structures, by default BMRS_N's."""
    if fraction is None:
        reference = select(posteriors, prior, bmrs_n())
        fraction = reference.removed / max(reference.total, 1)
    if name == "l2":
        return WeightNorm(fraction, producer_norms(network))
    return WeightNorm(fraction, {site: q.mean for site, q in posteriors.items()})
