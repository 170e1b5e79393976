"""The reduction of a trained network to a latency: a budget of multiply-accumulates is found by trial cuts."""

from __future__ import annotations

__all__ = ["InTime", "reduced_in_time"]

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from bmrs_pyro.network import compact, cost_model
from bmrs_pyro.path.point import PathPoint
from bmrs_pyro.path.quantities import Times, is_share, seconds
from bmrs_pyro.path.regularisation import Path
from bmrs_pyro.path.target import Target, TargetMissed
from bmrs_pyro.path.trainee import Refit
from bmrs_pyro.reduction import JointScores, KeepMask
from bmrs_pyro.training.limits import Limits

STEP = 0.95
"""Share of the multiply-accumulates that each trial cut keeps of the one before."""

MEASURED = 8
"""Number of trial cuts that are measured in turns."""

ROUNDS = 2
"""How often that many are measured: of all, and of those between the last that is too slow and the next."""

REPEATS = 2
"""Largest number of further reductions, if the network takes longer than the target's latency."""

SLOWER = 0.85
"""Share of the multiply-accumulates that each of these keeps of the one before."""

Reduced = tuple[Refit, tuple[PathPoint, ...]]


@dataclass(frozen=True)
class InTime:
    """A reduction to a latency.

    Attributes:
        reduced: the refit and its points.
        times: how long the network takes.
        slow: one sentence about each network before it that took too long.
    """

    reduced: Reduced
    times: Times
    slow: tuple[str, ...]


def reduced_in_time(
    path: Path,
    target: Target,
    limits: Limits,
    loss: Callable[[], JointScores],
    reduce: Callable[[Limits], Reduced],
) -> InTime:
    """Reduce a trained network to a latency, and again to smaller budgets while it takes too long.

    What was measured is noted on the path's shelf, so that a reduction in a directory is continued, or loaded, as it
    was begun.

    Args:
        path: the path before any reduction.
        target: a target with a latency.
        limits: the target's budgets, and multiples.
        loss: computes the loss from removing structures, by which the trial cuts choose.
        reduce: reduces the network to budgets.

    Raises:
        TargetMissed: no network is fast enough.
    """
    asked = f"{target.max_latency} for {target.batch_size}, {limits}"
    notes = path.shelf.notes()
    if asked in notes:
        found = notes[asked]
    else:
        found = {"macs": _macs_within(path, target, limits, loss()), "slow": [], "dense": None, "small": None}
        path.shelf.note(asked, found)
    least, _ = limits.least(path.trainee.model.network)
    while True:
        refit, points = reduce(replace(limits, max_macs=found["macs"]))
        if found["small"] is None:
            times = _times(path, target, refit)
            slow = not times.within(target.max_latency)
            if slow and len(found["slow"]) < REPEATS and refit.point.macs > least:
                said = f"a network of {refit.point.parameters:,} parameters takes {times}"
                smaller = max(least, int(SLOWER * refit.point.macs))
                found = {**found, "macs": smaller, "slow": [*found["slow"], said]}
                path.shelf.note(asked, found)
                continue
            found = {**found, "dense": times.dense, "small": times.small}
            path.shelf.note(asked, found)
        return InTime((refit, points), Times(found["dense"], found["small"]), tuple(found["slow"]))


def _times(path: Path, target: Target, refit: Refit) -> Times:
    """Measure a network; one that seems too slow is measured three times."""
    times = target.times(path, refit.history.network)
    if refit.point.macs == path.dense.macs:
        return Times(times.dense, times.dense)
    if times.within(target.max_latency):
        return times
    again = [times, *(target.times(path, refit.history.network) for _ in range(2))]
    return sorted(again, key=lambda one: one.small / one.dense)[1]


def _macs_within(path: Path, target: Target, limits: Limits, loss: JointScores) -> int:
    """Return the most multiply-accumulates with which the network takes no longer than the target's latency.

    The network is cut once, in small steps, and some of the networks on the way are measured. They are not
    trained: the time depends on their sizes alone.

    Raises:
        TargetMissed: the smallest network takes longer.
    """
    network = path.trainee.model.network
    most, (least, _) = min(limits.max_macs or path.dense.macs, path.dense.macs), limits.least(network)
    budgets = [most]
    while budgets[-1] > least:
        budgets.append(max(least, int(STEP * budgets[-1])))
    keep = KeepMask({family.name: torch.ones(family.size, dtype=torch.bool) for family in network.structures})
    cuts = []
    for budget in budgets:
        keep = replace(limits, max_macs=budget).applied(network, keep, loss)
        cuts.append(keep)
    slow, fast = -1, len(cuts)
    for _ in range(ROUNDS):
        tried = _spread(slow + 1, min(fast, len(cuts) - 1))
        nets = [compact(network, cuts[index]).eval() for index in tried]
        dense, *each = path.latencies([path.network(path.dense), *nets], target.batch_size)
        if not cuts[tried[0]].removed:
            each[0] = dense  # it is the same network
        limit = seconds(target.max_latency, dense)
        assert limit is not None
        enough = [value <= limit for value in _smooth(each)]
        if not any(enough):
            if fast == len(cuts):
                raise TargetMissed(_too_slow(target, Times(dense, min(each)), nets[-1]))
            break
        first = enough.index(True)
        slow, fast = tried[first - 1] if first else slow, tried[first]
        if fast - slow == 1:
            break
    left = {name: int(mask.sum()) for name, mask in cuts[fast].items()}
    return math.ceil(cost_model(network, "macs")(left))


def _spread(first: int, last: int) -> list[int]:
    """Return at most `MEASURED` whole numbers from the first to the last, evenly spread."""
    count = min(MEASURED, last - first + 1)
    return sorted({first + round(k * (last - first) / max(count - 1, 1)) for k in range(count)})


def _smooth(values: Sequence[float]) -> list[float]:
    """Return medians of three neighbours, and the first and last value as they are."""
    inner = [statistics.median(values[index - 1 : index + 2]) for index in range(1, len(values) - 1)]
    return [values[0], *inner, values[-1]] if len(values) > 1 else list(values)


def _too_slow(target: Target, times: Times, smallest: torch.nn.Module) -> str:
    parameters = sum(weight.numel() for weight in smallest.parameters())
    found = f"no network is fast enough. The smallest has {parameters:,} parameters and takes {times}"
    share = math.ceil(100 * times.small / times.dense) + 1
    if share >= 100:
        return f"{found}, so that pruning gains next to nothing: give a larger batch_size, or max_macs"
    least = f"{share}%" if is_share(target.max_latency) else f"{10 * share * times.dense:.3g}ms"
    return f"{found}: give at least max_latency='{least}'"
