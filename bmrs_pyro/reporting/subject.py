"""The page's content about a pruned network, from a run or from a path in memory."""

from __future__ import annotations

__all__ = ["Subject"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch.distributions import Distribution

from bmrs_pyro.distributions import LogUniform, TruncatedLogNormal
from bmrs_pyro.metrics import ClassEvaluation, Evaluation
from bmrs_pyro.network import NoisyNetwork, StructureFamily, cost_model
from bmrs_pyro.path import PathPoint
from bmrs_pyro.reduction import Decision
from bmrs_pyro.reporting import plots
from bmrs_pyro.reporting.comparison import NetworkMetrics, change, cost_rows, difference
from bmrs_pyro.reporting.page import Chart, chart
from bmrs_pyro.reporting.path_view import path_content, told
from bmrs_pyro.reporting.tables import evaluation_rows
from bmrs_pyro.reporting.verdicts import BUDGET, OTHER_RULE, closest_calls, family_content
from bmrs_pyro.runs import PathRecord
from bmrs_pyro.training import Epoch, Limits

_CLOSE_CALLS = 8


@dataclass(frozen=True)
class Subject:
    """A pruned network.

    Attributes:
        dense: the network before pruning.
        networks: metrics of ``"dense"`` and ``"small"``.
        decision: the decision about its structures.
        posteriors: posteriors of the gains of the structures that the decision keeps.
        epochs: records of the training.
        reduced: reduced prior of the decision, drawn beside the posteriors; None draws no densities.
        accuracy, rmse: the small network's scores on the validation data; None if unknown.
        path: the record of its path; None for a fit at one KL weight.
        evaluations: evaluations of the small network, by a description; the first one is drawn.
    """

    dense: NoisyNetwork
    networks: Mapping[str, NetworkMetrics]
    decision: Decision
    posteriors: Mapping[str, TruncatedLogNormal]
    epochs: Sequence[Epoch]
    reduced: Distribution | None
    accuracy: float | None
    rmse: float | None
    path: PathRecord | None
    evaluations: Mapping[str, Evaluation]

    @cached_property
    def families(self) -> dict[str, StructureFamily]:
        """The structure families of the dense network, by site name."""
        return {family.name: family for family in self.dense.structures}

    def content(self) -> dict[str, Any]:
        """Return the page's content."""
        decision = self.decision
        dense, small = self.networks["dense"], self.networks["small"]
        closest = [] if decision.joint else closest_calls(decision, self.families, _CLOSE_CALLS)
        families = [family_content(decision, self.families[name]) for name in decision.keep]
        picture = f"{decision.quantity} of every structure"
        return {
            "keep": decision.keep,
            "share": {
                "parameters": small.parameters / dense.parameters,
                "macs": small.macs / max(dense.macs, 1),
            },
            "costs": self.costs(),
            "path": self.path and path_content(self.path, self.chosen),
            "decision": decision,
            "families": families,
            "overruled_by": {row[-1] for family in families for row in family["rows"]} & {BUDGET, OTHER_RULE},
            "by_odds": sum(
                int((odds & ~decision.keep[name]).sum()) for name, odds in decision.by_odds.items()
            ),
            "evidence": (closest or decision.joint) and chart(plots.plot_evidence(decision), picture),
            "closest": closest,
            "gains": self.gains(),
            "densities": self.densities(),
            "training": self.training(),
            **self.predictions(),
        }

    @property
    def chosen(self) -> PathPoint | None:
        """The network's point on the path; None if it has no path or was pruned again later."""
        chosen = None if self.path is None else self.path.chosen
        return chosen if chosen is not None and chosen.size == self.decision.keep.kept else None

    def smaller(self, round_to: int = 1) -> int | None:
        """Return MACs that a smaller network can have, half of the small one's or the least; None if it has the least.

        Args:
            round_to: widths of layers are multiples of this number.
        """
        macs, (least, _) = self.networks["small"].macs, Limits(round_to).least(self.dense)
        return max(macs // 2, least) if macs > least else None

    def costs(self) -> list[tuple[str, str, str, str]]:
        """Return the rows of the cost table: name, dense network, small network, change."""
        keep, whole = self.decision.keep, None if self.path is None else self.path.dense.score
        rows = cost_rows(self.networks["dense"], self.networks["small"])
        rows.append(("structures", f"{keep.total:,}", f"{keep.kept:,}", change(keep.total, keep.kept)))
        scores: list[tuple[str, str, str]] = []
        if self.rmse is not None:
            old = "not known" if whole is None or whole.rmse is None else f"{whole.rmse:.4g}"
            scores.append(("validation RMSE", old, f"{self.rmse:.4g}"))
        if self.accuracy is not None:
            old = "not known" if whole is None or whole.accuracy is None else f"{whole.accuracy:.2%}"
            scores.append(("validation accuracy", old, f"{self.accuracy:.2%}"))
        elif whole is not None and self.chosen is not None:
            old, new = told(whole, bare=True), told(self.chosen.score, bare=True)
            scores.append(("validation log-likelihood", old, new))
        return [*((name, old, new, difference(old, new)) for name, old, new in scores), *rows]

    def gains(self) -> list[Chart]:
        """Draw the posteriors of all gains, by family."""
        found = []
        for name, q in self.posteriors.items():
            one = self.families[name]
            note = f"{len(q.loc)} of {one.size} {one.kind}, {name}"
            found.append(
                chart(plots.plot_gains(q, self.decision.keep.indices(name)), f"Gains of {one.layer}", note)
            )
        return found

    def densities(self) -> list[Chart]:
        """Draw the posterior densities of the gains with the largest, median and smallest E[θ]."""
        if self.reduced is None:
            return []
        first = next(iter(self.posteriors.values()))
        prior = LogUniform(first.low, first.high)
        ranked = sorted(
            (mean, name, place)
            for name, q in self.posteriors.items()
            for place, mean in enumerate(q.mean.tolist())
        )
        chosen = {"Strongest": ranked[-1], "Middle": ranked[len(ranked) // 2], "Weakest": ranked[0]}
        return [
            chart(
                plots.plot_density(_single_posterior(self.posteriors[name], place), prior, self.reduced),
                f"{label}: {self.families[name].label_of(int(self.decision.keep.indices(name)[place]))}",
                name,
            )
            for label, (_, name, place) in chosen.items()
        ]

    def training(self) -> list[Chart]:
        """Draw the curves of the training."""
        of_gains = ("elbo", "kl") if self.path is not None and self.path.of_cuts else ()
        charts = [
            chart(plots.plot_training(self.epochs, curve), title)
            for curve, (title, _, value) in plots.CURVES.items()
            if curve not in of_gains and any(value(epoch) is not None for epoch in self.epochs)
        ]
        scored = [epoch for epoch in self.epochs if epoch.accuracy is not None]
        if scored and self.path is None:  # the path shows it better
            parameters = cost_model(self.dense)
            left = [round(parameters(epoch.structures)) for epoch in scored]
            accuracy = [epoch.accuracy or 0.0 for epoch in scored]
            charts.append(chart(plots.plot_compression(left, accuracy), "Accuracy against size"))
        return charts

    def predictions(self) -> dict[str, Any]:
        """Return a table of the evaluations, and the reliability diagram of the first one."""
        if not self.evaluations:
            return {"evaluations": None, "reliability": None}
        first = next(iter(self.evaluations.values()))
        columns = list(evaluation_rows(first))
        shown = {name: evaluation_rows(result) for name, result in self.evaluations.items()}
        rows = [(name, *(row.get(column, "") for column in columns)) for name, row in shown.items()]
        curve = (
            chart(plots.plot_reliability(first), "Reliability")
            if isinstance(first, ClassEvaluation)
            else None
        )
        return {"evaluations": {"header": ["inputs", *columns], "rows": rows}, "reliability": curve}


def _single_posterior(q: TruncatedLogNormal, place: int) -> TruncatedLogNormal:
    return TruncatedLogNormal(q.loc[place].double(), q.scale[place].double(), q.low, q.high)
