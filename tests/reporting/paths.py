"""A path of two networks, with what is shown of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

from bmrs_pyro.training import Path, PathPoint
from bmrs_pyro.training.validation import Score


def point(epoch: int, parameters: int, accuracy: float | None) -> PathPoint:
    score = Score(accuracy, -0.3, accuracy_error=0.01, log_likelihood_error=0.02)
    return PathPoint(epoch, 0.1, {"theta.a": 20}, parameters, 1000, 4 * parameters, None, score)


def path(dense: PathPoint, *points: PathPoint) -> Path:
    return cast(Path, SimpleNamespace(dense=dense, points=points))


PATH = path(point(0, 900, 0.97), point(1, 800, 0.98), point(4, 90, 0.95))
