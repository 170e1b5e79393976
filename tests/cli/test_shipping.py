"""A trained network from its weights file to a file to deploy, as a user of the ``bmrs`` command goes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from bmrs_pyro import complexity, load
from bmrs_pyro.data import Batches
from bmrs_pyro.data import load as load_data
from bmrs_pyro.experiments.plain_training import train_plainly
from bmrs_pyro.metrics import evaluate
from bmrs_pyro.reporting import layer_widths
from bmrs_pyro.runs import NetworkSource, RunDirectory
from tests.cli.test_commands import command

SOURCE = """
from torch import nn

def network(input_shape, num_classes):
    layers, fan_in = [], input_shape[0]
    for width in (24, 32):
        layers += [nn.Conv2d(fan_in, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)]
        fan_in = width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * fan_in, num_classes))
"""
GAINS = [
    "--gains-only",
    "--epochs",
    4,
    "--fine-tune-epochs",
    4,
    "--posterior-lr-factor",
    50,
    "--batch-size",
    32,
]
BUDGET = 80_000


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A source file and trained weights."""
    folder = tmp_path_factory.mktemp("trained")
    source, weights = folder / "convnet.py", folder / "convnet.safetensors"
    source.write_text(SOURCE)
    splits = load_data("digits")
    torch.manual_seed(0)
    net = NetworkSource(str(source)).build((1, 8, 8), 10)
    train_plainly(net, Batches(splits.train, 16), 8)
    save_file(net.state_dict(), weights)
    return source, weights


@pytest.fixture(scope="module")
def run(trained: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    source, weights = trained
    out = tmp_path_factory.mktemp("runs") / "convnet"
    result = command(
        "fit", source, "--out", out, "--weights", weights, *GAINS, "--round-to", 8, "--max-macs", BUDGET,
        "--label-smoothing", 0.05, "--lr", 1e-3, "--kl-weight", "mean:0.3", "--augment", "--quiet",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return out


def test_a_trained_network_is_pruned_within_its_limits(run: Path, trained: tuple[Path, Path]) -> None:
    small, dense = load(run), RunDirectory(run).dense()
    assert all(torch.equal(dense.state_dict()[name], value) for name, value in load_file(trained[1]).items())
    widths = layer_widths(small)
    assert widths["0"] % 8 == widths["4"] % 8 == 0
    cost = complexity(small, torch.zeros(1, 1, 8, 8))
    assert cost.macs <= BUDGET < complexity(dense, torch.zeros(1, 1, 8, 8)).macs
    test = load_data("digits").test
    accuracies = [evaluate(net, Batches(test, 500, shuffle=False), 10).accuracy for net in (dense, small)]
    assert accuracies[0] > 0.95
    assert accuracies[1] > 0.85


@pytest.mark.filterwarnings("default:the small network is much worse")
def test_prune_goes_further_within_another_limit(run: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    shutil.copytree(run, again)
    result = command("prune", again, "--max-params", 1500, "--round-to", 4)
    assert result.returncode == 0, result.stderr
    small = load(again)
    assert complexity(small, torch.zeros(1, 1, 8, 8)).parameters <= 1500
    assert all(width % 4 == 0 for name, width in layer_widths(small).items() if name in ("0", "4"))


def test_compare_measures_both_networks(run: Path) -> None:
    result = command("compare", run, "--repeats", 1, "--json")
    assert result.returncode == 0, result.stderr
    figures = json.loads(result.stdout)
    assert figures["dense"]["evaluation"]["accuracy"] > 0.95
    for what in ("parameters", "macs", "file_bytes"):
        assert figures["small"][what] < figures["dense"][what]
    assert set(figures["small"]["seconds"]) == {"1", "128"}
    assert (run / "widths.png").read_bytes().startswith(b"\x89PNG")
    table = command("compare", run, "--repeats", 1, "--picture", run / "widths.svg").stdout
    assert "latency, batch 128" in table
    assert (run / "widths.svg").exists()


def test_export_writes_a_file_beside_the_run(run: Path) -> None:
    result = command("export", run, "--format", "pt2", "--json")
    assert result.returncode == 0, result.stderr
    record = json.loads(result.stdout)
    assert record["bytes"] == (run / "small.pt2").stat().st_size
    assert record["error"] < 1e-5


def test_architectures_prints_a_table(trained: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "table.md"
    result = command("architectures", "torchvision:squeezenet1_1", "--only", "--out", out)
    assert result.returncode == 0, result.stderr
    text = out.read_text()
    assert "1 of 1 networks work" in text
    assert "| torchvision:squeezenet1_1 | 727,626 | 25 |" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--weights", "missing.safetensors"], "missing.safetensors cannot be read"),
        (["--max-params", "3"], "a budget of 3 parameters cannot be met"),
        (["--round-to", "0"], "round_to is 0"),
        (["--label-smoothing", "1.5"], "label_smoothing is 1.5"),
    ],
)
def test_wrong_options_end_in_one_line_before_a_run_is_made(
    options: list[str], message: str, trained: tuple[Path, Path], tmp_path: Path
) -> None:
    result = command("fit", trained[0], "--out", tmp_path / "run", *options)
    assert result.returncode == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_weights_of_another_network_are_refused(trained: tuple[Path, Path], tmp_path: Path) -> None:
    save_file({"0.weight": torch.zeros(24, 1, 3, 3)}, tmp_path / "other.safetensors")
    result = command(
        "fit", trained[0], "--out", tmp_path / "run", "--weights", tmp_path / "other.safetensors"
    )
    assert result.returncode == 2
    assert "has no tensor '0.bias'" in result.stderr


def test_torchvision_weights_file_and_image_folder(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for label, colour in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
        (tmp_path / "images" / label).mkdir(parents=True)
        for index in range(20):
            pixels = random.integers(0, 100, (32, 32, 3)) * 0.5 + np.array(colour) * 0.5
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "images" / label / f"{index}.png")
    net = NetworkSource("torchvision:mobilenet_v3_small").build((3, 32, 32), 2)
    torch.save(net.state_dict(), tmp_path / "trained.pt")
    result = command(
        "fit", "torchvision:mobilenet_v3_small", "--out", tmp_path / "run", "--weights", tmp_path / "trained.pt",
        "--data", tmp_path / "images", "--size", 32, "--gains-only", "--epochs", 1, "--fine-tune-epochs", 1,
        "--batch-size", 8, "--max-macs", 1_000_000, "--json",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    x = torch.randn(1, 3, 32, 32)
    small = load(tmp_path / "run")
    assert complexity(small, x).macs <= 1_000_000 < complexity(net, x).macs
    assert small(x).shape == (1, 2)
