"""A path of two networks, with what is shown of it."""

from __future__ import annotations

from bmrs_pyro.path import Pace, PathPoint, Target
from bmrs_pyro.runs import PathRecord
from bmrs_pyro.training.validation import Score


def point(epoch: int, parameters: int, accuracy: float | None, left: int = 20) -> PathPoint:
    score = Score(accuracy, -0.3, accuracy_error=0.01, log_likelihood_error=0.02)
    return PathPoint(epoch, 0.1, {"theta.a": left}, parameters, 1000, 4 * parameters, None, score)


def path(dense: PathPoint, *points: PathPoint, chosen: PathPoint | None = None) -> PathRecord:
    pace = Pace(epochs=36, passes=6, steps=108, posterior_lr=0.05)
    return PathRecord(dense, points, pace, chosen, Target(max_loss=0.5), chosen is not None)


PATH = path(point(0, 900, 0.97), point(1, 800, 0.98), point(4, 90, 0.95))
