"""One network of a path: its costs and its score."""

from __future__ import annotations

__all__ = ["PathPoint", "told"]

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bmrs_pyro.training.validation import Score


@dataclass(frozen=True)
class PathPoint:
    """A network on the path, or its refit.

    Attributes:
        epoch: epoch of the path, from 1.
        kl_weight: factor of the KL weight in that epoch.
        structures: structures left, by family.
        parameters: number of weights.
        macs: multiply-accumulates for one example.
        bytes: bytes of weights and buffers.
        delta_f: Σ ΔF of the removed structures, each at its removal, in nats; None if the criterion has no ΔF.
        score: validation scores with their standard errors.
    """

    epoch: int
    kl_weight: float
    structures: Mapping[str, int]
    parameters: int
    macs: int
    bytes: int
    delta_f: float | None
    score: Score

    @property
    def size(self) -> int:
        """Structures left in all families."""
        return sum(self.structures.values())

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {**vars(self), "structures": dict(self.structures), "score": self.score._asdict()}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> PathPoint:
        """Return the point of a record."""
        return cls(**{**record, "score": Score(**record["score"])})


def told(points: Mapping[str, PathPoint]) -> list[str]:
    """Return a line of text for each network: its name, its size and its validation score."""
    width = max(map(len, points), default=0)
    return [
        f"{name:{width}}  {point.parameters:,} parameters, {point.macs:,} MACs, {point.size:,} structures, "
        + (
            f"log-likelihood {point.score.log_likelihood:.4g}"
            if point.score.accuracy is None
            else f"accuracy {point.score.accuracy:.2%}"
        )
        for name, point in points.items()
    ]
