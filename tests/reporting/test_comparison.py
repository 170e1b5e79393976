"""NetworkMetrics of networks side by side: memory and file sizes counted by hand, widths, what the table says."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import nn

from bmrs_pyro.metrics.footprint import file_bytes, peak_bytes
from bmrs_pyro.reporting import compare_networks, figures_table, layer_widths, plot_layer_widths, save_figure


def classifier(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 3))


def test_peak_memory_is_weights_input_and_the_two_largest_neighbours() -> None:
    net, x = classifier(50), torch.randn(8, 6)
    weights = sum(parameter.numel() for parameter in net.parameters())
    # nn.Sequential holds a layer's input until its output replaces it: relu has 8 x 50 twice
    assert peak_bytes(net, x) == 4 * (weights + x.numel() + 2 * 8 * 50)


def test_peak_memory_counts_views_and_shared_weights_once_and_work_in_place_not_at_all() -> None:
    layer = nn.Linear(10, 10, bias=False)
    net = nn.Sequential(layer, nn.ReLU(inplace=True), nn.Unflatten(1, (2, 5)), nn.Flatten(), layer)
    x = torch.randn(4, 10)
    assert peak_bytes(net, x) == 4 * (100 + 40 + 2 * 40)


def test_file_bytes_are_those_of_the_file(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3))
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    assert file_bytes(net) == (tmp_path / "net.safetensors").stat().st_size


def test_figures_of_a_large_and_a_small_network() -> None:
    nets = {"dense": classifier(200), "small": classifier(4)}
    batches = [(torch.randn(10, 6), torch.randint(3, (10,))) for _ in range(3)]
    figures = compare_networks(nets, batches, 3, untrained=["dense"], batch_sizes=(1, 25), repeats=1)
    assert figures["dense"].evaluation is None
    assert figures["small"].evaluation is not None
    assert figures["small"].evaluation.count == 30
    assert figures["dense"].macs == 200 * 9
    assert figures["dense"].peak_bytes[25] - figures["dense"].peak_bytes[1] == 4 * 24 * (6 + 2 * 200)
    assert all(seconds > 0 for one in figures.values() for seconds in one.seconds.values())
    assert json.loads(json.dumps(figures["small"].to_json(), allow_nan=False))["parameters"] == 4 * 10 + 3
    console = Console(width=120, record=True)
    console.print(figures_table(figures, title="both"))
    text = console.export_text()
    assert "not trained" in text
    assert "latency, batch 25" in text
    assert "1,800" in text


def test_values_are_compared_by_their_error() -> None:
    nets = {"dense": classifier(20), "small": classifier(4)}
    batches = [(torch.randn(10, 6), torch.randn(10, 3)) for _ in range(3)]
    figures = compare_networks(nets, batches, likelihood="normal:1", batch_sizes=(1,), repeats=1)
    console = Console(width=120, record=True)
    console.print(figures_table(figures, title="both"))
    text = console.export_text()
    assert "test RMSE" in text
    assert "accuracy" not in text
    record = json.loads(json.dumps(figures["small"].to_json(), allow_nan=False))
    assert set(record["evaluation"]) == {"count", "values", "rmse", "nll"}


def test_widths_of_layers_are_drawn(tmp_path: Path) -> None:
    dense = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, groups=8), nn.Flatten(), nn.Linear(8, 2)
    )
    widths = layer_widths(dense)
    assert widths == {"0": 8, "4": 2}  # the depthwise convolution follows its input
    ax = plot_layer_widths(widths, {"0": 3, "4": 2})
    assert [text.get_text() for text in ax.texts] == ["3 of 8", "2 of 2"]
    assert sorted({round(patch.get_width()) for patch in ax.patches}) == [2, 3, 8]
    save_figure(ax, tmp_path / "widths.svg")
    assert (tmp_path / "widths.svg").stat().st_size > 1000
