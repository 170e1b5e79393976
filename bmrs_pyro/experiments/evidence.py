"""How clear the decisions of model reduction are: ΔF of every structure, and decisions at other margins and bits."""

from __future__ import annotations

__all__ = ["BITS", "ODDS", "evidence"]

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from bmrs_pyro.distributions import LogUniform, TruncatedLogNormal
from bmrs_pyro.reduction import Criterion, ModelReduction, bmrs_u, score_structures, spike

ODDS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Log prior odds of BMRS_N that are compared, nats; decisions that change are counted relative to odds of 1."""
BITS = tuple(range(2, 17))
"""Bits of BMRS_U that are compared; decisions that change are counted relative to 8 bits."""


def evidence(
    posteriors: Mapping[str, TruncatedLogNormal], prior: LogUniform, margin: float
) -> dict[str, Any]:
    """Return ΔF of BMRS_N, and the numbers of removals and of changed decisions at other margins and bits.

    Returns:
        ``margin``; ``delta_f``, six digits, one value per structure; ``odds`` and ``bits``, one record per value with
        the structures ``removed`` and ``changed``.
    """

    def scores(criterion: Criterion) -> Tensor:
        return torch.cat(list(score_structures(posteriors, prior, criterion).values()))

    delta_f = scores(ModelReduction(spike))
    return {
        "margin": margin,
        "delta_f": [float(f"{value:.6g}") for value in delta_f.tolist()],
        "odds": _decisions(((odds, delta_f + odds > 0) for odds in ODDS), 1.0),
        "bits": _decisions(((bits, scores(bmrs_u(bits)) > 0) for bits in BITS), 8),
    }


def _decisions(removals: Iterable[tuple[float, Tensor]], reference: float) -> list[dict[str, float]]:
    by_value = dict(removals)
    return [
        {
            "value": value,
            "removed": int(removed.sum()),
            "changed": int((removed != by_value[reference]).sum()),
        }
        for value, removed in by_value.items()
    ]
