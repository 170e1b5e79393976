"""Tables for the terminal."""

from __future__ import annotations

__all__ = ["comparison_table", "evaluation_record", "evaluation_rows", "family_table"]

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import Any

from rich.table import Table
from rich.text import Text

from bmrs_pyro.metrics import Evaluation
from bmrs_pyro.network import StructureFamily
from bmrs_pyro.reduction import Decision

_FIGURES: dict[str, tuple[str, Callable[[float], str]]] = {
    "accuracy": ("accuracy", "{:.2%}".format),
    "mean_iou": ("mean intersection over union", "{:.2%}".format),
    "rmse": ("RMSE", "{:.4g}".format),
    "top5": ("top 5", "{:.2%}".format),
    "nll": ("NLL [nats]", "{:.4f}".format),
    "perplexity": ("perplexity", "{:.4g}".format),
    "brier": ("Brier score", "{:.4f}".format),
    "ece": ("calibration error", "{:.2%}".format),
}


def evaluation_rows(evaluation: Evaluation) -> dict[str, str]:
    """Return an evaluation's metrics as texts by label, the most important first; absent ones are left out."""
    found = evaluation_record(evaluation)
    return {label: shown(found[name]) for name, (label, shown) in _FIGURES.items() if name in found}


def evaluation_record(evaluation: Evaluation) -> dict[str, Any]:
    """Return an evaluation's metrics as plain JSON types, without the bins; absent ones are left out."""
    return {name: value for name, value in asdict(evaluation).items() if name != "bins" and value is not None}


def family_table(decision: Decision, families: Iterable[StructureFamily] = ()) -> Table:
    """Return a table of size, number kept and range of the scores, one row per structure family.

    Args:
        decision: a decision, with the score of every structure.
        families: the network's families, for layer names and kinds; without them rows have site names only.
    """
    known = {family.name: family for family in families}
    table = Table(title=Text(f"{'joint loss' if decision.joint else decision.criterion}: what is kept"))
    for header in ("layer", "structures", "site"):
        table.add_column(header, overflow="fold")
    for header in ("kept", f"{decision.quantity} of kept", f"{decision.quantity} of removed"):
        table.add_column(header, justify="right")
    for name, keep in decision.keep.items():
        values = decision.values.get(name)
        ranges = (
            ["", ""] if values is None else [_range(values[keep].tolist()), _range(values[~keep].tolist())]
        )
        layer, kind = (known[name].layer, known[name].kind) if name in known else ("", "")
        row = (layer, f"{len(keep):,} {kind}".strip(), name, f"{int(keep.sum()):,}", *ranges)
        table.add_row(*map(Text, row))
    table.add_section()
    table.add_row("all", f"{decision.keep.total:,}", "", f"{decision.keep.kept:,}", "", "")
    return table


def comparison_table(columns: Mapping[str, Mapping[str, str]], *, title: str) -> Table:
    """Return networks side by side; all texts appear as they are, with brackets too.

    Args:
        columns: each network's entries by row name; all networks have the same rows.
        title: the table's title.
    """
    table = Table(title=Text(title))
    table.add_column("")
    for name in columns:
        table.add_column(Text(name), justify="right")
    for row in next(iter(columns.values())):
        table.add_row(*map(Text, (row, *(entries[row] for entries in columns.values()))))
    return table


def _range(values: list[float]) -> str:
    known = [value for value in values if value == value]
    return f"{min(known):.3g} … {max(known):.3g}" if known else ""
