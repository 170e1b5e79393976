"""Tables and figures of the experiments with Gaussian weights."""

from __future__ import annotations

__all__ = ["draw", "table"]

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from bmrs_pyro.experiments.spread import spread
from bmrs_pyro.experiments.weights.bmr import METHODS
from bmrs_pyro.reporting import comparison_table, save_figure

COLOURS = dict(zip(METHODS, ("#000000", "#0072B2", "#009E73", "#D55E00", "#CC79A7"), strict=True))
Result = Mapping[str, Any]


def table(
    by_method: Mapping[str, Sequence[Result]], times: Mapping[str, float], title: str, steps: int
) -> Any:
    """Return a table of methods side by side."""

    def four_digits(values: Iterable[float]) -> str:
        return spread(values, ".4g", ".2g")

    columns = {}
    for method, results in by_method.items():
        epoch = steps * times[method] + times.get(f"{method} reduction", 0.0)
        flat = steps * times["flat"]
        columns[method] = {
            "test accuracy [%]": four_digits(100 * result["accuracy"] for result in results),
            "NLL [nats]": four_digits(result["nll"] for result in results),
            "calibration error [%]": four_digits(100 * result["ece"] for result in results),
            "weights pruned [%]": four_digits(
                100 * (1 - result["active"] / result["weights"]) for result in results
            ),
            "parameters when cut": four_digits(result["parameters"][1] for result in results),
            f"seconds for {steps} steps": f"{epoch:.1f}",
            "relative to flat": f"{epoch / flat:.2f}",
        }
    return comparison_table(columns, title=title)


def draw(by_method: Mapping[str, Sequence[Result]], path: Path) -> None:
    """Draw the share of weights left by epoch, and accuracy against the share left at the end."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for method, results in by_method.items():
        for index, result in enumerate(results):
            label = method if index == 0 else None
            history = result["history"]
            left.plot(
                range(1, len(history) + 1),  # the history numbers the warm-up's epochs separately
                [100 * epoch["active"] for epoch in history],
                color=COLOURS[method],
                label=label,
            )
            right.scatter(
                100 * result["active"] / result["weights"],
                100 * result["accuracy"],
                color=COLOURS[method],
                label=label,
            )
    left.set_xlabel("epoch")
    left.xaxis.get_major_locator().set_params(integer=True)
    left.set_ylabel("weights left [%]")
    right.set_xlabel("weights left [%]")
    right.set_ylabel("test accuracy [%]")
    right.legend(fontsize="small")
    for ax in (left, right):
        ax.spines[["top", "right"]].set_visible(False)
    save_figure(left, path)
