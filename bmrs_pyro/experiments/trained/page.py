"""The page of the experiment with trained networks, made from its runs: tables and curves."""

from __future__ import annotations

__all__ = ["STUDY", "plot", "trained_page"]

import statistics
from collections.abc import Iterable
from typing import Any

from matplotlib.figure import Figure

from bmrs_pyro.experiments.spread import Row, Rows, grouped, spread, where
from bmrs_pyro.experiments.study import Study
from bmrs_pyro.experiments.trained.runs import BUDGETS, CONTENDERS

OURS = {"bmrs-path": "black", "bmrs-path-teacher": "grey", "bmrs-laplace": "black"}
"""The colours of our lines, which are thicker."""

_HEAD = """# Trained networks

Made by `bmrs reproduce trained --data-root DATA --out docs/results`, with `pip install 'bmrs-pyro[compare]'`. Every run
is cached, and can be stopped and started again. [trained.json](trained.json) has one object for each run. With
`--rebuild` the command makes this page from them alone.

`vgg` has six convolutions of 32 to 256 channels and 0.58 million parameters, `vgg-wide` twice the channels and 2.3
million. Both are trained on half of CIFAR-10's training images, scaled to 16 × 16 pixels: 25,000 images, 20 epochs.
`resnet20` takes the images as they are: 45,000, 30 epochs. `vit` is a vision transformer of width 96 with three
blocks of three heads and 0.34 million parameters, trained on half of Fashion-MNIST's training images at 16 × 16
pixels: 30,000 images, 20 epochs. Each contender cuts a network to a share of its multiply-accumulates and trains it
further, for the same number of epochs and in the same way: SGD with momentum (`vit`: AdamW), one cycle of the
learning rate that ends at 0, and batch-norm statistics estimated anew at the end. With 0 epochs only these are
estimated. Numbers are percent of test accuracy, mean ± standard deviation over the seeds; each seed trains a network
of its own.

* `bmrs-path`: ten cuts in the first fifth of the epochs, by the evidence at the weights as they are then.
* `bmrs-path-teacher`: the same, with the trained network as the teacher of a half of the loss.
* `bmrs-laplace`: the same ten cuts before the first epoch.
* `torch-pruning-…`: its importances over all layers in one cut; `-local` the same share of every layer; `-iterative`
  ten cuts in the first fifth of the epochs. Of `vit` they remove channels of heads, whole heads, hidden
  neurons and channels of the residual stream; we remove all of these but whole heads.
* `dense`: nothing is cut.
"""


def trained_page(rows: Rows) -> str:
    """Return the page in Markdown."""
    parts = [_HEAD]
    for network in _values(rows, "network"):
        here = where(rows, network=network)
        before = spread([*{row["seed"]: row["dense_accuracy"] for row in here}.values()])
        parts += [f"## {network}", "", f"The trained network has {before} % of test accuracy.", ""]
        for epochs in sorted(_values(here, "epochs")):
            parts += [_table(where(here, epochs=epochs), epochs), ""]
        parts += [f"![Test accuracy against multiply-accumulates](trained-{network}.png)", ""]
    return "\n".join(parts)


def _named(epochs: int) -> str:
    return "1 epoch" if epochs == 1 else f"{epochs} epochs"


def _table(rows: Rows, epochs: int) -> str:
    """Return a table of test accuracies: a row for each contender, a column for each budget; the best one is bold."""
    pruned = [row for row in rows if row["contender"] != "dense"]
    budgets = sorted(_values(pruned, "budget"), reverse=True)
    accuracies = {
        key: [row["accuracy"] for row in group]
        for key, group in grouped(pruned, ["contender", "budget"]).items()
    }
    lines = [
        f"| {_named(epochs)} | " + " | ".join(f"{budget} %" for budget in budgets) + " |",
        "|---" * (len(budgets) + 1) + "|",
    ]
    dense = [row["accuracy"] for row in where(rows, contender="dense")]
    if dense:
        lines.append(f"| dense, {spread(dense)} |" + " |" * len(budgets))
    best = {
        budget: max(statistics.mean(values) for (_, at), values in accuracies.items() if at == budget)
        for budget in budgets
    }
    for contender in _values(pruned, "contender"):
        cells = []
        for budget in budgets:
            found = accuracies.get((contender, budget))
            text = spread(found) if found else ""
            cells.append(f"**{text}**" if found and statistics.mean(found) == best[budget] else text)
        lines.append(f"| `{contender}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(rows: Rows, network: str) -> Figure:
    """Draw accuracy against multiply-accumulates: a line for each contender, a picture for each number of epochs."""
    rows = where(rows, network=network)
    epochs = sorted(_values(rows, "epochs"))
    figure = Figure(figsize=(5 * len(epochs), 4.2), layout="constrained")
    axes = figure.subplots(1, len(epochs), squeeze=False)[0]
    found = {name for name in _values(rows, "contender") if name != "dense"}
    contenders = [name for name in CONTENDERS if name in found]
    for axis, count in zip(axes, epochs, strict=True):
        for contender in contenders:
            here = where(rows, contender=contender, epochs=count)
            for_each = sorted(_values(here, "budget"))
            cost, accuracy = (
                [statistics.mean(row[key] for row in where(here, budget=budget)) for budget in for_each]
                for key in ("macs", "accuracy")
            )
            if here:
                axis.plot(cost, accuracy, marker="o", ms=4, label=contender, **_style(contender))
        axis.set(title=_named(count), xlabel="multiply-accumulates left, %", xscale="log", xlim=(6, 80))
        axis.set_xticks(BUDGETS, [str(budget) for budget in BUDGETS])
        axis.minorticks_off()
        axis.axhline(statistics.mean(row["dense_accuracy"] for row in rows), color="grey", ls=":", lw=1)
    axes[0].set_ylabel("test accuracy, %")
    lines = {line.get_label(): line for axis in axes for line in axis.get_lines() if line.get_marker() == "o"}
    if lines:
        figure.legend(lines.values(), lines.keys(), fontsize=7, loc="outside lower center", ncols=len(epochs))
    return figure


def _style(contender: str) -> dict[str, Any]:
    """Return how a contender is drawn in all pictures: a colour for each importance, dashes by kind; ours thick."""
    if contender in OURS:
        return {"color": OURS[contender], "lw": 2.2}
    kinds = {"-local": "--", "-iterative": "-."}
    suffix = next((suffix for suffix in kinds if contender.endswith(suffix)), "")
    names = [name for name in CONTENDERS if f"{name}-local" in CONTENDERS]
    colour = f"C{names.index(contender.removesuffix(suffix))}"
    return {"color": colour, "ls": kinds.get(suffix, "-"), "lw": 1}


def _values(rows: Iterable[Row], key: str) -> list[Any]:
    """Return the different values of a column, in the order of the rows."""
    return list(dict.fromkeys(row[key] for row in rows))


STUDY = Study(
    "trained",
    ("network", "contender", "budget", "epochs", "seed"),
    trained_page,
    lambda rows: {f"trained-{name}": plot(rows, name) for name in _values(rows, "network")},
)
