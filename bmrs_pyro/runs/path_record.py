"""The costs and scores of all networks on a run's path, as written to ``path.json``."""

from __future__ import annotations

__all__ = ["PathRecord"]

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from bmrs_pyro.files import from_record
from bmrs_pyro.path import Choice, Pace, Path, PathPoint, Target
from bmrs_pyro.path.point import told
from bmrs_pyro.path.quantities import Times
from bmrs_pyro.runs.config import with_unit


@dataclass(frozen=True)
class PathRecord:
    """The networks on a run's path, and the chosen one.

    Attributes:
        dense: the unpruned network.
        points: the other networks, largest first.
        pace: the path's length and the posteriors' learning rate.
        chosen: the chosen point after its refit; None before the choice.
        target: the target of the choice.
        met: whether the chosen network meets the target.
        notes: one sentence about each network that missed the target.
        caution: says that the chosen network is much worse than the unpruned one; None if it is not.
        times: how long the chosen network takes for a batch, if the target has a latency.
    """

    dense: PathPoint
    points: tuple[PathPoint, ...]
    pace: Pace
    chosen: PathPoint | None = None
    target: Target | None = None
    met: bool = False
    notes: tuple[str, ...] = ()
    caution: str | None = None
    times: Times | None = None

    def __repr__(self) -> str:
        ends = {"unpruned": self.dense, **({"chosen": self.chosen} if self.chosen else {})}
        return "\n  ".join([f"PathRecord, networks: {len(self.points)}", *told(ends)])

    @property
    def of_cuts(self) -> bool:
        """Whether the points are cuts of a trained network, whose posteriors were not trained."""
        return not self.pace.posterior_lr

    @classmethod
    def of(cls, path: Path, choice: Choice | None = None) -> PathRecord:
        """Record a path and the choice from it."""
        found = cls(path.dense, path.points, path.trainee.pace)
        if choice is None:
            return found
        told = {name: getattr(choice, name) for name in ("target", "met", "notes", "caution", "times")}
        return replace(found, chosen=choice.refit.point, **told)

    def without_choice(self) -> PathRecord:
        """Return the record of the path alone."""
        return PathRecord(self.dense, self.points, self.pace)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "dense": self.dense.to_json(),
            "points": [point.to_json() for point in self.points],
            "pace": asdict(self.pace),
            "chosen": self.chosen and self.chosen.to_json(),
            "target": self.target and asdict(self.target),
            "met": self.met,
            "notes": list(self.notes),
            "caution": self.caution,
            "times": self.times and asdict(self.times),
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> PathRecord:
        """Read a record that :meth:`to_json` returned.

        Raises:
            ValueError: the record is malformed.
        """
        try:
            chosen, target = record["chosen"], record["target"]
            return cls(
                PathPoint.from_json(record["dense"]),
                tuple(map(PathPoint.from_json, record["points"])),
                from_record(Pace, record["pace"]),
                chosen and PathPoint.from_json(chosen),
                target and from_record(Target, with_unit(target)),
                bool(record["met"]),
                tuple(map(str, record["notes"])),
                record.get("caution"),
                from_record(Times, record["times"]) if record.get("times") else None,
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"malformed path ({type(error).__name__}: {error})") from None
