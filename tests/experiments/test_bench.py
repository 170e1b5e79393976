"""The benchmark suite's arithmetic; its timings are no test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bmrs_pyro.cli.bench import bench as command
from bmrs_pyro.experiments.bench import start as bench_start
from bmrs_pyro.experiments.bench import stock as bench_stock
from bmrs_pyro.experiments.bench import suite as bench
from bmrs_pyro.experiments.bench.page import page, targets
from bmrs_pyro.experiments.bench.steps import interleaved, peak_step_bytes, plain_step, svi_step

ROOT = Path(__file__).parents[2]


def test_slope_of_a_power_law_is_its_exponent() -> None:
    assert bench._slope([2, 4, 8], [3 * size**1.5 for size in (2, 4, 8)]) == pytest.approx(1.5)


def test_targets_say_what_holds() -> None:
    record: dict[str, dict[str, Any]] = {
        "steps": {"LeNet5, MNIST, batch 64": {"ratio": 1.2, "memory_ratio": 1.3}},
        "run": {"LeNet5, MNIST": {"ratio": 0.5}},
        "inference": {"VGG, batch 128": {"speed_up": 2.0, "macs_ratio": 4.0}, "VGG, batch 1": {}},
    }
    assert [(value, met) for _, _, value, met in targets(record)] == [
        (1.2, True),
        (1.3, False),
        (0.5, True),
        (0.5, False),
    ]


def test_starts_and_stock_steps_have_targets() -> None:
    start = {
        "bmrs --help": {"per_import_torch": 0.2},
        "import bmrs_pyro / import pyro": 1.2,
        "bmrs fit, first step": {"per_import_torch": 1.9},
    }
    stock = {"MLP, MNIST, batch 128": {"packaged_ratio": 2.5}}
    found = targets({"start": start, "stock": stock})
    assert [(bound, met) for _, bound, _, met in found] == [
        (2.2, False),
        (0.25, True),
        (1.1, False),
        (2.0, True),
    ]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*min_keep=1 keeps")  # two epochs are far too few
def test_a_path_and_stock_steps_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    found = bench_start.path(bench.Setting(1), epochs=6)["LeNet5, digits"]
    assert found["networks"] >= 1
    assert found["path_ratio"] > found["refit_ratio"] > 0
    name = "MLP, MNIST, batch 128"
    monkeypatch.setattr(bench_stock, "CASES", {name: bench_stock.CASES[name]})
    record = bench_stock.stock(bench.Setting(1))[name]
    assert all(value > 0 for value in record.values())


@pytest.mark.slow
def test_starts_are_measured() -> None:
    record = bench_start.start(bench.Setting(1))
    assert record["import torch"]["per_import_torch"] == 1
    assert record["bmrs fit, first step"]["seconds"] > record["bmrs --help"]["seconds"]


def test_the_page_that_is_kept_begins_as_new_ones_do() -> None:
    head = page([]).partition("## Targets")[0]
    assert (ROOT / "docs" / "results" / "bench.md").read_text().startswith(head)


def test_networks_of_torchvision_are_made() -> None:
    assert bench._torchvision("resnet18")().eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


def test_a_million_decisions_are_measured() -> None:
    assert all(0 < seconds < 60 for seconds in bench.decisions(bench.Setting(1)).values())


def test_steps_train_and_take_turns() -> None:
    x, y = torch.randn(16, 8), torch.randint(3, (16,))
    nets = [nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)) for _ in range(2)]
    weights = [next(net.parameters()) for net in nets]
    before = [weight.detach().clone() for weight in weights]
    seconds = interleaved(
        {"plain": plain_step(nets[0], x, y), "svi": svi_step(nets[1], x, y)}, rounds=1, block=2
    )
    assert seconds.keys() == {"plain", "svi"}
    assert not any(torch.equal(now, then) for now, then in zip(weights, before, strict=True))


def test_memory_of_a_step_counts_its_activations() -> None:
    """A plain step of a wide layer makes at least its activations and its gradients."""
    x, y = torch.randn(64, 8), torch.randint(3, (64,))
    net = nn.Sequential(nn.Linear(8, 1000), nn.ReLU(), nn.Linear(1000, 3))
    made = peak_step_bytes(plain_step(net, x, y))
    activations, gradients = 4 * 64 * 1000 * 2, 4 * sum(p.numel() for p in net.parameters())
    assert activations <= made <= 3 * activations + 2 * gradients


def test_sections_measured_at_different_times_share_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sections = {
        "run": lambda setting: {"LeNet5": {"ratio": 0.7}},
        "growth": lambda setting: {"width": {"sizes": [1, 2], "step_slope": 1.5}},
    }
    monkeypatch.setattr("bmrs_pyro.experiments.bench.suite.SECTIONS", sections)
    out = tmp_path / "bench.json"
    for section in ("run", "growth", "run"):
        command(section=[section], rounds=1, threads=torch.get_num_threads(), out=out, quiet=True)
    assert [row["section"] for row in json.loads(out.read_text())] == ["run", "growth"]
    text = (tmp_path / "bench.md").read_text()
    assert "| pruned run / unpruned run, LeNet5 | 0.60 | 0.70 | **missed** |" in text
    assert "| width | sizes 1, 2; step slope 1.5 |" in text
