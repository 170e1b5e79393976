"""A run along the regularisation path, and the choice of one of its networks by a target."""

from __future__ import annotations

__all__ = ["choose_run", "train_path"]

import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict

from bmrs_pyro.distributed import rank
from bmrs_pyro.path import Path, Target, TargetMissed, TrainedPath, choose, fit_path
from bmrs_pyro.runs.errors import RunError
from bmrs_pyro.runs.path_record import PathRecord
from bmrs_pyro.runs.preparing import Prepared
from bmrs_pyro.runs.reducing import reduction_of
from bmrs_pyro.runs.run_directory import RunDirectory
from bmrs_pyro.training import Epoch, Hardware


def choose_run(
    run: RunDirectory, target: Target, *, hardware: Hardware | None = None, progress: bool = True
) -> None:
    """Choose another network of a run's path, and train its refit if there is none yet.

    If the run reduces a trained network, the given weights are reduced to the target, unless they were before.

    Args:
        run: the run; its small network is replaced. Refits of earlier choices are kept and can be chosen again.
        target: what the network may cost.
        hardware: the hardware to train on.
        progress: show a progress bar.

    Raises:
        RunError: the run has no path, its path is not finished, or another process is using the run.
        TargetMissed: no network can meet the budgets, or none of the path is fast enough.
    """
    # a run that no network could meet has trained nothing, and its weights can be reduced to another target
    untouched = run.config.cycle is not None and not run.shelf.reduces()
    if not untouched and run.path_record() is None:
        raise RunError(
            f"{run.path} was fitted at one KL weight, so it has no path to choose from; bmrs prune prunes it again "
            "without training, and bmrs fit without --kl-weight makes a run along the path"
        )
    with run.locked():
        _choose(run, _path(run, hardware or Hardware(), progress), target)


def train_path(run: RunDirectory, hardware: Hardware, progress: bool) -> None:
    """Fit a run's path, or continue it, and choose the network that meets the target in the run's configuration.

    A trained network is reduced to the target instead.

    Raises:
        TargetMissed: no network can meet the budgets, or none of the path is fast enough.
    """
    callbacks = [run.append_metrics] if rank() == 0 else []
    path, target = _path(run, hardware, progress, callbacks), run.config.target
    assert target is not None
    again = "The path is kept: bmrs choose {} chooses a network of it"
    if isinstance(path, TrainedPath):
        again = "bmrs choose {} reduces the weights to another target"
    elif rank() == 0:
        run.save_dense(path.network(path.dense).cpu())
        run.save_path_record(PathRecord.of(path))
    try:
        _choose(run, path, target)
    except TargetMissed as error:
        raise TargetMissed(f"{error}. {again.format(shlex.quote(str(run.path)))}") from None


def _path(
    run: RunDirectory,
    hardware: Hardware,
    progress: bool,
    callbacks: Sequence[Callable[[Epoch], object]] = (),
) -> Path:
    config, recipe = run.config, run.config.recipe
    if config.cycle is not None:
        return reduction_of(run, hardware, progress, callbacks)
    prepared = Prepared.of(run, hardware.device or "cpu")
    return fit_path(
        prepared.model,
        prepared.guide,
        prepared.loader,
        validation=prepared.validation,
        criterion=recipe.criterion,
        epochs=recipe.epochs,
        dense_epochs=config.dense_epochs,
        directory=run.shelf.directory,
        progress=progress,
        callbacks=callbacks,
        **{name: getattr(recipe, name) for name in ("lr", "min_keep", "seed")},
        **asdict(hardware),
    )


def _choose(run: RunDirectory, path: Path, target: Target) -> None:
    if isinstance(path, TrainedPath):
        path, choice = path.chosen(target)
    else:
        choice = choose(path, target)
    if rank() > 0:
        return
    refit, history = choice.refit, choice.refit.history
    refit.model.to("cpu")
    refit.guide.to("cpu")
    run.save_metrics(history.epochs)
    run.save_network(refit.model.network, refit.guide.posteriors(), history, refit.model.likelihood)
    score = refit.point.score
    run.save_decision(path.decision(history), history.network.to("cpu"), score.accuracy, score.rmse)
    run.save_path_record(PathRecord.of(path, choice))
