"""BMRS_U and floating point: networks pruned by BMRS_U-p, evaluated with mantissas cut to p bits."""

from __future__ import annotations

__all__ = ["BITS", "STUDY", "cut", "page", "run"]

import copy
from dataclasses import replace
from operator import itemgetter
from typing import Any

import torch
from torch import nn

from bmrs_pyro.distributions import LogUniform
from bmrs_pyro.experiments.poster.runs import Trial
from bmrs_pyro.experiments.small_runs import evaluated
from bmrs_pyro.experiments.spread import Rows, table
from bmrs_pyro.experiments.study import Study
from bmrs_pyro.experiments.sweep import Config
from bmrs_pyro.inference import posteriors
from bmrs_pyro.network import compact, complexity
from bmrs_pyro.reduction import bmrs_u, select

BITS = (1, 2, 3, 4, 6, 8, 12)


@torch.no_grad()
def cut(net: nn.Module, bits: int) -> nn.Module:
    """Return a copy whose float32 parameters keep the first bits of their mantissas' 23; the others become 0."""
    net = copy.deepcopy(net)
    for parameter in net.parameters():
        parameter.copy_((parameter.view(torch.int32) & -(1 << (23 - bits))).view(torch.float32))
    return net


def run(config: Config, *, data_root: str) -> dict[str, Any]:
    """Train one network with gains, prune it by BMRS_U-p for every p, and cut what is left to p bits.

    Args:
        config: ``network``, ``dataset``, ``kl_weight`` (a factor), ``epochs`` (none prunes), ``seed``, for the poster's
            protocol ``ours``.
        data_root: folder of the data sets.

    Returns:
        the test accuracy in percent with all structures, and ``points``, by bits: compression, accuracy, that of the
        cut networks, pruned and with all structures.
    """
    trial = Trial({**config, "method": "bmrs-u", "protocol": "ours"}, data_root=data_root)
    trial.recipe = replace(trial.recipe, epochs=config["epochs"], fine_tune_epochs=0)
    whole = trial.fit(None, validate=False).network
    found = posteriors(trial.guide)
    first = next(iter(found.values()))

    def accuracy(net: nn.Module) -> float:
        return 100 * evaluated(net, trial.splits.test).accuracy

    points = []
    for bits in BITS:
        keep = select(found, LogUniform(first.low, first.high), bmrs_u(bits))
        small = compact(trial.model.network, keep, {name: q.mean for name, q in found.items()})
        points.append(
            {
                "bits": bits,
                "compression": 100 * (1 - complexity(small, trial.example).parameters / trial.parameters),
                "accuracy": accuracy(small),
                "cut": accuracy(cut(small, bits)),
                "whole_cut": accuracy(cut(whole, bits)),
            }
        )
    return {"accuracy": accuracy(whole), "points": points, "seconds": trial.seconds}


def page(rows: Rows) -> str:
    """Return the page in Markdown."""
    lines = [{**row, "whole": row["accuracy"], **point} for row in rows for point in row["points"]]
    columns = ("compression", "accuracy", "cut", "whole", "whole_cut")
    titles = ("parameters removed %", "accuracy %", "cut to p bits", "all structures", "all, cut to p bits")
    return _HEAD + table(
        lines,
        (*STUDY.keys, "bits"),
        {title: itemgetter(key) for key, title in zip(columns, titles, strict=True)},
    )


_HEAD = """# BMRS_U and floating point

Made by `bmrs reproduce precision --data-root DATA --out docs/results`; [precision.json](precision.json) has one object
per run. A network is trained with gains by the poster's protocol `ours` (fewer epochs, nothing pruned). Then BMRS_U-p
prunes that posterior: it asks whether a gain may lie below 2⁻ᵖ, where it is lost beside 1 in a number with p bits of
mantissa. What is left is evaluated with the last 23 − p bits of every parameter set to 0, the gains being in the
weights; activations stay float32. Nothing is trained on after pruning or cutting.

"""

STUDY = Study("precision", ("network", "dataset", "kl_weight", "epochs", "seed"), page)
