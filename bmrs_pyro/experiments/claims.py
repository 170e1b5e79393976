"""Every claim of the sources in one table, with our number beside it, read from the files of results."""

from __future__ import annotations

__all__ = ["FILES", "Claim", "claims", "page"]

import itertools
from collections.abc import Iterator, Mapping
from statistics import mean
from typing import NamedTuple

from bmrs_pyro.experiments.poster.larger import NETWORKS as LARGER
from bmrs_pyro.experiments.poster.post_training import LOST
from bmrs_pyro.experiments.poster.post_training_summary import PUBLISHED_SPEARMAN
from bmrs_pyro.experiments.poster.runs import DATASETS, METHODS, NETWORKS
from bmrs_pyro.experiments.poster.summary import fronts, judged, published
from bmrs_pyro.experiments.sbp.lenets import PUBLISHED, RECIPE, verdict
from bmrs_pyro.experiments.spread import Rows, grouped, markdown_table, spread, where

FILES = ("poster", "curves", "larger", "precision", "sbp", "random-labels", "vgg", "bmr", "both")
"""Files of results that the table is made of, without their ending."""

_TIME = "not run: no time on two cores yet"


class Claim(NamedTuple):
    """A line of the table."""

    source: str
    claim: str
    theirs: str
    ours: str
    seeds: int
    command: str
    verdict: str


def claims(results: Mapping[str, Rows]) -> list[Claim]:
    """Return all claims, given the runs by the name of their file; what is missing was not run."""
    parts = (_poster, _spearman, _precision, _larger, _sbp, _random_labels, _vgg, _weights, _both)
    return [claim for part in parts for claim in part(results)]


def page(results: Mapping[str, Rows]) -> str:
    """Return the page in Markdown; for arguments see :func:`claims`."""
    found = claims(results)
    words = [claim.verdict.split(":")[0] for claim in found]
    counts = ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words))
    table = markdown_table(
        "| source | claim | theirs | ours | seeds | command | |", (map(str, claim) for claim in found)
    )
    return f"{_HEAD}{len(found)} claims: {counts}.\n\n{table}"


def _poster(results: Mapping[str, Rows]) -> Iterator[Claim]:
    for protocol in ("ours", "published"):
        points = fronts(results.get("poster", ()), protocol)
        for cell in itertools.product(NETWORKS, DATASETS, METHODS):
            found, theirs = judged(points.get(cell, ()), published(cell)), published(cell)
            yield Claim(
                "BMRS",
                f"{', '.join(cell)}, protocol `{protocol}`: compression / accuracy %",
                f"{theirs[0]:.2f} / {theirs[1]:.2f}",
                str(found.point or ""),
                found.point.seeds if found.point else 0,
                f"poster --protocol {protocol}",
                found.word if found.point else _TIME,
            )


def _spearman(results: Mapping[str, Rows]) -> Iterator[Claim]:
    rows = results.get("curves", ())
    for pair, theirs in PUBLISHED_SPEARMAN.items():
        values = [row["spearman"][pair] for row in rows]
        near = bool(values) and abs(mean(values) - theirs) <= 0.1
        yield Claim(
            "BMRS",
            f"rank correlation of {pair.replace('~', ' and ')}, all cells",
            f"{theirs:.2f}",
            spread(values) if values else "",
            len({row["seed"] for row in rows}),
            "curves",
            _TIME if not values else "equal: within 0.1" if near else "differs: see curves.md",
        )


def _precision(results: Mapping[str, Rows]) -> Iterator[Claim]:
    rows = results.get("precision", ())
    points = [point for row in rows for point in row["points"]]
    losses = [point["accuracy"] - point["cut"] for point in points if point["bits"] >= 4]
    yield Claim(
        "BMRS",
        "BMRS_U-p removes what p bits of mantissa do not show: points of accuracy lost by cutting to p bits, p ≥ 4",
        "no number",
        f"{mean(losses):.2f}, at most {max(losses):.2f}" if losses else "",
        len({row["seed"] for row in rows}),
        "precision",
        _TIME if not losses else "equal" if max(losses) <= 0.5 else "worse: more than 0.5 points",
    )


def _larger(results: Mapping[str, Rows]) -> Iterator[Claim]:
    """Say what BMRS_N removes from a larger network at the KL weight with the best validation accuracy."""
    for network, name in zip(LARGER, ("ResNet", "small ViT"), strict=True):
        rows = where(results.get("larger", ()), network=network)
        dense = [row["accuracy"] for row in where(rows, method="none")]
        by_weight = grouped(where(rows, method="bmrs-n"), ("kl_weight",)).values()
        best = max(by_weight, key=lambda group: mean(row["validation_accuracy"] for row in group), default=[])
        ours, word = "", _TIME
        if best and dense:
            lost = mean(dense) - mean(row["accuracy"] for row in best)
            removed = spread(row["compression"] for row in best)
            ours = f"{removed} / {spread(row['accuracy'] for row in best)}; without gains {spread(dense)}"
            word = "equal" if lost <= LOST else f"worse: {lost:.1f} points below the network without gains"
        yield Claim(
            "BMRS",
            f"{name} on CIFAR-10, pruned during and after training by all methods: BMRS_N's compression / accuracy %",
            "curves",
            ours,
            len(best),
            "larger",
            word,
        )


def _sbp(results: Mapping[str, Rows]) -> Iterator[Claim]:
    for network, paper in PUBLISHED.items():
        mine = where(results.get("sbp", ()), network=network)
        group = max(grouped(mine, RECIPE).values(), key=len, default=[])
        word = verdict(group, paper) if group else _TIME
        yield Claim(
            "SBP",
            f"{network} on MNIST: error %, FLOPs ratio, CPU ratio",
            f"{paper.error:.2f}, {paper.flops_ratio:.2f}, {paper.cpu_ratio:.2f}",
            ", ".join(
                spread(row[key] for row in group) for key in ("error", "flops_ratio", "cpu_ratio_batch_128")
            )
            if group
            else "",
            len(group),
            "sbp",
            f"worse: {word}" if word.startswith("misses") else word,
        )


def _random_labels(results: Mapping[str, Rows]) -> Iterator[Claim]:
    for network in PUBLISHED:
        rows = where(results.get("random-labels", ()), network=network, labels="random")
        dropout = [row["training_error"] for row in where(rows, method="dropout")]
        left = [100 * row["structures"][1] / row["structures"][0] for row in rows if "structures" in row]
        holds = bool(dropout and left) and mean(dropout) < 45 and max(left) <= 5
        yield Claim(
            "SBP",
            f"random labels, {network}: binary dropout's training error %, structures left %",
            "fits them, removes everything",
            f"{spread(dropout)}, at most {max(left):.2f}" if dropout and left else "",
            len(dropout),
            "random-labels",
            "equal" if holds else "worse" if dropout and left else _TIME,
        )


def _vgg(results: Mapping[str, Rows]) -> Iterator[Claim]:
    """Compare with the dense network of as many epochs; equal is at most half a point more error."""
    for method in ("snr", "bmrs-n"):
        rows = [row for row in where(results.get("vgg", ()), width=64) if row["epochs"] > 1]
        dense = [row["error"] for row in where(rows, method="dense")]
        mine = where(rows, method=method)
        numbers = [spread(row[key] for row in mine) for key in ("error", "flops_ratio") if mine]
        ready = bool(mine and dense)
        near = ready and mean(row["error"] for row in mine) <= mean(dense) + 0.5
        yield Claim(
            "SBP",
            f"VGG-like network on CIFAR-10, full width, {method}: error %, FLOPs ratio (dense error %)",
            "near the dense error, fewer FLOPs",
            f"{', '.join(numbers)} ({spread(dense)})" if ready else "",
            len(mine),
            "vgg",
            _TIME if not ready else "equal" if near and min(r["flops_ratio"] for r in mine) > 1 else "worse",
        )


def _weights(results: Mapping[str, Rows]) -> Iterator[Claim]:
    records = results.get("bmr", ())
    for network, name in itertools.product(("lenet", "mlp", "mixer", "vit"), ("fashion_mnist", "cifar10")):
        found = [row for row in records if row["network"].split("-")[0] == network and row["data"] == name]
        methods = found[-1]["results"] if found else {}
        size = found[-1]["network"] if found else network
        flat = methods.get("flat", ())
        for method in ("bmr-spike-and-slab", "bmr-horseshoe"):
            mine = methods.get(method, ())
            pruned = [100 * (1 - row["active"] / row["weights"]) for row in mine]
            ready = bool(mine and flat)
            gain = (
                100 * (mean(r["accuracy"] for r in mine) - mean(r["accuracy"] for r in flat)) if ready else 0
            )
            yield Claim(
                "BMR",
                f"{size} on {name}, {method}: weights pruned %, points above flat",
                "most, about 0",
                f"{spread(pruned)}, {gain:+.2f}" if ready else "",
                len(mine),
                "bmr",
                _TIME if not ready else "equal" if min(pruned) >= 60 and gain >= -0.5 else "worse",
            )


def _both(results: Mapping[str, Rows]) -> Iterator[Claim]:
    rows = results.get("both", ())
    for network in dict.fromkeys(row["network"] for row in rows):
        mine = {
            method: where(rows, network=network, method=method)
            for method in ("structures", "weights", "both")
        }
        removed = {
            method: 100 * (1 - mean(row["nonzero"] / row["parameters"][0] for row in group))
            for method, group in mine.items()
            if group
        }
        said = (f"{method} {value:.2f}" for method, value in removed.items())
        accuracy = {method: mean(row["accuracy"] for row in group) for method, group in mine.items() if group}
        best = (
            len(removed) == 3
            and removed["both"] >= max(removed.values())
            and accuracy["both"] >= min(accuracy.values())
        )
        yield Claim(
            "both together",
            f"{network}, structures first and weights second: parameters removed % (accuracy %)",
            "none made",
            ", ".join(f"{text} ({value:.2f})" for text, value in zip(said, accuracy.values(), strict=True)),
            len(mine["both"]),
            "both",
            "better" if best else "worse",
        )


_HEAD = """# The sources' claims, and what we measured

Made by `bmrs reproduce index --results docs/results` from the files of runs beside this page; commands are those of
`bmrs reproduce`. Sources: **BMRS** (Wright, Igel, Selvan, NeurIPS 2024; numbers of its poster), **SBP** (Neklyudov,
Molchanov, Ashukha, Vetrov, NIPS 2017), **BMR** (Marković, Friston, Kiebel, 2023). Numbers are means ± standard
deviations over seeds. *equal* says that a claim without numbers holds here, or that a number is within 0.1 of theirs.

"""
