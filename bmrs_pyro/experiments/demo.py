"""The whole method on scikit-learn's digits."""

from __future__ import annotations

__all__ = ["demonstrate"]

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pyro
import pyro.distributions as dist
import torch

from bmrs_pyro.data import Batches, load
from bmrs_pyro.experiments.plain_training import train_plainly
from bmrs_pyro.inference import AutoTruncatedLogNormal, SupervisedModel
from bmrs_pyro.metrics import evaluate, file_bytes, latency
from bmrs_pyro.network import NoisyNetwork, complexity
from bmrs_pyro.reduction import bmrs_n
from bmrs_pyro.reporting import comparison_table
from bmrs_pyro.runs import MODELS, NetworkSource
from bmrs_pyro.training import JointOptim, fit


def demonstrate(epochs: int, show: Callable[[Any], None], *, progress: bool) -> dict[str, Any]:
    """Fit LeNet5, prune it during training, and compare it with one trained without gains.

    Args:
        epochs: epochs with pruning; a third as many epochs without pruning follow.
        show: prints its argument.
        progress: show a progress bar.

    Returns:
        accuracy, size and latency of both networks.
    """
    splits = load("digits", size=32)
    # 1150 images: small batches and a fast posterior make up for the few steps of an epoch
    train, test = Batches(splits.train, 16), Batches(splits.test, 500, shuffle=False)
    source = NetworkSource(str(MODELS / "lenet5.py"))
    example = torch.zeros(1, *splits.train.input_shape)
    fine_tune = max(epochs // 3, 1)

    show("training LeNet5 plainly, for comparison ...")
    pyro.set_rng_seed(0)
    dense = source.build(splits.train.input_shape, splits.train.num_classes)
    train_plainly(dense, train, epochs + fine_tune)

    show("fitting LeNet5 with random gains, pruning by BMRS_N after every epoch ...")
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
        validation=Batches(splits.validation, 500, shuffle=False),
        progress=progress,
    )

    show(str(history.keep))
    batch = next(iter(test))[0][:128]
    nets = {"dense": dense.eval(), "small": history.network}
    seconds = latency(nets, batch)
    columns, record = {}, {}
    for name, net in nets.items():
        size = complexity(net, example)
        accuracy = evaluate(net, test, splits.test.num_classes).accuracy
        columns[name] = {
            "test accuracy": f"{accuracy:.2%}",
            "parameters": f"{size.parameters:,}",
            "MACs": f"{size.macs:,}",
            "file size": f"{file_bytes(net) / 1024:,.0f} KiB",
            f"latency, batch {len(batch)}": f"{1e3 * seconds[name]:.2f} ms",
        }
        record[name] = {"test_accuracy": accuracy, **asdict(size), "latency_seconds": seconds[name]}
    show(comparison_table(columns, title="LeNet5 on digits"))
    return record
