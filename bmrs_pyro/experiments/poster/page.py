"""The page of the poster's experiment, made from its runs: verdicts, figures, tables."""

from __future__ import annotations

__all__ = ["STUDY", "poster_page"]

from collections.abc import Iterable

from matplotlib.figure import Figure

from bmrs_pyro.experiments.poster.runs import PROTOCOLS, Protocol
from bmrs_pyro.experiments.poster.summary import default_table, fronts, markdown, plot_fronts, verdict_table
from bmrs_pyro.experiments.spread import Row, Rows, where
from bmrs_pyro.experiments.study import Study

_HEAD = """# The BMRS poster's table

Made by `bmrs reproduce poster --data-root DATA --out docs/results`. Every run is cached and can be restarted.
[poster.json](poster.json) has one object per run. With `--rebuild` the command makes this page from it alone.

Numbers are parameter compression / test accuracy in percent, mean ± standard deviation over seeds. The validation part,
a fifth of the training data, chooses the epoch. Our result is *better* if both numbers are at or above the poster's,
*equal* if none falls short by more than 0.1 points, else *worse*. Each cell names the point of our front (one KL
weight) that decides; the table below it lists all points. `l2` and `expected` remove the same share of the structures
as the BMRS_N run of the same cell and seed. As published, they remove it once, before the epochs without pruning.
"""


def poster_page(rows: Rows) -> str:
    """Return the page in Markdown."""
    protocols = [name for name in ("ours", "published") if any(row["protocol"] == name for row in rows)]
    return "\n".join([_HEAD, *(_section(rows, name) for name in protocols)])


def _section(rows: Iterable[Row], name: str) -> str:
    mine = where(rows, protocol=name)
    points = fronts(mine, name)
    hours = sum(row["seconds"] for row in mine) / 3600
    # the published recipe is repeated as it is, without targets
    asked = (
        ["With the default KL weight, BMRS_N:\n", default_table(points, PROTOCOLS[name].default)]
        if name == "ours"
        else []
    )
    return "\n".join(
        [
            f"## Protocol `{name}`",
            "",
            _recipe(PROTOCOLS[name], mine),
            f"{len(mine)} runs, {hours:.1f} hours of training in all.",
            "",
            verdict_table(points),
            *asked,
            f"![Accuracy against compression, protocol {name}](poster-{name}.png)",
            "",
            markdown(points),
        ]
    )


def _recipe(protocol: Protocol, rows: Rows) -> str:
    recipe = protocol.recipe
    weights: dict[str, set[float]] = {}
    for row in rows:
        if row["kl_weight"]:
            weights.setdefault(row["network"], set()).add(row["kl_weight"])
    kinds = "; ".join(
        f"{network} `{protocol.kind[network]}` × {', '.join(f'{weight:g}' for weight in sorted(found))}"
        for network, found in sorted(weights.items())
    )
    smoothing = ", ".join(
        f"{network} {protocol.label_smoothing[network]:g}"
        for network in sorted({row["network"] for row in rows})
    )
    rates = "falling linearly to 0 over the second half" if recipe.schedule == "linear-decay" else "constant"
    return (
        f"{recipe.epochs} epochs with pruning after each and {recipe.fine_tune_epochs} without; batch "
        f"{recipe.batch_size}, Adam at {recipe.lr:g}, posteriors at {recipe.posterior_lr_factor:g} × that, "
        f"{rates}.\n"
        f"Log prior odds in nats: {protocol.margin[0]:.3g} for BMRS_N, {protocol.margin[1]:.3g} for BMRS_U.\n"
        f"Label smoothing: {smoothing}.\n"
        f"KL weights: {kinds}."
    )


def _figures(rows: Rows) -> dict[str, Figure]:
    names = {str(row["protocol"]) for row in rows}
    return {f"poster-{name}": plot_fronts(fronts(rows, name), PROTOCOLS[name].default) for name in names}


STUDY = Study(
    "poster", ("network", "dataset", "method", "protocol", "kl_weight", "seed"), poster_page, _figures
)
