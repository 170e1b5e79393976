"""A run as one page that a person enjoys reading, and can check."""

from __future__ import annotations

__all__ = ["html_report", "repeat_command"]

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from html import escape

import torch
from torch import Tensor
from torch.distributions import Distribution

from bmrs_pyro.distributions import LogUniform, TruncatedLogNormal
from bmrs_pyro.metrics import ClassEvaluation, Evaluation
from bmrs_pyro.network import Complexity, NoisyNetwork, complexity, cost_model
from bmrs_pyro.reduction import Decision, KeepMask
from bmrs_pyro.reporting import plots
from bmrs_pyro.reporting.page import document, figure, section, table
from bmrs_pyro.reporting.tables import evaluation_rows
from bmrs_pyro.runs import RunConfig, RunDirectory
from bmrs_pyro.training import Epoch

_CLOSE_CALLS = 5


def repeat_command(config: RunConfig, out: str = "RUN") -> str:
    """Return the command that makes the run again.

    Args:
        config: the run's configuration.
        out: directory the repetition writes to.
    """
    words = ["bmrs", "fit", config.model, "--out", out]
    for name, value in config.options().items():
        if name == "model" or value is None or value is False:
            continue
        words.append(f"--{name.replace('_', '-')}")
        if value is not True:
            words.append(str(value))
    return shlex.join(words)


def html_report(
    run: RunDirectory,
    evaluations: Mapping[str, Evaluation] | None = None,
    reduced: Distribution | None = None,
) -> str:
    """Return a self-contained page about a finished run.

    Args:
        run: the run.
        evaluations: of the small network, by a description such as ``"test data"``; the first is drawn.
        reduced: reduced prior of the decision, which posteriors are drawn against; None leaves them out.

    Raises:
        RunError: the run is not finished or a file is damaged.
    """
    report = _Report(run, evaluations or {}, reduced)
    title = f"{run.path.resolve().name}: {report.config.model} on {report.config.data.data}"
    return document(title, report.sections())


@dataclass(frozen=True)
class _Report:
    run: RunDirectory
    evaluations: Mapping[str, Evaluation]
    reduced: Distribution | None

    @cached_property
    def config(self) -> RunConfig:
        return self.run.config

    @cached_property
    def decision(self) -> Decision:
        return self.run.decision()

    @cached_property
    def epochs(self) -> list[Epoch]:
        return self.run.metrics()

    @cached_property
    def trained(self) -> tuple[NoisyNetwork, dict[str, TruncatedLogNormal], KeepMask]:
        return self.run.network()

    @cached_property
    def sizes(self) -> tuple[Complexity, Complexity]:
        example = self.run.example()
        return complexity(self.run.dense(), example), complexity(self.run.small(), example)

    def sections(self) -> Iterator[str]:
        yield self.opening()
        yield self.removed()
        yield self.evidence()
        yield self.gains()
        yield self.training()
        if self.evaluations:
            yield self.trust()
        yield self.repetition()

    def opening(self) -> str:
        keep, (dense, small) = self.decision.keep, self.sizes
        tiles = {
            "structures": (_fewer(keep.total, keep.kept), f"{keep.total:,} → {keep.kept:,}"),
            "parameters": (
                _fewer(dense.parameters, small.parameters),
                f"{dense.parameters:,} → {small.parameters:,}",
            ),
            "multiply-accumulates": (_fewer(dense.macs, small.macs), f"{dense.macs:,} → {small.macs:,}"),
        }
        accuracy = self.run.validation_accuracy()
        if accuracy is not None:
            tiles["validation accuracy"] = (f"{accuracy:.1%}", "of the small network")
        for name, result in list(self.evaluations.items())[:1]:
            figure_name, value = next(iter(evaluation_rows(result).items()))
            tiles[f"test {figure_name}"] = (value, f"{result.count:,} examples, {name}")
        cells = "".join(
            f"<div><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(note)}</small></dd></div>"
            for name, (value, note) in tiles.items()
        )
        return (
            f'<header>\n<p class="kicker">bmrs_pyro · {escape(str(self.run.path.resolve().name))}</p>\n'
            f"<h1>{escape(self.config.model)} on {escape(self.config.data.data)}</h1>\n"
            f'<p class="lede"><strong>{keep.removed:,} of {keep.total:,}</strong> structures were not needed. '
            f"The network that is left has <strong>{small.parameters / dense.parameters:.0%}</strong> of the "
            f"parameters and does <strong>{small.macs / dense.macs:.0%}</strong> of the work.</p>\n"
            f'<dl class="tiles">{cells}</dl>\n</header>'
        )

    def removed(self) -> str:
        strips = []
        for name, mask in self.decision.keep.items():
            values = self.decision.values.get(name, torch.full(mask.shape, torch.nan))
            cells = "".join(
                f'<li class="{"kept" if kept else "removed"}" title="{escape(self.told(number, kept, value))}"></li>'
                for number, (kept, value) in enumerate(zip(mask.tolist(), values.tolist(), strict=True))
            )
            left, size = int(mask.sum()), len(mask)
            strips.append(
                f'<div class="strip"><h3>{escape(name)} <span>{size} → {left} '
                f"({_fewer(size, left)})</span></h3>\n"
                f'<ul class="cells" role="img" aria-label="{escape(name)}: {left} of {size} kept">{cells}</ul></div>'
            )
        return section(
            "What was removed",
            '<p>One cell is one structure: a channel, a neuron or a head. <span class="key"></span> kept, '
            '<span class="key removed"></span> removed. Rest the pointer on a cell to see its evidence.</p>',
            *strips,
        )

    def told(self, number: int, kept: bool, value: float) -> str:
        evidence = f"{self.decision.quantity} {value:.3g}" if value == value else "not asked"
        return f"{number} {'kept' if kept else 'removed'}, {evidence}"

    def evidence(self) -> str:
        decision = self.decision
        if decision.evidence:
            why = (
                "ΔF is the change of the log evidence, in nats, when a structure’s prior is exchanged for one that "
                "keeps its gain next to zero. A structure leaves when ΔF plus the log prior odds of "
                f"{decision.log_prior_odds:g} nat is above 0, that is, when ΔF is above {decision.threshold:g}. "
                "The wider the empty space around the threshold, the less the decision hangs on it."
            )
        else:
            why = (
                f"A structure leaves when its score by {decision.criterion} is above {decision.threshold:g}."
            )
        pooled = [
            (value, name, number, bool(decision.keep[name][number]))
            for name, values in decision.values.items()
            for number, value in enumerate(values.tolist())
            if value == value
        ]
        closest = sorted(pooled, key=lambda entry: abs(entry[0] - decision.threshold))[:_CLOSE_CALLS]
        parts = [f"<p>{escape(why)}</p>"]
        if pooled:
            histogram = figure(plots.plot_evidence(decision), f"{decision.quantity} of every structure")
            widths = figure(plots.plot_widths(decision.keep), "Widths before and after")
            parts.append(f'<div class="grid two">{histogram}{widths}</div>')
            rows = [
                (f"{name} {number}", f"{value:.4g}", "kept" if kept else "removed")
                for value, name, number, kept in closest
            ]
            parts.append("<h3>The closest calls</h3>")
            parts.append(table(["structure", decision.quantity, "decision"], rows))
        return section("Why", *parts)

    def gains(self) -> str:
        _, posteriors, keep = self.trained
        figures = [
            figure(plots.plot_gains(q, keep.indices(name)), f"Gains of {name}")
            for name, q in posteriors.items()
        ]
        parts = [
            "<p>A gain of 1 passes a structure on as it is, a gain near 0 silences it. Point: the posterior mean, "
            "which is folded into the weights of the small network. Line: 90 % of the posterior.</p>",
            _grid(figures[:4]),
        ]
        if figures[4:]:
            more = _grid(figures[4:])
            parts.append(f"<details><summary>{len(figures[4:])} more families</summary>{more}</details>")
        if self.reduced is not None:
            parts += [
                "<p>Three of these posteriors, from the most certain to stay to the nearest to being removed, with "
                "the prior they came from and the reduced prior they were tested against. Both axes are "
                "logarithmic.</p>",
                _grid(self.densities(self.reduced), "three"),
            ]
        return section("What is left, and how certain", *parts)

    def densities(self, reduced: Distribution) -> list[str]:
        """Draw the strongest, the middle and the weakest of the gains by E[θ]."""
        _, posteriors, keep = self.trained
        first = next(iter(posteriors.values()))
        prior = LogUniform(first.low, first.high)
        ranked = sorted(
            (mean, name, place)
            for name, q in posteriors.items()
            for place, mean in enumerate(q.mean.tolist())
        )
        chosen = {"Strongest": ranked[-1], "Middle": ranked[len(ranked) // 2], "Weakest": ranked[0]}
        return [
            figure(
                plots.plot_density(
                    _one(posteriors[name], place), prior, reduced, plots.new_axes(height=2.6, width=3.6)
                ),
                f"{label}: {name} {int(keep.indices(name)[place])}",
            )
            for label, (_, name, place) in chosen.items()
        ]

    def training(self) -> str:
        titles = {
            "elbo": "Evidence lower bound",
            "kl": "Information in the posteriors",
            "accuracy": "Accuracy",
            "rmse": "Root mean square error",
            "structures": "Structures left",
            "seconds": "Time of an epoch",
        }
        scored = [epoch for epoch in self.epochs if epoch.accuracy is not None]
        figures = [
            figure(plots.plot_training(self.epochs, curve), title)
            for curve, title in titles.items()
            if any(plots.CURVES[curve][1](epoch) is not None for epoch in self.epochs)
        ]
        if scored:
            network = NoisyNetwork(self.run.dense(), self.run.example())
            parameters = cost_model(network)
            left = [round(parameters(epoch.structures)) for epoch in scored]
            accuracy = [epoch.accuracy or 0.0 for epoch in scored]
            figures.append(figure(plots.plot_compression(left, accuracy), "Accuracy against size"))
        return section("How it was trained", _grid(figures))

    def trust(self) -> str:
        shown = {name: evaluation_rows(result) for name, result in self.evaluations.items()}
        first = next(iter(self.evaluations.values()))
        columns = list(next(iter(shown.values())))
        rows = [(name, *(row.get(column, "") for column in columns)) for name, row in shown.items()]
        figures = table(["inputs", *columns], rows)
        nll = "NLL is the mean negative log-likelihood in nats; for it, "
        if not isinstance(first, ClassEvaluation):
            note = f"<p>{nll}and the root mean square error in units of the values, less is better.</p>"
            return section("What it predicts", note, figures)
        return section(
            "What its probabilities are worth",
            "<p>A network that is right in 90 % of the cases in which it is 90 % sure lies on the diagonal. "
            f"{nll}the Brier score and the calibration error, less is better.</p>",
            figures,
            _grid([figure(plots.plot_reliability(first), "Reliability")]),
        )

    def repetition(self) -> str:
        versions = self.config.versions
        rows = [(name, str(value)) for name, value in versions.items()]
        settings = [
            (option.name, str(getattr(self.config, option.name)))
            for option in fields(self.config)
            if option.name != "versions"
        ]
        # experiments record no version of torch, and train by recipes of their own
        command = [f"<pre><code>{escape(repeat_command(self.config))}</code></pre>"]
        return section(
            *(["Do it again", *command] if "torch" in versions else ["Configuration"]),
            table(["made with", "version"], rows),
            f"<details><summary>Full configuration</summary>{table(['setting', 'value'], settings)}</details>",
        )


def _one(q: TruncatedLogNormal, place: int) -> TruncatedLogNormal:
    def pick(value: Tensor) -> Tensor:
        return value[place].double()

    return TruncatedLogNormal(pick(q.loc), pick(q.scale), q.low, q.high)


def _grid(figures: list[str], kind: str = "two") -> str:
    return f'<div class="grid {kind}">{"".join(figures)}</div>'


def _fewer(before: int, after: int) -> str:
    return f"−{1 - after / before:.0%}" if after < before else "all kept"
