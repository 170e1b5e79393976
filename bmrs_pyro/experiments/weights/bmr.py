"""The comparison of Marković, Friston and Kiebel (2023): five ways to fit the weights of three networks."""

from __future__ import annotations

__all__ = ["METHODS", "NETWORKS", "lenet", "run", "step_times"]

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from itertools import cycle, islice
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import nn

from bmrs_pyro.data import Batches, Dataset, load
from bmrs_pyro.experiments.bench.steps import interleaved
from bmrs_pyro.experiments.small_runs import build, evaluated
from bmrs_pyro.inference import MeanFieldELBO
from bmrs_pyro.network import NoisyNetwork, compact, complexity
from bmrs_pyro.training import JointOptim
from bmrs_pyro.weights import (
    AdaBelief,
    Flipout,
    HorseshoeRule,
    MeanField,
    PointEstimate,
    Rule,
    SpikeAndSlab,
    WeightEpoch,
    WeightModel,
    empty_structures,
    fit_weights,
    layer_scale,
    mean_network,
    predictive,
    reduce_,
    regularised_horseshoe,
)
from bmrs_pyro.weights.scales import Scales

NETWORKS = ("mlp", "lenet", "mixer", "vit", "mixer-64x2", "vit-64x2")
"""Where two numbers follow they are width and depth, else these are the model file's."""
_BLOCK = 20  # steps in a row; the methods take turns, so that a slow machine affects all of them


class Method(NamedTuple):
    """One way to fit the weights."""

    scales: Scales
    rule: Rule | None
    point: bool
    rate: float
    """Learning rate of AdaBelief."""


METHODS = {
    "map": Method(layer_scale, None, True, 5e-3),
    "flat": Method(layer_scale, None, False, 5e-3),
    "tiered": Method(regularised_horseshoe, None, False, 5e-3),
    "bmr-spike-and-slab": Method(layer_scale, SpikeAndSlab(), False, 1e-2),
    "bmr-horseshoe": Method(layer_scale, HorseshoeRule(), False, 1e-2),
}


def lenet(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """LeNet with tanh and average pooling: 6-16-120-84 features, 18-48-360-256 for colour images."""
    channels, size = input_shape[0], input_shape[-1]
    a, b, c, d = (6, 16, 120, 84) if channels == 1 else (18, 48, 360, 256)
    return nn.Sequential(
        nn.Conv2d(channels, a, 5, padding=(32 - size) // 2),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Conv2d(a, b, 5),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Conv2d(b, c, 5),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(c, d),
        nn.Tanh(),
        nn.Linear(d, num_classes),
    )


def run(config: Mapping[str, Any], *, device: str = "cpu") -> dict[str, Any]:
    """Fit one network by one method and evaluate it on the test data.

    Args:
        config: ``network``, ``data``, ``data_root``, ``method``, ``seed``, ``epochs``, ``warm_up``, ``steps`` (per
            epoch at most), ``batch`` and ``draws`` (of the posterior, for the evaluation).
        device: where the network is trained.

    Returns:
        accuracy, nll, ece, parameter counts before and after, and the history of the epochs.
    """
    splits = load(config["data"], data_root=config["data_root"], validation=0.1)
    pyro.set_rng_seed(config["seed"])
    method = METHODS[config["method"]]
    model, guide = _program(config["network"], splits.train, method)
    model.to(device)
    guide.to(device)
    train = Batches(splits.train, config["batch"], seed=config["seed"], device=device)
    batches = _Steps(train, config["steps"])
    example = torch.zeros(1, *splits.train.input_shape, device=device)
    dense = complexity(model.net, example)
    with pyro.validation_enabled(False):
        start = _warm_start_(model, guide, batches, config)
        history = fit_weights(
            model,
            guide,
            batches,
            epochs=config["epochs"] - len(start),
            rule=method.rule,
            optim=_optim(model, method),
            elbo=Trace_ELBO() if method.point else None,
            estimator=None if method.point else Flipout(),
            schedule=_late_decay,
            seed=config["seed"],
            progress=False,
        )
        draws = 1 if method.point else config["draws"]
        result = evaluated(predictive(model, guide, draws), splits.test, device=device)
    network = NoisyNetwork(mean_network(model, guide).eval(), example)
    small = compact(network, empty_structures(network))
    size = complexity(small, example)
    return {
        "accuracy": result.accuracy,
        "nll": result.nll,
        "ece": result.ece,
        "weights": model.gain.numel(),
        "active": int((model.gain > 0).sum()),
        "active by layer": {name: mask.float().mean().item() for name, mask in model.active.items()},
        "mean network accuracy": evaluated(small, splits.test, device=device).accuracy,
        "parameters": [dense.parameters, size.parameters],
        "macs": [dense.macs, size.macs],
        "history": [asdict(record) for record in (*start, *history)],
    }


def step_times(
    network: str, train: Dataset, methods: Iterable[str] = METHODS, *, batch: int = 120, rounds: int = 5
) -> dict[str, float]:
    """Return median seconds per step of ``flat`` and other methods, in alternating blocks on one machine.

    The two reducing methods also report, under ``NAME reduction``, the seconds of one reduction.
    """
    batches = list(islice(Batches(train, batch), _BLOCK))
    programs = {name: _program(network, train, METHODS[name]) for name in dict.fromkeys(("flat", *methods))}
    steps = {name: _step(*program, METHODS[name], batches) for name, program in programs.items()}
    medians = interleaved(steps, rounds=rounds, block=_BLOCK)
    for name, (model, guide) in programs.items():
        if (rule := METHODS[name].rule) is not None and isinstance(guide, MeanField):
            start = time.perf_counter()
            with pyro.validation_enabled(False):
                reduce_(model, guide, rule)
            medians[f"{name} reduction"] = time.perf_counter() - start
    return medians


def _step(
    model: WeightModel, guide: MeanField | PointEstimate, method: Method, batches: Sequence[Any]
) -> Callable[[], object]:
    """Return a step of a method on the next of some batches."""
    svi = SVI(model, guide, _optim(model, method), Trace_ELBO() if method.point else MeanFieldELBO())
    rest = cycle(batches)

    def step() -> None:
        with nullcontext() if method.point else Flipout():
            svi.step(*next(rest))

    return step


def _warm_start_(
    model: WeightModel, guide: MeanField | PointEstimate, batches: Iterable[Any], config: Mapping[str, Any]
) -> list[WeightEpoch]:
    """Train to the most probable weights first, and centre the posterior there, which saves many steps."""
    if not config["warm_up"] or isinstance(guide, PointEstimate) or model.scales is not layer_scale:
        return []
    point = PointEstimate(model.draw, init_radius=_radius(config["network"]))
    optim = _optim(model, METHODS["map"])
    history = fit_weights(
        model,
        point,
        batches,
        epochs=config["warm_up"],
        optim=optim,
        elbo=Trace_ELBO(),
        schedule=lambda progress: 1.0,
        seed=config["seed"],
        progress=False,
    )
    guide.loc = point.loc.detach()
    return history


class _Steps:
    """The first batches of every epoch."""

    def __init__(self, batches: Batches, steps: int) -> None:
        self.batches, self.steps = batches, steps

    def set_epoch(self, epoch: int) -> None:
        self.batches.set_epoch(epoch)

    def __iter__(self) -> Any:
        return islice(self.batches, self.steps)


def _program(network: str, train: Dataset, method: Method) -> tuple[WeightModel, MeanField | PointEstimate]:
    net = _build(network, train.input_shape, train.num_classes)
    model = WeightModel(
        net,
        lambda logits: dist.Categorical(logits=logits),
        len(train),
        select=_is_weight,
        scales=method.scales,
    )
    guide = PointEstimate if method.point else MeanField
    return model, guide(model.draw, init_radius=_radius(network))


def _radius(network: str) -> float:
    """Z starts uniform in ± this: the published 2, but for residual streams the usual W of 0.03."""
    return 0.5 if network.startswith(("mixer", "vit")) else 2.0


def _build(network: str, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    if network == "lenet":
        return lenet(input_shape, num_classes)
    for name, file in (("mlp", "bayesian_mlp"), ("mixer", "mlp_mixer")):
        network = file + network.removeprefix(name) if network.startswith(name) else network
    return build(network, input_shape, num_classes)


def _is_weight(name: str) -> bool:
    """Norms, the class token and positions are deterministic: they are no maps that weights could leave."""
    return "norm" not in name and name not in ("token", "position")


def _late_decay(progress: float) -> float:
    """The constant rate of the published runs, but falling in the last fifth, to recover from late pruning."""
    return min(1.0, 5.0 * (1.0 - progress))


def _optim(model: WeightModel, method: Method) -> JointOptim:
    return JointOptim(AdaBelief, {"lr": method.rate}, network=model.net, posterior_lr_factor=1.0)
