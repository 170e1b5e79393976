"""The two LeNets of Structured Bayesian Pruning on MNIST: error, widths, operations and measured speed."""

from __future__ import annotations

__all__ = ["NETWORKS", "PUBLISHED", "Published", "markdown", "run"]

import copy
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from torch import nn

from bmrs_pyro import data
from bmrs_pyro.experiments.poster import Config
from bmrs_pyro.inference import AutoTruncatedLogNormal, NetworkSource, SupervisedModel, fit
from bmrs_pyro.inference import posteriors as posteriors_of
from bmrs_pyro.network import NoisyNetwork, compact, complexity
from bmrs_pyro.reduction import SignalToNoise, bmrs_n
from bmrs_pyro.reporting import evaluate, latency

NETWORKS = ("lenet_fc", "lenet5_caffe")


class Published(NamedTuple):
    """A row of the SBP paper: what its network came down to, against the dense one."""

    widths: str
    error: float
    flops_ratio: float
    cpu_ratio: float


PUBLISHED: Mapping[str, Published] = {
    "lenet_fc": Published("784-500-300 → 245-160-55", 1.55, 11.23, 2.33),
    "lenet5_caffe": Published("20-50-800-500 → 3-18-284-283", 0.86, 10.49, 5.41),
}


def run(config: Config, *, models: str, data_root: str) -> dict[str, Any]:
    """Make one run.

    Args:
        config: ``network``, ``method`` (``snr`` or ``bmrs-n``), ``kl_weight`` (factor of ``mean``), ``seed``.
        models: folder of the networks' files.
        data_root: folder of the data sets.

    Returns:
        error in percent, structures left, FLOPs ratio and measured CPU speed ratios at batch 1 and 128.
    """
    splits = data.load("mnist", data_root=data_root, seed=config["seed"], validation=1 / 6)
    pyro.set_rng_seed(config["seed"])
    example = torch.zeros(1, *splits.train.input_shape)
    net = NetworkSource(f"{models}/{config['network']}.py").build(splits.train.input_shape, 10)
    dense = copy.deepcopy(net).eval()
    network = NoisyNetwork(net, example)
    model = SupervisedModel(
        network,
        lambda z: dist.Categorical(logits=z),
        len(splits.train),
        kl_weight=("mean", config["kl_weight"]),
    )
    guide = AutoTruncatedLogNormal(model)
    history = fit(
        model,
        guide,
        data.Batches(splits.train, 100, shuffle=True, seed=config["seed"]),
        epochs=config["epochs"],
        fine_tune_epochs=config["fine_tune_epochs"],
        criterion=SignalToNoise() if config["method"] == "snr" else bmrs_n(),
        validation=data.Batches(splits.validation, 1000),
        seed=config["seed"],
        progress=False,
    )
    small = compact(network, {}, {site: q.mean for site, q in posteriors_of(guide).items()}).eval()
    test = evaluate(small, data.Batches(splits.test, 1000), 10)
    images = next(iter(data.Batches(splits.test, 128)))[0]
    flops = complexity(dense, example).macs / complexity(small, example).macs
    return {
        "error": 100 * (1 - test.accuracy),
        "widths": {structure.name: structure.size for structure in network.structures},
        "flops_ratio": flops,
        "cpu_ratio_batch_1": _speed(dense, small, images[:1]),
        "cpu_ratio_batch_128": _speed(dense, small, images),
        "best_epoch": history.best_epoch,
    }


def markdown(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return our rows beside the paper's."""
    lines = [
        "| network | method | KL weight | seed | error % | left | FLOPs | CPU, batch 1 | CPU, batch 128 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {network} | SBP paper | | | {row.error:.2f} | {row.widths} "
        f"| {row.flops_ratio:.2f} × | | {row.cpu_ratio:.2f} × |"
        for network, row in PUBLISHED.items()
    ]
    lines += [
        f"| {row['network']} | {row['method']} | {row['kl_weight']:g} | {row['seed']} | {row['error']:.2f} "
        f"| {'-'.join(map(str, row['widths'].values()))} | {row['flops_ratio']:.2f} × "
        f"| {row['cpu_ratio_batch_1']:.2f} × | {row['cpu_ratio_batch_128']:.2f} × |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def _speed(dense: nn.Module, small: nn.Module, x: torch.Tensor) -> float:
    seconds = latency({"dense": dense, "small": small}, x, repeats=40)
    return seconds["dense"] / seconds["small"]
