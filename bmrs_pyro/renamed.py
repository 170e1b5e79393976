"""Public names that have moved or changed: the old name works for one version and warns."""

from __future__ import annotations

__all__ = ["RENAMED", "with_old_names"]

import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any

_TRAINING = (
    *("Checkpoint", "CheckpointError", "CompileError", "Epoch", "History", "JointOptim", "Limits"),
    *("TrainingState", "compile_network_", "compile_steps_", "fit", "frozen", "linear_decay"),
    *("reestimate_batch_norm_", "refuse_unrecordable", "remove_structures_"),
)
_PATH = (
    *("Choice", "JointReduction", "MuchWorse", "Pace", "Path", "PathPoint", "Refit", "ScoreMissed", "Target"),
    *("TargetMissed", "TrainedPath", "choose", "fit_path"),
)
_RUNS = (
    *("NetworkSource", "RunConfig", "RunDirectory", "RunError", "SourceError", "WeightsError", "load"),
    *("load_weights_", "save_portable"),
)
_METRICS = (
    *("CORRUPTIONS", "Evaluation", "Prediction", "averaged", "corrupted", "evaluate", "hdi", "latency"),
    *("predict", "probability_below", "quantile"),
)
# by package: old name -> package and name now
RENAMED: dict[str, dict[str, tuple[str, str]]] = {
    "bmrs_pyro": {
        "Structure": ("bmrs_pyro.network", "StructureFamily"),
        "ExpectedNoise": ("bmrs_pyro.reduction", "ExpectedGain"),
    },
    "bmrs_pyro.network": {
        "Structure": ("bmrs_pyro.network", "StructureFamily"),
        "writer_norms": ("bmrs_pyro.network", "producer_norms"),
    },
    "bmrs_pyro.reduction": {
        "ExpectedNoise": ("bmrs_pyro.reduction", "ExpectedGain"),
        "score": ("bmrs_pyro.reduction", "score_structures"),
    },
    "bmrs_pyro.inference": {
        **{name: ("bmrs_pyro.training", name) for name in _TRAINING},
        **{name: ("bmrs_pyro.runs", name) for name in _RUNS},
        **{name: ("bmrs_pyro.files", name) for name in ("WriteError", "write_atomically")},
        **{name: ("bmrs_pyro.distributed", name) for name in ("LostProcess", "rank", "world_size")},
        "Decision": ("bmrs_pyro.reduction", "Decision"),
        "first_alone": ("bmrs_pyro.distributed", "main_process_first"),
        "joined": ("bmrs_pyro.distributed", "init_distributed"),
    },
    "bmrs_pyro.training": {
        **{name: ("bmrs_pyro.pruning", name) for name in ("Pruned", "prune")},
        **{name: ("bmrs_pyro.path", name) for name in _PATH},
    },
    "bmrs_pyro.reporting": {
        **{name: ("bmrs_pyro.metrics", name) for name in _METRICS},
        "Figures": ("bmrs_pyro.reporting", "NetworkMetrics"),
    },
}


def with_old_names(package: str, lookup: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return a package's ``__getattr__`` that knows its old names too.

    Args:
        package: such as ``"bmrs_pyro.inference"``.
        lookup: the package's ``__getattr__`` without them.
    """
    renamed = RENAMED[package]

    def __getattr__(name: str) -> Any:
        if name not in renamed:
            return lookup(name)
        home, new = renamed[name]
        warnings.warn(
            f"{package}.{name} is {home}.{new} now; the old name goes with the next version",
            DeprecationWarning,
            stacklevel=2,
        )
        return getattr(import_module(home), new)

    return __getattr__
