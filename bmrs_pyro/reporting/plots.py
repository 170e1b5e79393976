"""Figures: functions that draw into matplotlib axes and return them."""

from __future__ import annotations

__all__ = [
    "CURVES",
    "finished",
    "new_axes",
    "plot_compression",
    "plot_density",
    "plot_evidence",
    "plot_gains",
    "plot_layer_widths",
    "plot_reliability",
    "plot_training",
    "plot_widths",
]

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, SymmetricalLogLocator
from torch import Tensor
from torch.distributions import Distribution

from bmrs_pyro.distributions import LogUniform, TruncatedLogNormal
from bmrs_pyro.metrics import ClassEvaluation
from bmrs_pyro.reduction import Decision, KeepMask
from bmrs_pyro.training import Epoch

# Okabe and Ito's palette, for colour-blind readers
KEPT, REMOVED, ODDS, OTHER, RULE = "#0072B2", "#D55E00", "#CC79A7", "#009E73", "#000000"

CURVES: dict[str, tuple[str, str, Callable[[Epoch], float | None]]] = {
    "elbo": ("Evidence lower bound", "ELBO [nats]", lambda epoch: epoch.elbo),
    "kl": ("Information in the posteriors", "KL(q ‖ p) [nats]", lambda epoch: epoch.kl),
    "accuracy": ("Accuracy", "validation accuracy", lambda epoch: epoch.accuracy),
    "rmse": ("Root mean square error", "validation RMSE", lambda epoch: epoch.rmse),
    "structures": ("Structures left", "structures left", lambda epoch: epoch.size),
    "seconds": ("Time of an epoch", "seconds per epoch", lambda epoch: epoch.seconds),
}
"""The curves of :func:`plot_training`: title, axis label, and the value of an epoch."""


def new_axes(height: float = 3.0, width: float = 4.0) -> Axes:
    """Return the axes of a new figure, whose text is readable on a phone."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure.add_subplot()


def plot_evidence(decision: Decision, ax: Axes | None = None) -> Axes:
    """Draw a histogram of the scores of kept and removed structures, with the decision's threshold if they decided.

    Structures that were removed by the prior odds, against the evidence, have a separate colour. Scores span six
    orders of magnitude, so the axis is linear near the threshold and logarithmic beyond ±1.

    Args:
        decision: a decision, with the score of every structure.
        ax: axes to draw into; by default those of a new figure.
    """
    ax = ax or new_axes()
    masks, odds, values = decision.keep, decision.by_odds, decision.values
    groups = {
        ("kept", KEPT): _finite([values[name][masks[name]] for name in values]),
        ("removed", REMOVED): _finite([values[name][~masks[name] & ~odds[name]] for name in values]),
        ("by prior odds", ODDS): _finite([values[name][~masks[name] & odds[name]] for name in values]),
    }
    if not decision.log_prior_odds:
        groups.popitem()
    pooled = [value for group in groups.values() for value in group]
    low, high = _decades(-min(pooled, default=0.0)), _decades(max(pooled, default=0.0))
    bins = torch.cat([-low.flip(0), torch.linspace(-1, 1, 17)[1:-1], high]).tolist()
    labels = [f"{label} {len(group)}" for (label, _), group in groups.items()]
    colors = [color for _, color in groups]
    ax.hist([*groups.values()], bins=bins, stacked=True, color=colors, label=labels)
    if decision.log_prior_odds:
        ax.axvspan(*sorted((decision.threshold, 0.0)), color=RULE, alpha=0.08, linewidth=0)
    if not decision.joint:
        rule = f"threshold {decision.threshold:g}"
        ax.axvline(decision.threshold, color=RULE, linestyle="--", linewidth=1, label=rule)
    ax.set_xscale("symlog", linthresh=1.0, linscale=1.2)
    ticks = SymmetricalLogLocator(base=10, linthresh=1.0)
    ticks.set_params(numticks=5)
    ax.xaxis.set_major_locator(ticks)
    ax.set_xlim(bins[0], bins[-1])
    unit = " [nats]" if decision.evidence else ""
    return finished(ax, f"{decision.quantity}{unit}", "structures")


def plot_widths(keep: KeepMask, ax: Axes | None = None) -> Axes:
    """Draw the kept width of every family as a bar over its original width."""
    left = {name: int(mask.sum()) for name, mask in keep.items()}
    return _draw_widths({name: len(mask) for name, mask in keep.items()}, left, "structures", ax)


def plot_layer_widths(dense: Mapping[str, int], small: Mapping[str, int]) -> Axes:
    """Draw one bar per layer: its width, and the part of it that is kept.

    Args:
        dense: widths of the dense network by layer, from :func:`layer_widths`.
        small: widths of the small network; its layers are among those of the dense network.
    """
    return _draw_widths(dense, small, "channels or neurons")


def _draw_widths(
    dense: Mapping[str, int], small: Mapping[str, int], unit: str, ax: Axes | None = None
) -> Axes:
    ax = ax or new_axes(max(3.0, 1 + 0.22 * len(dense)), 6.0)
    rows, left = range(len(dense)), [small.get(name, 0) for name in dense]
    ax.barh(rows, list(dense.values()), color=REMOVED, label="removed")
    ax.barh(rows, left, color=KEPT, label="kept")
    for row, (width, kept) in enumerate(zip(dense.values(), left, strict=True)):
        ax.annotate(
            f"{kept} of {width}", (width, row), (4, 0), textcoords="offset points", va="center", fontsize=8
        )
    ax.set_xlim(0, 1.3 * max(dense.values()))
    ax.set_yticks(rows, list(dense), fontsize=8, parse_math=False)
    ax.invert_yaxis()
    return finished(ax, unit, "")


def plot_gains(posterior: TruncatedLogNormal, channels: Tensor | None = None, ax: Axes | None = None) -> Axes:
    """Draw E[θ] of a family's structures, sorted, with the interval from the 5 % to the 95 % quantile.

    Args:
        posterior: q(θ_f), batch shape ``(C_f,)``.
        channels: numbers of the structures, ``(C_f,)``; by default 0 to C_f − 1.
        ax: axes to draw into.
    """
    ax = ax or new_axes()
    mean, order = posterior.mean.sort(descending=True)
    ends = [posterior.icdf(torch.full_like(mean, level))[order] for level in (0.05, 0.95)]
    channels = torch.arange(len(mean)) if channels is None else channels
    places = range(len(mean))
    ax.vlines(places, ends[0].tolist(), ends[1].tolist(), color=KEPT, alpha=0.5, linewidth=2, label="90 %")
    ax.plot(places, mean.tolist(), "o", color=KEPT, markersize=3, label="E[θ]")
    ax.set_ylim(bottom=0)
    if len(mean) <= 12:
        ax.set_xticks(places, [str(number) for number in channels[order].tolist()], fontsize=9)
        label = "structure"
    else:
        label = "structures, strongest first"
    return finished(ax, label, "gain θ")


def plot_density(
    posterior: TruncatedLogNormal, prior: LogUniform, reduced: Distribution, ax: Axes | None = None
) -> Axes:
    """Draw the densities of log θ: posterior, prior and reduced prior, on a logarithmic scale.

    The density of log θ is θ times the density of θ. A spike is too narrow to see; it is drawn as a line at the bound.

    Args:
        posterior: q(θ) of one structure, batch shape ``()``.
        prior: p(θ).
        reduced: p̃(θ).
        ax: axes to draw into.
    """
    ax = ax or new_axes()
    distribution = posterior.log_distribution
    wide = torch.linspace(float(prior.log_low), float(prior.log_high), 801, dtype=torch.float64)
    # a narrow posterior could lie between the points of the wide grid
    around = (distribution.mode + distribution.scale * torch.linspace(-6, 6, 201)).clamp(
        prior.log_low, prior.log_high
    )
    theta = torch.cat([wide, around]).sort().values.exp().clamp(prior.low, prior.high)
    curves = {"prior p": (prior, OTHER, "-."), "posterior q": (posterior, KEPT, "-")}
    if isinstance(reduced, LogUniform):
        curves["reduced prior p̃"] = (reduced, REMOVED, "--")
    else:
        ax.axvline(float(prior.low), color=REMOVED, linestyle="--", linewidth=2, label="reduced prior p̃")
    top = 1.0
    for label, (curve, color, style) in curves.items():
        inside = curve.support.check(theta)
        density = (curve.log_prob(theta[inside]).exp() * theta[inside]).tolist()
        ax.plot(theta[inside].tolist(), density, style, color=color, label=label)
        top = max(top, *density)
        if curve is posterior:
            ax.fill_between(theta[inside].tolist(), density, color=color, alpha=0.2)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_ylim(1e-4, 3 * top)
    return finished(ax, "gain θ", "density of log θ")


def plot_training(epochs: Sequence[Epoch], curve: str, ax: Axes | None = None) -> Axes:
    """Draw one curve of a run over its epochs; fine-tuning is shaded.

    Args:
        epochs: the run's records.
        curve: a name of :data:`CURVES`.
        ax: axes to draw into.

    Raises:
        ValueError: the curve is unknown.
    """
    if curve not in CURVES:
        raise ValueError(f"curve is {curve!r}; use one of {', '.join(CURVES)}")
    ax = ax or new_axes()
    _, label, value = CURVES[curve]
    points = [(epoch.epoch, y) for epoch in epochs if (y := value(epoch)) is not None]
    ax.plot(*zip(*points, strict=True), "o-", color=KEPT, markersize=3)
    tuned = [epoch.epoch for epoch in epochs if epoch.phase == "fine-tune"]
    if tuned:
        ax.axvspan(tuned[0] - 0.5, tuned[-1] + 0.5, color=RULE, alpha=0.08, linewidth=0, label="fine-tuning")
    if curve in ("structures", "seconds"):
        ax.set_ylim(bottom=0)
    return finished(ax, "epoch", label)


def plot_compression(parameters: Sequence[int], accuracy: Sequence[float], ax: Axes | None = None) -> Axes:
    """Draw accuracy against the parameters left, along training.

    Args:
        parameters: weights left after each epoch, counted by a :class:`bmrs_pyro.network.CostModel`.
        accuracy: validation accuracy after each epoch.
        ax: axes to draw into.
    """
    ax = ax or new_axes()
    ax.plot(parameters, accuracy, "o-", color=KEPT, markersize=3, linewidth=1)
    ax.plot(parameters[-1:], accuracy[-1:], "o", color=REMOVED, markersize=7, label="last epoch")
    ax.set_xlim(0, 1.05 * max(parameters))
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.xaxis.set_major_locator(MaxNLocator(4))
    return finished(ax, "parameters left", "validation accuracy")


def plot_reliability(evaluation: ClassEvaluation, ax: Axes | None = None) -> Axes:
    """Draw accuracy against confidence of the predictions; calibrated predictions lie on the diagonal.

    Args:
        evaluation: an evaluation, with its 15 bins.
        ax: axes to draw into.
    """
    ax = ax or new_axes()
    filled = [entry for entry in evaluation.bins if entry.examples]
    ax.plot([0, 1], [0, 1], color=RULE, linestyle="--", linewidth=1, label="calibrated")
    ax.plot([b.confidence for b in filled], [b.accuracy for b in filled], "-", color=KEPT, linewidth=1)
    # area in proportion to the examples
    sizes = [8 + 200 * entry.examples / evaluation.count for entry in filled]
    points = [b.confidence for b in filled], [b.accuracy for b in filled]
    ax.scatter(*points, s=sizes, color=KEPT, label=f"error {evaluation.ece:.1%}")
    return finished(ax, "mean confidence", "accuracy")


def _decades(end: float) -> Tensor:
    """Return the edges of eight bins per decade, from 1 to the first power of ten that is at least ``end``."""
    top = max(math.ceil(math.log10(max(end, 1.0))), 1)
    return torch.logspace(0, top, 8 * top + 1, dtype=torch.float64)


def finished(ax: Axes, x: str, y: str) -> Axes:
    """Label the axes and apply the layout of all figures."""
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    if ax.get_legend_handles_labels()[0]:
        # above the axes, where it covers nothing
        ax.legend(
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=2,
            frameon=False,
            fontsize=9,
            handlelength=1.5,
            columnspacing=1,
            borderaxespad=0.2,
        )
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(color=RULE, alpha=0.1, linewidth=0.5)
    ax.set_axisbelow(True)
    return ax


def _finite(parts: list[Tensor]) -> list[float]:
    values = torch.cat(parts) if parts else torch.empty(0)
    return values[values.isfinite()].tolist()
