"""Whether each structure was kept, and why."""

from __future__ import annotations

__all__ = ["BUDGET", "OTHER_RULE", "closest_calls", "family_content"]

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bmrs_pyro.network import StructureFamily
from bmrs_pyro.reduction import Decision
from bmrs_pyro.reporting.comparison import change

BUDGET = "a budget"
"""The reason if a structure was removed although its score keeps it."""
OTHER_RULE = "another rule"
"""The reason if one was kept although its score removes it: the least number, a rounded width, the end of pruning."""


class _Verdict(NamedTuple):
    value: float
    kept: bool
    why: str

    @property
    def state(self) -> str:
        return "kept" if self.kept else "odds" if self.why == "the prior odds" else "removed"

    @property
    def cells(self) -> tuple[str, str, str]:
        told = f"{self.value:.4g}" if self.value == self.value else ""
        return told, "kept" if self.kept else "removed", self.why


def closest_calls(
    decision: Decision, families: Mapping[str, StructureFamily], most: int
) -> list[tuple[str, str, str, str]]:
    """Return table rows of the structures whose scores are closest to the threshold."""
    known = [
        (abs(verdict.value - decision.threshold), families[name].label_of(number), verdict)
        for name in decision.keep
        for number, verdict in enumerate(_verdicts(decision, name))
        if verdict.value == verdict.value
    ]
    return [(name, *verdict.cells) for _, name, verdict in sorted(known)[:most]]


def family_content(decision: Decision, family: StructureFamily) -> dict[str, Any]:
    """Return the page's content about a family: its names, and a cell and a table row for each structure."""
    found = _verdicts(decision, family.name)
    left = sum(verdict.kept for verdict in found)
    return {
        **{"layer": family.layer, "kind": family.kind, "site": family.name},
        **{"size": len(found), "left": left, "change": change(len(found), left)},
        "cells": [verdict.state for verdict in found],
        "rows": [(str(number), *verdict.cells) for number, verdict in enumerate(found)],
    }


def _verdicts(decision: Decision, name: str) -> list[_Verdict]:
    keep = decision.keep[name]
    values = decision.values.get(name, torch.full(keep.shape, torch.nan))
    odds = decision.by_odds.get(name, torch.zeros_like(keep))
    columns = map(Tensor.tolist, (keep, values, odds))
    return [
        _Verdict(value, kept, _why(decision, kept, value, odd))
        for kept, value, odd in zip(*columns, strict=True)
    ]


def _why(decision: Decision, kept: bool, value: float, odds: bool) -> str:
    if decision.joint:
        return "the joint loss"
    if value != value:
        return "not asked"
    if kept == (value > decision.threshold):
        return OTHER_RULE if kept else BUDGET
    if odds:
        return "the prior odds"
    return "the data" if decision.evidence else "the score"
