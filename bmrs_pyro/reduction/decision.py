"""A criterion's decision about a network's structures, and its evidence."""

from __future__ import annotations

__all__ = ["Decision"]

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bmrs_pyro.reduction.criteria import Criterion, ModelReduction
from bmrs_pyro.reduction.keep_mask import KeepMask


@dataclass(frozen=True)
class Decision:
    """A criterion's verdict on every structure of the dense network.

    Attributes:
        criterion: its name, such as ``bmrs-n``.
        keep: which structures are kept, ``(C_f,)`` per family.
        scores: the criterion's score, ``(C_f,)`` float64; positive means remove, NaN means not scored.
        log_prior_odds: the part of a score that is not evidence, nats; 0 for criteria other than model reduction.
        evidence: whether the scores are evidence, in nats (Bayesian model reduction), or another quantity.
        joint: whether the loss of removing structures together decided, and the scores of single structures did not.
    """

    criterion: str
    keep: KeepMask
    scores: Mapping[str, Tensor]
    log_prior_odds: float = 0.0
    evidence: bool = True
    joint: bool = False

    @classmethod
    def by(
        cls,
        criterion: Criterion | None,
        name: str,
        keep: KeepMask,
        scores: Mapping[str, Tensor],
        *,
        joint: bool = False,
    ) -> Decision:
        """Record what a criterion decided; with ``joint``, the loss of removing structures together."""
        if isinstance(criterion, ModelReduction) and joint:
            alone = {site: values - criterion.log_prior_odds for site, values in scores.items()}
            return cls(name, keep, alone, joint=True)
        if isinstance(criterion, ModelReduction):
            return cls(name, keep, scores, criterion.log_prior_odds)
        return cls(name, keep, scores, evidence=False)

    @property
    def quantity(self) -> str:
        """Name of :attr:`values`: ``ΔF`` or ``score``."""
        return "ΔF" if self.evidence else "score"

    @property
    def values(self) -> dict[str, Tensor]:
        """ΔF of every structure (the bare score for other criteria), ``(C_f,)``."""
        return {name: scores - self.log_prior_odds for name, scores in self.scores.items()}

    @property
    def by_odds(self) -> dict[str, Tensor]:
        """Mask ``(C_f,)`` of the structures that ΔF alone would decide otherwise: the prior odds decide them."""
        values = self.values
        return {name: (scores > 0) != (values[name] > 0) for name, scores in self.scores.items()}

    @property
    def threshold(self) -> float:
        """Values above this are removed."""
        return -self.log_prior_odds

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types; NaN becomes null."""
        return {
            "criterion": self.criterion,
            "log_prior_odds": self.log_prior_odds,
            "evidence": self.evidence,
            "joint": self.joint,
            "keep": json.loads(self.keep.to_json()),
            "scores": {
                name: [None if math.isnan(value) else value for value in values.tolist()]
                for name, values in self.scores.items()
            },
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Decision:
        """Read what :meth:`to_json` returned.

        Raises:
            ValueError: the record is malformed.
        """
        try:
            scores = {
                name: torch.tensor([math.nan if v is None else v for v in values], dtype=torch.float64)
                for name, values in record["scores"].items()
            }
            keep = KeepMask.from_json(json.dumps(record["keep"]))
            odds, kinds = float(record["log_prior_odds"]), (record["evidence"], record.get("joint", False))
            return cls(record["criterion"], keep, scores, odds, *map(bool, kinds))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"malformed decision ({type(error).__name__}: {error})") from None
