"""The benchmark suite: what noise costs a step, what pruning saves, how fast decisions and removal are."""

from __future__ import annotations

__all__ = ["SECTIONS", "Setting"]

import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import pyro
import torch
from torch import Tensor, nn
from torchvision import models

from bmrs_pyro import data
from bmrs_pyro.distributions import LogUniform, TruncatedLogNormal
from bmrs_pyro.experiments.bench.setting import Record, Setting, model_of, repeated, timed
from bmrs_pyro.experiments.bench.start import path, start
from bmrs_pyro.experiments.bench.steps import interleaved, peak_step_bytes, plain_step, svi_step
from bmrs_pyro.experiments.bench.stock import stock
from bmrs_pyro.experiments.small_runs import noisy_model
from bmrs_pyro.inference import AutoTruncatedLogNormal
from bmrs_pyro.metrics import latency
from bmrs_pyro.network import NoisyNetwork, compact, complexity, find_structures
from bmrs_pyro.reduction import bmrs_n, delta_f, low_precision, spike
from bmrs_pyro.training import fit


def steps(setting: Setting) -> Record:
    """(a) One SVI step against the same network's plain step: time and memory, at several batch sizes.

    On a GPU the step is also replayed from CUDA graphs.
    """
    cases: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], tuple[int, ...], int]] = {
        # network, input shape, batch sizes, steps per block
        "MLP, MNIST": (model_of("mlp", (1, 28, 28)), (1, 28, 28), (64, 128, 256), 20),
        "LeNet5, MNIST": (model_of("lenet5", (1, 32, 32)), (1, 32, 32), (64, 256), 20),
        "LeNet5, CIFAR-10": (model_of("lenet5", (3, 32, 32)), (3, 32, 32), (64, 256), 10),
        "ResNet-18, 32 px": (_torchvision("resnet18"), (3, 32, 32), (16, 64), 2),
        "ResNet-18, 64 px": (_torchvision("resnet18"), (3, 64, 64), (16, 64), 1),
        "ResNet-50, 64 px": (_torchvision("resnet50"), (3, 64, 64), (8, 16), 1),
        "ViT-small, 32 px": (model_of("vit", (3, 32, 32)), (3, 32, 32), (16, 64), 1),
    }
    record = {}
    for name, (make, shape, batches, block) in cases.items():
        for batch in batches:
            x, y = setting.examples(batch, shape)
            pair = {
                "plain": plain_step(setting.at(make()), x, y),
                "svi": svi_step(setting.at(make()), x, y),
            }
            memory = {kind: peak_step_bytes(step) for kind, step in pair.items()}
            if setting.on_gpu:
                pair["recorded"] = svi_step(setting.at(make()), x, y, recorded=True)
            seconds = interleaved(pair, rounds=setting.rounds, block=block)
            record[f"{name}, batch {batch}"] = {
                "plain_seconds": seconds["plain"],
                "ratio": seconds["svi"] / seconds["plain"],
                "memory_ratio": memory["svi"] / memory["plain"],
            }
            if setting.on_gpu:
                record[f"{name}, batch {batch}"]["recorded_ratio"] = seconds["recorded"] / seconds["plain"]
    return record


def compiled(setting: Setting) -> Record:
    """(a) LeNet5's step, compiled and on a GPU recorded, against the plain step, eager and compiled."""
    record = {}
    for name, channels in (("MNIST", 1), ("CIFAR-10", 3)):
        make = model_of("lenet5", (channels, 32, 32))
        x, y = setting.examples(64, (channels, 32, 32))
        steps = {
            "plain": plain_step(setting.at(make()), x, y),
            "plain, compiled": plain_step(setting.at(make()), x, y, compiled=True),
            "svi": svi_step(setting.at(make()), x, y),
            "svi, draw and KL compiled": svi_step(setting.at(make()), x, y, compiled="draw"),
            "svi, all compiled": svi_step(setting.at(make()), x, y, compiled="all"),
        }
        if setting.on_gpu:
            steps["svi, recorded"] = svi_step(setting.at(make()), x, y, recorded=True)
        seconds = interleaved(steps, rounds=setting.rounds, block=10)
        record[f"LeNet5, {name}, batch 64"] = {
            **{
                step: {"seconds": value, "ratio": value / seconds["plain"]} for step, value in seconds.items()
            },
            "compiled / compiled": seconds["svi, all compiled"] / seconds["plain, compiled"],
        }
    return record


def throughput(setting: Setting) -> Record:
    """(a) Training images per second; a GPU gets real sizes, a CPU only small ones, to show that it runs."""
    batch, size = (256, 224) if setting.on_gpu else (8, 64)
    x, y = setting.examples(batch, (3, size, size))
    record = {}
    for name in ("resnet18", "resnet50"):
        for bfloat16 in (False, True):
            images = x.contiguous(memory_format=torch.channels_last) if bfloat16 else x
            nets = [setting.at(_torchvision(name)()) for _ in range(2)]
            if bfloat16:
                nets = [net.to(memory_format=torch.channels_last) for net in nets]
            pair = {
                "plain": plain_step(nets[0], images, y, bfloat16=bfloat16),
                "svi": svi_step(nets[1], images, y, bfloat16=bfloat16),
            }
            seconds = interleaved(pair, rounds=setting.rounds, block=3)
            kind = "bfloat16, channels last" if bfloat16 else "float32"
            record[f"{name}, batch {batch}, {size} px, {kind}"] = {
                "plain_images_per_second": batch / seconds["plain"],
                "images_per_second": batch / seconds["svi"],
                "ratio": seconds["svi"] / seconds["plain"],
            }
    return record


def whole_run(setting: Setting) -> Record:
    """(b) A LeNet5 run with BMRS_N against the same run without pruning: 40 epochs of 144 steps of 64 examples.

    The examples are scikit-learn's digits, repeated eight times.
    """
    digits = data.load("digits", size=32).train
    record = {}
    for name, channels in (("MNIST", 1), ("CIFAR-10", 3)):
        train = repeated(digits, channels)
        seconds: dict[str, float] = {}
        for run, criterion in (("pruned", bmrs_n()), ("unpruned", None)):
            pyro.set_rng_seed(0)
            net = model_of("lenet5", train.input_shape)()
            model = noisy_model(net, train, kl_weight=("mean", 0.3))
            batches = data.Batches(train, 64)
            history = fit(model, AutoTruncatedLogNormal(model), batches, criterion=criterion, progress=False)
            seconds[run] = math.fsum(epoch.seconds for epoch in history)
        record[f"LeNet5, {name}"] = {**seconds, "ratio": seconds["pruned"] / seconds["unpruned"]}
    return record


def decisions(setting: Setting) -> Record:
    """(c) ΔF of a million structures."""
    prior = LogUniform()
    posterior = TruncatedLogNormal(torch.empty(10**6).uniform_(-20, 2), torch.empty(10**6).uniform_(0.01, 30))
    reduced = {"bmrs-n": spike(prior), "bmrs-u-8": low_precision(8)}
    return {
        name: statistics.median(
            timed(delta_f, posterior, prior, distribution)[1] for _ in range(max(setting.rounds, 3))
        )
        for name, distribution in reduced.items()
    }


def removal(setting: Setting) -> Record:
    """(d) Finding and cutting structures, in seconds."""
    record = {}
    for name, size in (("resnet18", 64), ("resnet50", 224)):
        net, example = _torchvision(name)().eval(), torch.zeros(1, 3, size, size)
        _, found = timed(find_structures, net, example)
        network = NoisyNetwork(net, example)
        keep = _half(network)
        _, cut = timed(compact, network, keep)
        _, in_place = timed(network.remove_, keep)
        record[name] = {"find_structures": found, "compact": cut, "remove_": in_place}
    return record


def inference(setting: Setting) -> Record:
    """(e) The compact network, with half of all structures removed, against the dense one."""
    cases = {
        "LeNet5": (model_of("lenet5", (3, 32, 32)), (3, 32, 32)),
        "VGG": (model_of("vgg", (3, 32, 32)), (3, 32, 32)),
        "ResNet-18": (_torchvision("resnet18"), (3, 64, 64)),
    }
    record = {}
    for name, (make, shape) in cases.items():
        dense, example = make().eval(), torch.zeros(1, *shape)
        network = NoisyNetwork(make(), example)
        small = compact(network, _half(network))
        macs = complexity(dense, example).macs / complexity(small, example).macs
        for batch in (1, 128):
            seconds = latency(
                {"dense": dense, "small": small}, torch.randn(batch, *shape), repeats=setting.rounds
            )
            record[f"{name}, batch {batch}"] = {
                "macs_ratio": macs,
                "speed_up": seconds["dense"] / seconds["small"],
            }
    return record


def growth(setting: Setting) -> Record:
    """(f) How time grows with width and depth of an MLP: slopes of log time against log size."""
    record = {}
    shapes = {
        "width": [(width, 4) for width in (256, 512, 1024, 2048)],
        "depth": [(64, depth) for depth in (8, 16, 32, 64)],
    }
    x, y = torch.randn(64, 64), torch.randint(10, (64,))
    for position, (name, sizes) in enumerate(shapes.items()):
        found, step = [], []
        for width, depth in sizes:
            found.append(timed(find_structures, _chain(width, depth), x)[1])
            svi = svi_step(_chain(width, depth), x, y)
            step.append(interleaved({"svi": svi}, rounds=setting.rounds, block=3)["svi"])
        axis = [size[position] for size in sizes]
        record[name] = {
            "sizes": axis,
            "find_structures_slope": _slope(axis, found),
            "step_slope": _slope(axis, step),
        }
    return record


SECTIONS: Mapping[str, Callable[[Setting], Record]] = {
    "steps": steps,
    "stock": stock,
    "start": start,
    "path": path,
    "compiled": compiled,
    "throughput": throughput,
    "run": whole_run,
    "decisions": decisions,
    "removal": removal,
    "inference": inference,
    "growth": growth,
}


def _torchvision(name: str) -> Callable[[], nn.Module]:
    return partial(models.get_model, name, num_classes=10)


def _chain(width: int, depth: int) -> nn.Sequential:
    widths = [64, *[width] * depth]
    layers = [layer for a, b in itertools.pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def _half(network: NoisyNetwork) -> dict[str, Tensor]:
    return {s.name: torch.arange(s.size) < max(1, s.size // 2) for s in network.structures}


def _slope(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    return statistics.linear_regression(*([math.log(n) for n in axis] for axis in (sizes, seconds))).slope
