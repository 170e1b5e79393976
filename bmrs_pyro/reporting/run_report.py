"""A run as one page that a person enjoys reading, and can check."""

from __future__ import annotations

__all__ = ["html_report", "repeat_command"]

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.distributions import Distribution

from bmrs_pyro.distributions import LogUniform, TruncatedLogNormal
from bmrs_pyro.metrics import ClassEvaluation, Evaluation
from bmrs_pyro.network import NoisyNetwork, StructureFamily, cost_model
from bmrs_pyro.reduction import Decision, KeepMask
from bmrs_pyro.reporting import plots
from bmrs_pyro.reporting.comparison import NetworkMetrics, change, compare_networks, cost_rows, difference
from bmrs_pyro.reporting.page import Chart, chart, render
from bmrs_pyro.reporting.path_view import path_content
from bmrs_pyro.reporting.tables import evaluation_rows
from bmrs_pyro.reporting.verdicts import OTHER_RULE, closest_calls, family_content
from bmrs_pyro.runs import NetworkSource, RunConfig, RunDirectory
from bmrs_pyro.training import Path as PruningPath
from bmrs_pyro.training import PathPoint

_CLOSE_CALLS = 8
_CURVES = {
    "elbo": "Evidence lower bound",
    "kl": "Information in the posteriors",
    "accuracy": "Accuracy",
    "rmse": "Root mean square error",
    "structures": "Structures left",
    "seconds": "Time of an epoch",
}


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
    networks: Mapping[str, NetworkMetrics] | None = None,
    path: PruningPath | None = None,
    chosen: PathPoint | None = None,
) -> str:
    """Return a self-contained page about a finished run.

    Args:
        run: the run.
        evaluations: of the small network, by a description such as ``"test data"``; the first is drawn.
        reduced: reduced prior of the decision, which posteriors are drawn against; None leaves them out.
        networks: what ``"dense"`` and ``"small"`` predict and cost, as :func:`compare_run` measures it; None leaves out
            what must be measured.
        path: the path that the run came along; None for a run at one KL weight.
        chosen: the point taken from it, as it is after its refit.

    Raises:
        RunError: the run is not finished or a file is damaged.
    """
    return render("report.html", **_Report(run, evaluations or {}, reduced, networks, path, chosen).content())


@dataclass(frozen=True)
class _Report:
    run: RunDirectory
    evaluations: Mapping[str, Evaluation]
    reduced: Distribution | None
    measured: Mapping[str, NetworkMetrics] | None
    path: PruningPath | None
    chosen: PathPoint | None

    @cached_property
    def config(self) -> RunConfig:
        return self.run.config

    @cached_property
    def decision(self) -> Decision:
        return self.run.decision()

    @cached_property
    def trained(self) -> tuple[NoisyNetwork, dict[str, TruncatedLogNormal], KeepMask]:
        return self.run.network()

    @cached_property
    def dense(self) -> NoisyNetwork:
        return NoisyNetwork(self.run.dense(), self.run.example())

    @cached_property
    def families(self) -> dict[str, StructureFamily]:
        return {family.name: family for family in self.dense.structures}

    @cached_property
    def networks(self) -> Mapping[str, NetworkMetrics]:
        if self.measured is not None:
            return self.measured
        nets, example = {"dense": self.run.dense(), "small": self.run.small()}, self.run.example()
        return compare_networks(nets, [(example, example)], untrained=nets, batch_sizes=())

    @property
    def dense_is_trained(self) -> bool:
        return self.config.weights is not None or self.networks["dense"].evaluation is not None

    def content(self) -> dict[str, Any]:
        config, decision = self.config, self.decision
        dense, small = self.networks["dense"], self.networks["small"]
        # experiments record no version of torch, and train by recipes of their own
        repeat = repeat_command(config) if "torch" in config.versions else None
        data = Path(config.data.data).name.removesuffix(".npz")
        first = next(iter(self.evaluations.values()), None)
        closest = closest_calls(decision, self.families, _CLOSE_CALLS)
        families = [family_content(decision, self.families[name]) for name in decision.keep]
        return {
            "title": f"{NetworkSource(config.model).name} on {data}",
            "run": self.run.path.resolve().name,
            "keep": decision.keep,
            "share": {
                "parameters": small.parameters / dense.parameters,
                "macs": small.macs / max(dense.macs, 1),
            },
            "costs": self.costs(),
            "cost_note": self.cost_note(),
            "next_steps": self.next_steps(),
            "path": self.path and path_content(self.path, self.chosen),
            "decision": decision,
            "families": families,
            "other_rule": any(row[-1] == OTHER_RULE for family in families for row in family["rows"]),
            "by_odds": sum(
                int((odds & ~decision.keep[name]).sum()) for name, odds in decision.by_odds.items()
            ),
            "evidence": closest
            and chart(plots.plot_evidence(decision), f"{decision.quantity} of every structure"),
            "closest": closest,
            "gains": self.gains(),
            "densities": self.densities(),
            "training": self.training(),
            "evaluations": self.predictions(),
            "reliability": chart(plots.plot_reliability(first), "Reliability")
            if isinstance(first, ClassEvaluation)
            else None,
            "repeat": repeat,
            "versions": list(config.versions.items()),
            "settings": [
                (name, str(value))
                for name, value in {**vars(config), **config.options()}.items()
                if name not in ("recipe", "versions")
            ],
        }

    def costs(self) -> list[tuple[str, str, str, str]]:
        keep, accuracy = self.decision.keep, self.run.validation_accuracy()
        rows = cost_rows(self.networks["dense"], self.networks["small"])
        rows.append(("structures", f"{keep.total:,}", f"{keep.kept:,}", change(keep.total, keep.kept)))
        if accuracy is not None:
            whole = None if self.path is None else self.path.dense.score.accuracy
            old, value = "not known" if whole is None else f"{whole:.2%}", f"{accuracy:.2%}"
            rows.insert(0, ("validation accuracy", old, value, difference(old, value)))
        return rows

    def cost_note(self) -> str:
        note = ""
        if self.path is not None:
            note = "The accuracy of the dense network is that of its own training, on the validation data. "
        elif not self.dense_is_trained:
            note = (
                "The run has no trained weights of the dense network, so what pruning cost in accuracy is not known. "
                "Compare with trained weights (the command is on this page), or start a run from some. "
            )
        if self.networks["small"].seconds:
            note += "Latencies are medians for one batch, on the machine that made this page."
        return note

    def next_steps(self) -> list[tuple[str, str]]:
        """Return commands to copy, each with what it does."""
        trust = " --trust-source" if self.run.trust_source else ""
        run = shlex.quote(str(self.run.path)) + trust
        if self.path is not None:
            another = ("Take another network of the same path:", f"bmrs choose {run} --max-macs 30%")
        else:
            budget = max(self.networks["small"].macs // 2, 1)
            another = (
                "Remove more from the same posteriors, here to half the MACs:",
                f"bmrs prune {run} --max-macs {budget}",
            )
        weights = "" if self.dense_is_trained else " --weights DENSE.safetensors"
        return [
            another,
            ("Compare both networks on the test data:", f"bmrs compare {run}{weights}"),
            ("Ship the small one:", f"bmrs export {run} --format onnx"),
        ]

    def gains(self) -> list[Chart]:
        _, posteriors, keep = self.trained
        found = []
        for name, q in posteriors.items():
            one = self.families[name]
            note = f"{len(q.loc)} of {one.size} {one.kind}, {name}"
            found.append(chart(plots.plot_gains(q, keep.indices(name)), f"Gains of {one.layer}", note))
        return found

    def densities(self) -> list[Chart]:
        """Draw the strongest, the middle and the weakest of the gains by E[θ]."""
        if self.reduced is None:
            return []
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
            chart(
                plots.plot_density(_one(posteriors[name], place), prior, self.reduced),
                f"{label}: {self.families[name].label_of(int(keep.indices(name)[place]))}",
                name,
            )
            for label, (_, name, place) in chosen.items()
        ]

    def training(self) -> list[Chart]:
        epochs = self.run.metrics()
        charts = [
            chart(plots.plot_training(epochs, curve), title)
            for curve, title in _CURVES.items()
            if any(plots.CURVES[curve][1](epoch) is not None for epoch in epochs)
        ]
        scored = [epoch for epoch in epochs if epoch.accuracy is not None]
        if scored:
            parameters = cost_model(self.dense)
            left = [round(parameters(epoch.structures)) for epoch in scored]
            accuracy = [epoch.accuracy or 0.0 for epoch in scored]
            charts.append(chart(plots.plot_compression(left, accuracy), "Accuracy against size"))
        return charts

    def predictions(self) -> dict[str, Any] | None:
        shown = {name: evaluation_rows(result) for name, result in self.evaluations.items()}
        if not shown:
            return None
        columns = list(next(iter(shown.values())))
        rows = [(name, *(row.get(column, "") for column in columns)) for name, row in shown.items()]
        return {"header": ["inputs", *columns], "rows": rows}


def _one(q: TruncatedLogNormal, place: int) -> TruncatedLogNormal:
    def pick(value: Tensor) -> Tensor:
        return value[place].double()

    return TruncatedLogNormal(pick(q.loc), pick(q.scale), q.low, q.high)
