"""Runs of the poster that share a training run: the posterior of the unpruned network, and methods that rank by it.

``l2`` and ``expected`` have no threshold. As published, they remove the same share of the structures as BMRS_N's run of
the same cell, once, after the last epoch with pruning, and then continue training like that run. Until then both are
the same run without pruning. That run continues to its end, and all criteria are applied to its posterior after
training.
"""

from __future__ import annotations

__all__ = [
    "POSTERIOR",
    "RANKED",
    "SmallestGains",
    "has_posterior",
    "posterior_directory",
    "prerequisites",
    "run",
]

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.distributions import Distribution

from bmrs_pyro.experiments.poster import runs
from bmrs_pyro.experiments.poster.runs import Trial
from bmrs_pyro.experiments.small_runs import run_config
from bmrs_pyro.experiments.sweep import Config, cached, run_key
from bmrs_pyro.files import write_atomically
from bmrs_pyro.inference import posteriors
from bmrs_pyro.reduction import Criterion, WeightNorm
from bmrs_pyro.runs import RunDirectory
from bmrs_pyro.training import Checkpoint, Epoch

POSTERIOR = "posterior"
RANKED = ("l2", "expected")

_FORK = "fork.safetensors"  # the state before the last epoch with pruning, from which ranked runs continue


@dataclass(frozen=True)
class SmallestGains:
    """Remove the given fraction of all structures, those with the smallest E[θ]."""

    fraction: float

    def scores(self, posteriors: Mapping[str, Distribution]) -> dict[str, Tensor]:
        """Scores of every family by site name, ``(C,)`` each."""
        return WeightNorm(self.fraction, {name: q.mean for name, q in posteriors.items()}).scores(posteriors)


def prerequisites(configs: Sequence[Config]) -> list[Config]:
    """Return the runs that must be finished first: posteriors to continue from, and BMRS_N runs for the share."""
    cells = [config for config in configs if config["method"] in RANKED]
    found = [{**config, "method": method} for config in cells for method in (POSTERIOR, "bmrs-n")]
    return list({run_key(config): config for config in found}.values())


def posterior_directory(config: Config, cache: str | Path) -> RunDirectory:
    """Return the run directory, like those of ``bmrs fit``, with the posterior of a configuration's cell."""
    return RunDirectory(Path(cache) / f"{run_key({**config, 'method': POSTERIOR})}.run")


def has_posterior(config: Config, *, cache: str | Path) -> bool:
    """Whether the posterior of a finished run still exists."""
    return posterior_directory(config, cache).exists()


def run(config: Config, *, data_root: str, cache: str) -> dict[str, Any]:
    """Make one run of any method, for arguments see :class:`Trial`; ``cache`` has finished runs and posteriors.

    Raises:
        ValueError: BMRS_N's run, which says how much to remove, is not finished.
    """
    if config["method"] == POSTERIOR:
        return _posterior(config, data_root, cache)
    if config["method"] in RANKED:
        return _ranked(config, data_root, cache)
    return runs.run(config, data_root=data_root)


def _posterior(config: Config, data_root: str, cache: str) -> dict[str, Any]:
    """Train without pruning, and keep the network and the posterior of the last epoch.

    The best epoch by validation is not used: it may be an early one, whose posterior has not converged.
    """
    trial = Trial(config, data_root=data_root)
    directory = posterior_directory(config, cache)
    if not directory.exists():
        recipe = replace(trial.recipe, criterion="none")
        settings = run_config(trial.source, trial.splits.train, recipe, data_root, validation=0.2)
        directory = RunDirectory.create(directory.path, settings)
    state = directory.checkpoint.path

    def keep_fork(epoch: Epoch) -> None:
        # called before the epoch is saved: the state on disk is still that of the epoch before
        if epoch.epoch == trial.recipe.epochs and state.exists():
            write_atomically(directory.path / _FORK, lambda file: shutil.copyfile(state, file))

    callbacks = [directory.append_metrics, keep_fork]
    with directory.training():
        history = trial.fit(None, validate=False, callbacks=callbacks, checkpoint=directory.checkpoint)
        directory.save_network(trial.model.network, posteriors(trial.guide), history)
        state.unlink(missing_ok=True)
    return trial.result(history)


def _ranked(config: Config, data_root: str, cache: str) -> dict[str, Any]:
    reference = cached({**config, "method": "bmrs-n"}, Path(cache))
    if reference is None:
        cell = ", ".join(f"{key} {value}" for key, value in config.items() if key != "method")
        raise ValueError(
            f"{config['method']} removes as much as bmrs-n, whose run is not finished: {cell}; make it first"
        )
    trial = Trial(config, data_root=data_root)
    share = 1 - sum(reference["structures"].values()) / trial.structures
    criterion: Criterion = WeightNorm(share) if config["method"] == "l2" else SmallestGains(share)
    fork = posterior_directory(config, cache).path / _FORK
    own = Checkpoint(Path(cache) / f"{run_key(config)}.state.safetensors")
    if fork.exists() and not own.path.exists():
        write_atomically(own.path, lambda file: shutil.copyfile(fork, file))
    history = trial.fit(criterion, prune_every=trial.recipe.epochs, checkpoint=own)
    own.path.unlink(missing_ok=True)
    return trial.result(history) | {"share_removed": share}
