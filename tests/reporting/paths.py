"""A path of two networks, with what is shown of it."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace


@dataclass(frozen=True)
class Point:
    epoch: int
    parameters: int
    accuracy: float | None
    kl_weight: float = 0.1
    macs: int = 1000
    size: int = 20
    delta_f: float | None = None

    @property
    def score(self) -> SimpleNamespace:
        errors = {"accuracy_error": 0.01, "log_likelihood_error": 0.02}
        return SimpleNamespace(accuracy=self.accuracy, log_likelihood=-0.3, **errors)


PATH = SimpleNamespace(dense=Point(0, 900, 0.97), points=(Point(1, 800, 0.98), Point(4, 90, 0.95)))
