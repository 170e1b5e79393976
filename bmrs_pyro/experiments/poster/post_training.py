"""All criteria applied to one posterior, without further training: curves, stopping points, rank correlations.

Structures of all families are removed in the order of their scores, and each family keeps at least one. The curves
show validation accuracy; test data are used at the marked points only.
"""

from __future__ import annotations

__all__ = [
    "BITS",
    "CRITERIA",
    "LOST",
    "ODDS",
    "Order",
    "criteria_applied",
    "evidence",
    "pooled_scores",
    "read",
    "spearman",
]

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from bmrs_pyro import data
from bmrs_pyro.distributions import LogUniform, TruncatedLogNormal
from bmrs_pyro.experiments.poster.runs import PROTOCOLS, Protocol, continuous_criterion
from bmrs_pyro.experiments.poster.shared_posterior import posterior_directory
from bmrs_pyro.experiments.small_runs import evaluated
from bmrs_pyro.experiments.sweep import Config
from bmrs_pyro.network import NoisyNetwork, compact, complexity, producer_norms
from bmrs_pyro.reduction import Criterion, ModelReduction, bmrs_u, score_structures, spike

ODDS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Log prior odds of BMRS_N that are compared, nats; decisions that change are counted relative to odds of 1."""
BITS = tuple(range(2, 17))
"""Bits of BMRS_U that are compared; decisions that change are counted relative to 8 bits."""


def evidence(
    posteriors: Mapping[str, TruncatedLogNormal], prior: LogUniform, margin: float
) -> dict[str, Any]:
    """Return ΔF of BMRS_N, and the numbers of removals and of changed decisions at other margins and bits.

    Returns:
        ``margin``; ``delta_f``, six digits, one value per structure; ``odds`` and ``bits``, one record per value with
        the structures ``removed`` and ``changed``.
    """

    def scores(criterion: Criterion) -> Tensor:
        return torch.cat(list(score_structures(posteriors, prior, criterion).values()))

    delta_f = scores(ModelReduction(spike))
    return {
        "margin": margin,
        "delta_f": [float(f"{value:.6g}") for value in delta_f.tolist()],
        "odds": _decisions(((odds, delta_f + odds > 0) for odds in ODDS), 1.0),
        "bits": _decisions(((bits, scores(bmrs_u(bits)) > 0) for bits in BITS), 8),
    }


def _decisions(removals: Iterable[tuple[float, Tensor]], reference: float) -> list[dict[str, float]]:
    by_value = dict(removals)
    return [
        {
            "value": value,
            "removed": int(removed.sum()),
            "changed": int((removed != by_value[reference]).sum()),
        }
        for value, removed in by_value.items()
    ]


CRITERIA = ("l2", "expected", "snr", "bmrs-n", "bmrs-u-8", "bmrs-u-4")
LOST = 1.0
"""The best point of a curve is the smallest network that loses no more validation accuracy than this, in percent."""

_STEPS = 32
_BATCH = 250  # small enough that a layer's activations stay in the cache


@dataclass(frozen=True)
class Order:
    """The order in which structures are removed.

    Attributes:
        ranking: positions among all structures, in the order of removal; a family's last one is never removed.
        stop: number removed by the criterion's own rule, 0 if it has none.
        sizes: number of structures of every family.
    """

    ranking: Tensor
    stop: int
    sizes: Mapping[str, int]

    @classmethod
    def by(cls, scores: Tensor, sizes: Mapping[str, int]) -> Order:
        """Order structures by their scores, ``(S,)`` over all families; above 0 means remove."""
        leaves = torch.ones(len(scores), dtype=torch.bool)
        start = 0
        for size in sizes.values():
            leaves[start + int(scores[start : start + size].argmin())] = False
            start += size
        ranking = scores.argsort(descending=True, stable=True)
        ranking = ranking[leaves[ranking]]
        return cls(ranking, int((scores[ranking] > 0).sum()), sizes)

    def keep(self, removed: int) -> dict[str, Tensor]:
        """Return the masks ``(C,)`` by family after this number of removals."""
        mask = torch.ones(sum(self.sizes.values()), dtype=torch.bool)
        mask[self.ranking[:removed]] = False
        return dict(zip(self.sizes, mask.split(list(self.sizes.values())), strict=True))


@torch.no_grad()
def pooled_scores(
    network: NoisyNetwork, posteriors: Mapping[str, TruncatedLogNormal], prior: LogUniform, protocol: Protocol
) -> dict[str, Tensor]:
    """Return the scores ``(S,)`` of all structures by criterion; structures with higher scores are removed earlier.

    Above 0 means remove. Only ``l2`` (minus the norm) and ``expected`` (minus E[θ]) have no threshold.
    """
    found = {
        "l2": {name: -norm for name, norm in producer_norms(network).items()},
        "expected": {name: -q.mean for name, q in posteriors.items()},
    }
    for name in CRITERIA[2:]:
        criterion = continuous_criterion(name, protocol)
        assert criterion is not None
        found[name] = score_structures(posteriors, prior, criterion)
    return {
        name: torch.cat([families[family].double() for family in posteriors])
        for name, families in found.items()
    }


def spearman(scores: Mapping[str, Tensor]) -> dict[str, float]:
    """Return Spearman's rank correlation of every pair of criteria, by ``first~second``."""
    ranked = pd.DataFrame({name: values.numpy() for name, values in scores.items()}).corr("spearman")
    return {
        f"{one}~{other}": float(ranked.at[one, other]) for one, other in itertools.combinations(scores, 2)
    }


def read(config: Config, *, data_root: str, cache: str) -> dict[str, Any]:
    """Apply all criteria to a finished posterior.

    Args:
        config: ``network``, ``dataset``, ``protocol``, ``kl_weight`` and ``seed`` of a run of method ``posterior``.
        data_root: folder of the data sets.
        cache: folder of the posterior.

    Returns:
        the curve of every criterion with its marked points, rank correlations, ΔF and the decisions' sensitivity.
    """
    directory = posterior_directory(config, cache)
    network, posteriors, _ = directory.network()
    splits = data.load(
        config["dataset"], data_root=data_root, size=directory.config.data.size, seed=config["seed"]
    )
    return criteria_applied(network, posteriors, PROTOCOLS[config["protocol"]], splits)


def criteria_applied(
    network: NoisyNetwork,
    posteriors: Mapping[str, TruncatedLogNormal],
    protocol: Protocol,
    splits: data.Splits[data.Dataset],
) -> dict[str, Any]:
    """Apply all criteria to a posterior; test data are read at the marked points only.

    Returns:
        the curve of every criterion with its marked points, rank correlations, ΔF and the decisions' sensitivity.
    """
    first = next(iter(posteriors.values()))
    prior = LogUniform(first.low, first.high)
    scores = pooled_scores(network, posteriors, prior, protocol)
    sizes = {family: len(q.loc) for family, q in posteriors.items()}
    orders = {name: Order.by(values, sizes) for name, values in scores.items()}
    reader = _Reader(network, {name: q.mean for name, q in posteriors.items()}, splits)
    unpruned = reader.point(orders["bmrs-n"], 0, test=True)
    curves = {}
    for name, order in orders.items():
        # these two have no rule of their own and remove as many as BMRS_N, as published
        stop = orders["bmrs-n"].stop if name in ("l2", "expected") else order.stop
        curves[name] = reader.curve(order, stop, unpruned["validation_accuracy"] - LOST)
    return {
        "unpruned": unpruned,
        "curves": curves,
        "spearman": spearman(scores),
        **evidence(posteriors, prior, protocol.margin[0]),
    }


class _Reader:
    """Evaluates a network after structures are removed."""

    def __init__(
        self, network: NoisyNetwork, gains: Mapping[str, Tensor], splits: data.Splits[data.Dataset]
    ) -> None:
        self.network, self.gains, self.splits = network, gains, splits
        self.parameters = complexity(network).parameters
        self.known: dict[bytes, float] = {}

    def point(self, order: Order, removed: int, *, test: bool = False) -> dict[str, float]:
        """Return compression and validation accuracy in percent, and test accuracy if requested."""
        keep = order.keep(removed)
        small = compact(self.network, keep, self.gains)
        left = sum(parameter.numel() for parameter in small.parameters())
        mask = torch.cat(list(keep.values())).numpy().tobytes()
        if mask not in self.known:  # criteria often agree
            self.known[mask] = 100 * evaluated(small, self.splits.validation, _BATCH).accuracy
        point = {
            "removed": removed,
            "compression": 100 * (1 - left / self.parameters),
            "validation_accuracy": self.known[mask],
        }
        if test:
            point["accuracy"] = 100 * evaluated(small, self.splits.test, _BATCH).accuracy
        return point

    def curve(self, order: Order, stop: int, enough: float) -> dict[str, Any]:
        """Return the points from no removal to all removals, the point where the rule stops, and the best point."""
        total = len(order.ranking)
        counts = sorted({round(total * step / _STEPS) for step in range(_STEPS + 1)})
        points = [self.point(order, count) for count in counts]
        best = max(i for i, point in enumerate(points) if point["validation_accuracy"] >= enough)
        low, high = counts[best], counts[min(best + 1, len(counts) - 1)]
        while high - low > 1:
            middle = (low + high) // 2
            good = self.point(order, middle)["validation_accuracy"] >= enough
            low, high = (middle, high) if good else (low, middle)
        return {
            **{key: [point[key] for point in points] for key in points[0]},
            "stop": self.point(order, stop, test=True),
            "best": self.point(order, low, test=True),
        }
