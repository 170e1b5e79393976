"""The poster's experiment in miniature: one run of every method, and the tables, figures and pages made of runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bmrs_pyro.cli.reproduce_poster import poster as command
from bmrs_pyro.experiments.poster import runs as poster
from bmrs_pyro.experiments.poster.page import poster_page
from bmrs_pyro.experiments.poster.summary import (
    Point,
    default_table,
    fronts,
    judged,
    markdown,
    plot_fronts,
    verdict_table,
)
from bmrs_pyro.training import Recipe


@pytest.mark.filterwarnings("ignore:.*min_keep")  # so strong a weight in so few steps may empty a layer
@pytest.mark.parametrize("method", ["none", "snr", "bmrs-n", "bmrs-u-8", "bmrs-u-4"])
def test_a_run_of_every_method(method: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    quick = replace(
        poster.PROTOCOLS["ours"],
        recipe=Recipe(epochs=9, fine_tune_epochs=1, batch_size=64, lr=1e-3, posterior_lr_factor=100.0),
    )
    monkeypatch.setitem(poster.PROTOCOLS, "ours", quick)
    (config,) = poster.grid("ours", ["mlp"], ["digits"], [method], [5.0])
    assert config["kl_weight"] == (0.0 if method == "none" else 5.0)
    row = poster.run(config, data_root=str(tmp_path))
    assert row["epochs"] == 10
    assert 0 <= row["compression"] < 100
    assert (row["compression"] == 0) == (method == "none")
    assert 5 < row["accuracy"] <= 100


def test_a_run_draws_as_its_protocol_says(tmp_path: Path) -> None:
    (config,) = poster.grid("ours", ["mlp"], ["digits"], ["bmrs-n"], [0.1])
    assert poster.PROTOCOLS["ours"].recipe.draws == "example"
    assert poster.Trial(config, data_root=str(tmp_path)).model.draws == "example"


def row(
    weight: float, seed: int, compression: float, accuracy: float, **cell: str
) -> dict[str, str | float | int]:
    return {
        "network": "mlp",
        "dataset": "cifar10",
        "method": "bmrs-n",
        "protocol": "ours",
        **cell,
        "kl_weight": weight,
        "seed": seed,
        "compression": compression,
        "accuracy": accuracy,
        "seconds": 360.0,
    }


ROWS = [
    row(0.1, 0, 70.0, 44.0),
    row(0.1, 1, 72.0, 45.0),
    row(0.2, 0, 77.0, 43.6),
    row(0.3, 0, 80.0, 40.0),
]


def test_points_are_means_over_seeds_and_judged_against_the_poster() -> None:
    points = fronts(ROWS, "ours")
    (front,) = points.values()
    assert front[0] == Point(0.1, 71.0, 44.5, 2**0.5, 0.5**0.5, 2)
    assert [point.beats((76.36, 43.59)) for point in front] == [False, True, False]
    table = markdown(points)
    assert "5.36 less compression" in table
    assert "| better |" in table
    assert "3.59 less accuracy" in table
    assert fronts(ROWS, "published") == {}
    assert plot_fronts(points, {"mlp": 0.1, "lenet5": 0.1}).axes[2].get_title() == "mlp, cifar10"


def points(*values: tuple[float, float, int]) -> list[Point]:
    return [
        Point(index, compression, accuracy, 0.1, 0.1, seeds)
        for index, (compression, accuracy, seeds) in enumerate(values)
    ]


def test_a_front_is_judged_by_its_best_point_and_repeated_points_come_first() -> None:
    reference = (90.0, 95.0)
    assert judged([], reference).word == "not run"
    one, many, far = points((92.0, 97.0, 1), (90.5, 95.5, 3), (99.0, 10.0, 3))
    assert judged([one, many, far], reference).point is many
    assert judged([one, far], reference).point is one
    assert "1 seed)" in str(judged([one, far], reference))
    (close,) = points((89.95, 99.0, 3))
    assert judged([far, close], reference).word == "equal"
    assert judged([far], reference).word == "worse"


def test_verdicts_count_the_eighteen_cells() -> None:
    text = verdict_table(fronts(ROWS, "ours"))
    assert text.startswith(
        "Of 18 cells: 1 better, 17 not run. Of the better ones 1 rest on fewer than 3 seeds."
    )
    assert text.count("| lenet5 |") == text.count("| mlp |") == 3
    assert "**better** 77.00 / 43.60 (KL 0.2, 1 seed); poster 76.36 / 43.59" in text


def test_the_default_weight_is_held_against_what_was_asked() -> None:
    rows: list[Mapping[str, Any]] = [
        row(0.1, 0, 66.5, 97.2, dataset="mnist"),
        row(0.2, 0, 80.0, 97.0, dataset="mnist"),
        row(0.3, 0, 92.1, 98.5, dataset="mnist", network="lenet5"),
    ]
    table = default_table(fronts(rows, "ours"), {"mlp": 0.1, "lenet5": 0.3})
    assert table.splitlines()[2:] == [
        "| mlp | mnist | 0.1 | 67.00 / 97.00 | 66.50 / 97.20 | 1 | 0.50 less compression |",
        "| lenet5 | mnist | 0.3 | 92.00 / 98.50 | 92.10 / 98.50 | 1 | met |",
    ]


def test_the_page_has_a_section_for_each_protocol() -> None:
    published: list[Mapping[str, Any]] = [row(1.0, 0, 80.0, 44.0, protocol="published")]
    page = poster_page([*ROWS, *published])
    assert page.index("## Protocol `ours`") < page.index("## Protocol `published`")
    assert "4 runs, 0.4 hours" in page
    assert "mlp `mean` × 1." in page
    assert "poster-published.png" in page
    assert "published" not in poster_page(ROWS).partition("## Protocol")[2]


def test_a_sweep_covers_every_cell_with_its_first_seed_first() -> None:
    configs = poster.grid("published", seeds=2)
    assert len(configs) == 2 * 2 * 3 * 7
    assert [config["seed"] for config in configs] == [0] * 42 + [1] * 42


def test_the_command_makes_the_page_anew_and_keeps_what_was_written_by_hand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "poster.json").write_text(json.dumps(ROWS, indent=1))
    for _ in range(2):
        command(out=tmp_path, cache=tmp_path / "cache", rebuild=True)
        page = (tmp_path / "poster.md").read_text()
        (tmp_path / "poster.md").write_text(page + "" if "By hand" in page else page + "\nBy hand.\n")
    assert page.count("By hand.") == 1
    assert page.endswith("\nBy hand.\n")
    assert page.count("# The BMRS poster's table") == 1
    assert json.loads((tmp_path / "poster.json").read_text()) == ROWS
    assert (tmp_path / "poster-ours.png").stat().st_size > 10_000
    assert "Of 18 cells" in capsys.readouterr().out


def test_runs_of_another_recipe_are_cached_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = poster.PROTOCOLS["ours"]
    key = poster.recipe_key("ours")
    assert key != poster.recipe_key("published")
    monkeypatch.setitem(poster.PROTOCOLS, "ours", replace(ours, grid={"mlp": (7.0,), "lenet5": (7.0,)}))
    assert poster.recipe_key("ours") == key
    monkeypatch.setitem(poster.PROTOCOLS, "ours", replace(ours, recipe=replace(ours.recipe, lr=1e-4)))
    assert poster.recipe_key("ours") != key


def test_what_is_wrong_with_the_command_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--data-root is missing"):
        command(cache=tmp_path)
    with pytest.raises(ValueError, match="method 'l1' is unknown here; use one of none, l2, expected"):
        command(data_root=tmp_path, method=["l1"])
