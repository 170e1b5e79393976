"""A run that reduces a trained network to a budget while its weights are trained."""

from __future__ import annotations

__all__ = ["reduction_of", "refuse_unreducible"]

from collections.abc import Callable, Sequence

from bmrs_pyro.distributed import world_size
from bmrs_pyro.path import JointReduction, TrainedPath
from bmrs_pyro.reduction import ModelReduction, named_criterion
from bmrs_pyro.runs.preparing import Prepared
from bmrs_pyro.runs.run_directory import RunDirectory
from bmrs_pyro.training import Epoch, Hardware, Recipe


def refuse_unreducible(recipe: Recipe, hardware: Hardware) -> None:
    """Raise ValueError if a trained network cannot be reduced in this way."""
    if world_size() > 1:
        raise ValueError("a trained network is reduced by one process; start it without torchrun")
    if not recipe.criterion.startswith("bmrs-"):
        raise ValueError(
            f"criterion {recipe.criterion!r} has no evidence; a trained network takes bmrs-n or bmrs-u-BITS"
        )
    for name in ("compile", "cuda_graphs", "channels_last"):
        if getattr(hardware, name):
            raise ValueError(f"--{name.replace('_', '-')} has no effect on a trained network; leave it out")


def reduction_of(
    run: RunDirectory,
    hardware: Hardware,
    progress: bool,
    callbacks: Sequence[Callable[[Epoch], object]] = (),
) -> TrainedPath:
    """Return the path of a run's trained network before any reduction.

    Args:
        run: the run, whose configuration has a cycle.
        hardware: the hardware to train on.
        progress: show a progress bar.
        callbacks: called with every epoch's record.
    """
    config, recipe = run.config, run.config.recipe
    assert config.cycle is not None
    refuse_unreducible(recipe, hardware)
    prepared = Prepared.of(run, hardware.device or "cpu")
    prepared.model.to(hardware.device or "cpu")
    criterion = named_criterion(recipe.criterion)
    assert isinstance(criterion, ModelReduction)
    reduction = JointReduction(
        prepared.loader,
        prepared.validation,
        epochs=recipe.epochs,
        cycle=config.cycle,
        criterion=criterion,
        seed=recipe.seed,
        progress=progress,
        callbacks=callbacks,
    )
    return TrainedPath.of(prepared.model, reduction, recipe.round_to, run.shelf)
