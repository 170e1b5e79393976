"""The poster's experiment in miniature: one run of every method, and the tables made of runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bmrs_pyro.experiments import poster
from bmrs_pyro.experiments.poster_summary import Point, fronts, markdown, plot_fronts

MODELS = Path(__file__).parents[2] / "models"


@pytest.mark.filterwarnings("ignore:.*min_keep")  # so strong a weight in so few steps may empty a layer
@pytest.mark.parametrize("method", poster.METHODS)
def test_a_run_of_every_method(method: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    quick = replace(poster.PROTOCOLS["ours"], epochs=9, fine_tune_epochs=1, variational_rate=100.0)
    monkeypatch.setitem(poster.PROTOCOLS, "ours", quick)
    (config,) = poster.grid("ours", ["mlp"], ["digits"], [method], [5.0])
    assert config["kl_weight"] == (0.0 if method == "none" else 5.0)
    row = poster.run(config, models=str(MODELS), data_root=str(tmp_path))
    assert row["epochs"] == 10
    assert 0 <= row["compression"] < 100
    assert (row["compression"] == 0) == (method == "none")
    assert 5 < row["accuracy"] <= 100


def row(weight: float, seed: int, compression: float, accuracy: float) -> dict[str, object]:
    return {
        "network": "mlp",
        "dataset": "cifar10",
        "method": "bmrs-n",
        "protocol": "ours",
        "kl_weight": weight,
        "seed": seed,
        "compression": compression,
        "accuracy": accuracy,
    }


def test_points_are_means_over_seeds_and_judged_against_the_poster() -> None:
    rows = [
        row(0.1, 0, 70.0, 44.0),
        row(0.1, 1, 72.0, 45.0),
        row(0.2, 0, 77.0, 43.6),
        row(0.3, 0, 80.0, 40.0),
    ]
    points = fronts(rows, "ours")
    (front,) = points.values()
    assert front[0] == Point(0.1, 71.0, 44.5, 2**0.5, 0.5**0.5, 2)
    assert [point.beats((76.36, 43.59)) for point in front] == [False, True, False]
    table = markdown(points)
    assert "5.36 less compression" in table
    assert "| better |" in table
    assert "3.59 less accuracy" in table
    assert fronts(rows, "published") == {}
    assert plot_fronts(points).axes[2].get_title() == "mlp, cifar10"


def test_a_sweep_covers_every_cell_with_its_first_seed_first() -> None:
    configs = poster.grid("published", seeds=2)
    assert len(configs) == 2 * 2 * 3 * 5
    assert [config["seed"] for config in configs] == [0] * 30 + [1] * 30
