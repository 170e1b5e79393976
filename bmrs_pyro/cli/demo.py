"""``bmrs demo``: the whole method on scikit-learn's digits, in about a minute."""

from __future__ import annotations

__all__ = ["demo"]

from dataclasses import asdict
from typing import Annotated

import pyro
import pyro.distributions as dist
import torch
import typer
from torch import nn

import bmrs_pyro
from bmrs_pyro import data
from bmrs_pyro.cli.output import Json, Output, Quiet
from bmrs_pyro.inference import AutoTruncatedLogNormal, SupervisedModel
from bmrs_pyro.metrics import evaluate, file_bytes, latency
from bmrs_pyro.network import NoisyNetwork, complexity
from bmrs_pyro.reduction import bmrs_n
from bmrs_pyro.reporting import comparison_table
from bmrs_pyro.runs import MODELS, NetworkSource
from bmrs_pyro.training import JointOptim, fit


def demo(
    epochs: Annotated[
        int, typer.Option(min=1, help="Epochs with pruning; a third as many without follow.")
    ] = 30,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fit LeNet5 on handwritten digits, prune it as it learns, and compare it with a plainly trained one."""
    output = Output(json, quiet)
    splits = data.load("digits", size=32)
    # 1150 images: small batches and a fast posterior make up for the few steps of an epoch
    train, test = data.Batches(splits.train, 16), data.Batches(splits.test, 500, shuffle=False)
    source = NetworkSource(str(MODELS / "lenet5.py"))
    example = torch.zeros(1, *splits.train.input_shape)
    fine_tune = max(epochs // 3, 1)

    output.show("training LeNet5 plainly, for comparison ...")
    pyro.set_rng_seed(0)
    dense = source.build(splits.train.input_shape, splits.train.num_classes)
    train_plainly(dense, train, epochs + fine_tune)

    output.show("fitting LeNet5 with random gains, pruning by BMRS_N after every epoch ...")
    pyro.set_rng_seed(0)
    network = NoisyNetwork(source.build(splits.train.input_shape, splits.train.num_classes), example)
    model = SupervisedModel(
        network, lambda logits: dist.Categorical(logits=logits), len(splits.train), kl_weight="mean:0.3"
    )
    guide = AutoTruncatedLogNormal(model)
    optim = JointOptim(
        torch.optim.Adam, {"lr": 1e-3, "fused": True}, network=network, posterior_lr_factor=20.0
    )
    history = fit(
        model,
        guide,
        train,
        optim=optim,
        epochs=epochs,
        fine_tune_epochs=fine_tune,
        criterion=bmrs_n(),
        validation=data.Batches(splits.validation, 500, shuffle=False),
        progress=output.progress,
    )

    output.show(str(history.keep))
    batch = next(iter(test))[0][:128]
    nets = {"dense": dense.eval(), "small": history.network}
    seconds = latency(nets, batch)
    columns, record = {}, {}
    for name, net in nets.items():
        size, accuracy = complexity(net, example), evaluate(net, test, splits.test.num_classes).accuracy
        columns[name] = {
            "test accuracy": f"{accuracy:.2%}",
            "parameters": f"{size.parameters:,}",
            "MACs": f"{size.macs:,}",
            "file size": f"{file_bytes(net) / 1024:,.0f} KiB",
            f"latency, batch {len(batch)}": f"{1e3 * seconds[name]:.2f} ms",
        }
        record[name] = {"test_accuracy": accuracy, **asdict(size), "latency_seconds": seconds[name]}
    output.show(comparison_table(columns, title="LeNet5 on digits"))
    output.result(record)


def train_plainly(net: nn.Module, batches: data.Batches, epochs: int) -> None:
    """Train a network without gains by Adam at 1e-3, its rate falling as in :func:`bmrs_pyro.fit`."""
    net.train()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda epoch: bmrs_pyro.linear_decay(epoch / epochs)
    )
    for epoch in range(1, epochs + 1):
        batches.set_epoch(epoch)
        for x, y in batches:
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            optimizer.step()
        schedule.step()
