"""What a page tells about a network's predictions."""

from __future__ import annotations

__all__ = ["predictions"]

from collections.abc import Mapping
from typing import Any

from bmrs_pyro.metrics import ClassEvaluation, Evaluation
from bmrs_pyro.reporting import plots
from bmrs_pyro.reporting.page import chart
from bmrs_pyro.reporting.tables import evaluation_rows


def predictions(evaluations: Mapping[str, Evaluation]) -> dict[str, Any]:
    """Return a table of evaluations, and the reliability diagram of the first one."""
    shown = {name: evaluation_rows(result) for name, result in evaluations.items()}
    if not shown:
        return {"evaluations": None, "reliability": None}
    first = next(iter(evaluations.values()))
    columns = list(next(iter(shown.values())))
    rows = [(name, *(row.get(column, "") for column in columns)) for name, row in shown.items()]
    curve = (
        chart(plots.plot_reliability(first), "Reliability") if isinstance(first, ClassEvaluation) else None
    )
    return {"evaluations": {"header": ["inputs", *columns], "rows": rows}, "reliability": curve}
