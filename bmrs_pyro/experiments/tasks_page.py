"""The page of the tasks beyond classes of images."""

from __future__ import annotations

__all__ = ["page"]

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from bmrs_pyro.experiments.tasks import TARGETS, TASKS

_HEAD = """# Tasks beyond classes of images

Made by `bmrs reproduce tasks --out docs/results`; [tasks.json](tasks.json) has one object per run. All data are made of
what installed packages bring, so nothing is downloaded, and other versions of them give other texts:

- *diabetes*: scikit-learn's 442 patients, regression, an MLP; root mean square error in the target's units;
- *digit maps*: scikit-learn's digits on a noisy ground, a class per pixel, a small U-Net; mean intersection over union;
- *docstrings*: which of six packages a docstring documents, its first 32 words without the packages' own names, a small
  BERT-like classifier; accuracy;
- *documentation*: the next of 97 characters of the standard library's documentation, a small GPT-like model;
  perplexity.

Each network is trained dense, then along a path (`bmrs_pyro.prune`). One small network is the default's, the smallest
that loses nothing within one standard error of the validation score; the other has at most half of the
multiply-accumulates.
Scores are of test data that nothing was chosen on. Networks and data are small, for two shared processor cores.
"""


def page(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the page in Markdown; seeds of one task are averaged."""
    lines = [
        "| task | score | network | test score | parameters | MACs | |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, task in TASKS.items():
        runs = [row for row in rows if row["task"] == name]
        for kind in ("dense", *TARGETS) if runs else ():
            found = [row[kind] for row in runs]
            missed = sum(not one.get("met", True) for one in found)
            cells = [
                name if kind == "dense" else "",
                f"{task.figure.replace('_', ' ')}, {task.better} is better" if kind == "dense" else "",
                kind,
                f"{statistics.mean(one[task.figure] for one in found):.4g}",
                *(
                    _with_share(found, [row["dense"] for row in runs], cost)
                    for cost in ("parameters", "macs")
                ),
                f"misses the validation score in {missed} of {len(found)}" if missed else "",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return _HEAD + "\n" + "\n".join(lines) + "\n"


def _with_share(found: Sequence[Mapping[str, Any]], dense: Sequence[Mapping[str, Any]], cost: str) -> str:
    own, whole = (statistics.mean(one[cost] for one in rows) for rows in (found, dense))
    return f"{own:,.0f}" + (f" ({own / whole:.0%})" if own < whole else "")
