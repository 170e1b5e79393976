"""Comparison of networks: predictive performance and cost."""

from __future__ import annotations

__all__ = [
    "NetworkMetrics",
    "change",
    "compare_networks",
    "cost_rows",
    "difference",
    "figures_table",
    "layer_widths",
]

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.table import Table
from torch import nn

from bmrs_pyro.inference.inputs import pairs
from bmrs_pyro.inference.likelihoods import Likelihood
from bmrs_pyro.metrics import Evaluation, evaluate, file_bytes, latency, peak_bytes
from bmrs_pyro.network import complexity
from bmrs_pyro.network.inputs import arguments, batch_size
from bmrs_pyro.network.layers import output_side
from bmrs_pyro.network.nested import map_leaves
from bmrs_pyro.reporting.tables import comparison_table, evaluation_record, evaluation_rows


@dataclass(frozen=True)
class NetworkMetrics:
    """Predictive performance and cost of one network.

    Attributes:
        evaluation: evaluation on test data; None for a network that was not trained.
        parameters: number of weights.
        macs: multiply-accumulates for one example.
        file_bytes: size of its safetensors file.
        peak_bytes: peak memory of all tensors in a forward pass, by batch size.
        seconds: median latency, by batch size.
    """

    evaluation: Evaluation | None
    parameters: int
    macs: int
    file_bytes: int
    peak_bytes: Mapping[int, int]
    seconds: Mapping[int, float]

    def to_json(self) -> dict[str, Any]:
        """Return a record of plain JSON types, without the bins of the calibration error."""
        record = asdict(self)
        if self.evaluation is not None:
            record["evaluation"] = evaluation_record(self.evaluation)
        return record


def compare_networks(
    nets: Mapping[str, nn.Module],
    test: Iterable[Any],
    num_classes: int | None = None,
    *,
    likelihood: str | Likelihood | Mapping[str, str | Likelihood] = "categorical",
    untrained: Iterable[str] = (),
    batch_sizes: Collection[int] = (1, 128),
    repeats: int = 5,
) -> dict[str, NetworkMetrics]:
    """Evaluate networks and measure their costs; the latency measurements alternate between the networks.

    Args:
        nets: networks with the same inputs and outputs, by name.
        test: batches to evaluate on; the first one gives the inputs of the measurements.
        num_classes: number of classes, which is checked.
        likelihood: likelihood of the labels given the outputs, see :func:`bmrs_pyro.metrics.evaluate`; or one for
            each network, by name, if they have parameters of their own, such as a learned scale.
        untrained: names of networks that are not evaluated because they are not trained.
        batch_sizes: batch sizes of the measurements.
        repeats: rounds of ten calls each, see :func:`bmrs_pyro.metrics.timing`.
    """
    x, _ = next(pairs(test))
    rows = torch.arange(max(batch_sizes, default=1)) % (batch_size(x) or 1)

    def first(count: int) -> Any:
        return map_leaves(lambda leaf: leaf[rows[:count]], x)

    batches = {size: first(size) for size in batch_sizes}
    seconds = {size: latency(nets, batch, repeats=repeats) for size, batch in batches.items()}
    skipped = set(untrained)
    figures = {}
    for name, net in nets.items():
        own = likelihood[name] if isinstance(likelihood, Mapping) else likelihood
        cost = complexity(net, *arguments(first(1)))
        figures[name] = NetworkMetrics(
            evaluation=None if name in skipped else evaluate(net, test, num_classes, likelihood=own),
            parameters=cost.parameters,
            macs=cost.macs,
            file_bytes=file_bytes(net),
            peak_bytes={size: peak_bytes(net, batch) for size, batch in batches.items()},
            seconds={size: medians[name] for size, medians in seconds.items()},
        )
    return figures


def figures_table(figures: Mapping[str, NetworkMetrics], *, title: str) -> Table:
    """Return the metrics of networks as a table, one column per network."""
    # an untrained network gets the same rows as the others
    trained = [one.evaluation for one in figures.values() if one.evaluation is not None]
    rows = [f"test {row}" for row in evaluation_rows(trained[0])] if trained else []
    return comparison_table({name: _column(one, rows) for name, one in figures.items()}, title=title)


def _column(one: NetworkMetrics, rows: list[str]) -> dict[str, str]:
    column = dict.fromkeys(rows, "")
    if one.evaluation is None:
        column[next(iter(rows), "test data")] = "not trained"
    else:
        column |= {f"test {row}": entry for row, entry in evaluation_rows(one.evaluation).items()}
    return column | {row: text for row, (_, text) in _costs(one).items()}


def cost_rows(dense: NetworkMetrics, small: NetworkMetrics) -> list[tuple[str, str, str, str]]:
    """Return the rows of a table: name of the metric, dense network, small network, change."""
    after = _costs(small)
    rows = []
    if small.evaluation is not None:
        name, value = next(iter(evaluation_rows(small.evaluation).items()))
        old = "not known" if dense.evaluation is None else evaluation_rows(dense.evaluation)[name]
        rows.append((f"test {name}", old, value, difference(old, value)))
    for row, (number, text) in _costs(dense).items():
        rows.append((row, text, after[row][1], change(number, after[row][0])))
    return rows


def layer_widths(net: nn.Module) -> dict[str, int]:
    """Return the number of output channels or neurons of every layer that has them, by layer name."""
    widths = {}
    for name, layer in net.named_modules():
        side = output_side(layer)
        if isinstance(layer, nn.RNNBase):
            widths[name] = layer.hidden_size
        elif side is not None and side.role == "produce":
            widths[name] = side.size
    return widths


def change(before: float, after: float) -> str:
    """Return a change in percent."""
    return f"{after / before - 1:+.0%}".replace("-", "−") if before and after != before else "none"


def difference(before: str, after: str) -> str:
    """Return the difference of two printed numbers; an empty text if one is not a number."""
    try:
        found = float(after.rstrip("%")) - float(before.rstrip("%"))
    except ValueError:
        return ""
    return (f"{found:+.2f} points" if after.endswith("%") else f"{found:+.4g}").replace("-", "−")


def _costs(one: NetworkMetrics) -> dict[str, tuple[float, str]]:
    found: dict[str, tuple[float, str]] = {
        "parameters": (one.parameters, f"{one.parameters:,}"),
        "MACs": (one.macs, f"{one.macs:,}"),
        "file": (one.file_bytes, f"{one.file_bytes / 2**10:,.0f} KiB"),
    }
    for size, seconds in one.seconds.items():
        peak = one.peak_bytes[size]
        found[f"peak memory, batch {size}"] = peak, f"{peak / 2**10:,.0f} KiB"
        found[f"latency, batch {size}"] = seconds, f"{1e3 * seconds:,.2f} ms"
    return found
