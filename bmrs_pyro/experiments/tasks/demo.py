"""The whole method on scikit-learn's digits."""

from __future__ import annotations

__all__ = ["demonstrate"]

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch

from bmrs_pyro.data import Batches, load
from bmrs_pyro.experiments.small_runs import evaluated, source_of
from bmrs_pyro.metrics import file_bytes, latency
from bmrs_pyro.network import complexity
from bmrs_pyro.pruning import prune
from bmrs_pyro.reporting import choice_in_words, comparison_table
from bmrs_pyro.runs import PathRecord


def demonstrate(epochs: int, show: Callable[[Any], None], *, progress: bool) -> dict[str, Any]:
    """Train LeNet5, prune it to the smallest network that loses nothing, and compare the two.

    Returns:
        accuracy, size and latency of both networks.
    """
    splits = load("digits", size=32)
    torch.manual_seed(0)
    net = source_of("lenet5").build(splits.train.input_shape, splits.train.num_classes)

    show("training LeNet5, then pruning it along the path, then training the chosen network to its end ...")
    result = prune(
        net,
        Batches(splits.train, 32),
        validation=Batches(splits.validation, 500, shuffle=False),
        epochs=epochs,
        dense_epochs=epochs // 2,
        progress=progress,
    )
    for words in choice_in_words(PathRecord.of(result.path, result.choice)):
        show(words)
    batch, _ = next(iter(Batches(splits.test, 128, shuffle=False)))
    nets = {"dense": result.path.network(result.path.dense), "small": result.network}
    seconds = latency(nets, batch)
    columns, record = {}, {}
    for name, one in nets.items():
        size = complexity(one, batch[:1])
        accuracy = evaluated(one, splits.test).accuracy
        columns[name] = {
            "test accuracy": f"{accuracy:.2%}",
            "parameters": f"{size.parameters:,}",
            "MACs": f"{size.macs:,}",
            "file size": f"{file_bytes(one) / 1024:,.0f} KiB",
            f"latency, batch {len(batch)}": f"{1e3 * seconds[name]:.2f} ms",
        }
        record[name] = {"test_accuracy": accuracy, **asdict(size), "latency_seconds": seconds[name]}
    show(comparison_table(columns, title="LeNet5 on digits"))
    return record
