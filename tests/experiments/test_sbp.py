"""The SBP paper's experiment in miniature, on a tiny MNIST of noise with the label written into a corner."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bmrs_pyro.cli.reproduce_studies import sbp as command
from bmrs_pyro.experiments.sbp import lenets as sbp
from bmrs_pyro.experiments.sbp.lenets import markdown, page
from bmrs_pyro.experiments.sweep import run_key
from bmrs_pyro.runs import RunDirectory
from tests.experiments.in_process import Here

CONFIG = {
    "method": "snr",
    "kl_weight": "cost-macs:3",
    "posterior_lr_factor": 300.0,
    "label_smoothing": 0.0,
    "warm_up": 1,
    "epochs": 5,
    "fine_tune_epochs": 1,
    "refit": False,
    "seed": 0,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    parts: dict[str, Any] = {}
    for part, count in (("train", 1200), ("test", 100)):
        x, y = rng.integers(0, 60, (count, 28, 28), dtype=np.uint8), np.arange(count) % 10
        x[:, :8, :8] = 20 * y[:, None, None] + 60
        parts |= {f"x_{part}": x, f"y_{part}": y}
    folder = tmp_path_factory.mktemp("data")
    np.savez(folder / "mnist.npz", **parts)
    return folder


def macs(network: str, widths: list[int]) -> int:
    """Multiply-accumulates of one image, by hand."""
    if network == "lenet_fc":
        pixels, first, second = widths
        return pixels * first + first * second + second * 10
    first, second, features, hidden = widths
    return 24 * 24 * 25 * first + 8 * 8 * 25 * first * second + features * hidden + hidden * 10


@pytest.mark.filterwarnings("ignore:.*min_keep")
@pytest.mark.parametrize(
    ("network", "dense"), [("lenet_fc", [784, 500, 300]), ("lenet5_caffe", [20, 50, 800, 500])]
)
def test_a_run_and_the_speed_of_what_it_left(
    network: str, dense: list[int], root: Path, tmp_path: Path
) -> None:
    config = {**CONFIG, "network": network}
    row = sbp.run(config, data_root=str(root), cache=str(tmp_path))
    assert json.loads(json.dumps(row)) == row
    assert "-".join(map(str, dense)) == sbp.PUBLISHED[network].dense
    assert all(left <= whole for left, whole in zip(row["widths"], dense, strict=True))
    assert sum(row["widths"]) < sum(dense)
    assert row["flops_ratio"] == pytest.approx(macs(network, dense) / macs(network, row["widths"]))
    if network == "lenet5_caffe":
        assert row["widths"][2] == 16 * row["widths"][1]
    assert 0 <= row["error"] <= 100
    directory = RunDirectory(tmp_path / f"{run_key(config)}.run")
    assert sbp.widths(directory.small()) == row["widths"]
    assert directory.decision().keep == directory.network()[2]
    assert len(directory.metrics()) == 6
    speed = sbp.measured(config, cache=str(tmp_path), repeats=1)
    assert all(speed[f"cpu_ratio_batch_{batch}"] > 0 for batch in (1, 128))


@pytest.mark.filterwarnings("ignore:.*min_keep")
def test_a_refit_sees_all_training_data_and_keeps_the_last_epoch(root: Path, tmp_path: Path) -> None:
    for refit, examples in ((False, 1000), (True, 1200)):
        config = {**CONFIG, "network": "lenet_fc", "refit": refit}
        result = sbp.run(config, data_root=str(root), cache=str(tmp_path))
        metrics = RunDirectory(tmp_path / f"{run_key(config)}.run").metrics()
        assert all(epoch.examples == [examples] for epoch in metrics)
        assert (result["validation_error"] is None) == refit
    assert result["best_epoch"] == 6


def row(network: str, seed: int, error: float, flops: float, cpu: float) -> dict[str, Any]:
    return {
        **CONFIG,
        "network": network,
        "seed": seed,
        "error": error,
        "widths": [784, 100 + seed, 50],
        "flops_ratio": flops,
        "cpu_ratio_batch_1": 1.5,
        "cpu_ratio_batch_128": cpu,
    }


def test_seeds_share_a_line_that_says_what_it_misses() -> None:
    rows = [row("lenet_fc", 0, 1.5, 12.0, 2.0), row("lenet_fc", 1, 1.4, 14.0, 2.2)]
    (line,) = [line for line in markdown(rows).splitlines() if "| snr, KL cost-macs:3," in line]
    assert "| 2 | 1.45 ± 0.07 | 784-100-50; 784-101-50 | 13.00 ± 1.41 × | 1.50 ± 0.00 × |" in line
    assert line.endswith("| misses CPU |")
    assert "| better |" in markdown([row("lenet5_caffe", 0, 0.8, 11, 6)])
    assert "784" in page(rows).partition("| network")[0]


def test_the_command_adds_to_its_file(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("bmrs_pyro.experiments.sweep.Sweep", Here)
    (tmp_path / "sbp.json").write_text(json.dumps([row("lenet5_caffe", 0, 0.8, 11, 6)]))
    for _ in range(2):
        command(
            data_root=root,
            network=["lenet_fc", "lenet_fc"],
            method="bmrs-n",
            kl_weight=["mean:0.3", "mean:0.3"],
            epochs=1,
            fine_tune_epochs=0,
            cache=tmp_path / "cache",
            out=tmp_path,
            json=True,
        )
        (run,) = json.loads(capsys.readouterr().out)["runs"]
        (directory,) = (tmp_path / "cache").glob("*.run")
        shutil.rmtree(directory)  # then the run is made again
    assert (run["network"], run["method"], run["kl_weight"]) == ("lenet_fc", "bmrs-n", "mean:0.3")
    assert len(json.loads((tmp_path / "sbp.json").read_text())) == 2
    assert (tmp_path / "sbp.md").read_text().count("| bmrs-n, KL mean:0.3") == 1


@pytest.mark.filterwarnings("ignore:.*min_keep")
def test_a_run_begins_anew_and_only_with_sound_options(root: Path, tmp_path: Path) -> None:
    wrong = {**CONFIG, "network": "lenet_fc", "posterior_lr_factor": -1.0}
    with pytest.raises(ValueError, match="posterior_lr_factor is -1"):
        sbp.run(wrong, data_root=str(root), cache=str(tmp_path))
    assert not list(tmp_path.iterdir())
    config = {**CONFIG, "network": "lenet_fc", "epochs": 1, "warm_up": 0}
    directory = tmp_path / f"{run_key(config)}.run"
    directory.mkdir()
    (directory / "config.json").write_text("{")
    (directory / "metrics.jsonl").write_text("what another run has left\n")
    sbp.run(config, data_root=str(root), cache=str(tmp_path))
    assert len(RunDirectory(directory).metrics()) == 2
    assert sbp.has_networks(config, cache=str(tmp_path))


def test_what_is_wrong_is_said_before_the_runs(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="network 'lenet' is unknown here; use one of lenet_fc, lenet5_caffe"
    ):
        command(data_root=tmp_path, network=["lenet"])
    with pytest.raises(ValueError, match="KL weight 'most' is unknown"):
        command(data_root=tmp_path, kl_weight=["most:1"])
