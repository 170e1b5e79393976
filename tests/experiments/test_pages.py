"""The pages in ``docs/results`` are what the commands make of the files beside them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from bmrs_pyro.cli.reproduce_poster import path, precision
from bmrs_pyro.cli.reproduce_studies import both, honesty, random_labels, sbp, vgg
from bmrs_pyro.cli.reproduce_weights import bmr
from bmrs_pyro.cli.results import read_rows
from bmrs_pyro.experiments.bench import page as bench_page
from bmrs_pyro.experiments.honesty.page import STUDY as HONESTY
from bmrs_pyro.experiments.poster import paths
from bmrs_pyro.experiments.poster.larger import STUDY as LARGER
from bmrs_pyro.experiments.poster.page import STUDY as POSTER
from bmrs_pyro.experiments.poster.post_training_summary import STUDY as CURVES
from bmrs_pyro.experiments.poster.precision import STUDY as PRECISION
from bmrs_pyro.experiments.sbp.lenets import STUDY as SBP
from bmrs_pyro.experiments.sbp.random_labels import STUDY as RANDOM_LABELS
from bmrs_pyro.experiments.sbp.vgg import STUDY as VGG
from bmrs_pyro.experiments.study import Study
from bmrs_pyro.experiments.tasks.runs import STUDY as TASKS
from bmrs_pyro.experiments.trained.page import STUDY as TRAINED
from bmrs_pyro.experiments.weights.both import STUDY as BOTH

RESULTS = Path(__file__).parents[2] / "docs" / "results"


def rows(name: str) -> list[dict[str, object]]:
    return read_rows(RESULTS / f"{name}.json")


def path_study() -> Study:
    unpruned = [row for row in rows("poster") if (row["method"], row["protocol"]) == ("none", "ours")]
    return paths.study_of(rows("path-points"), unpruned)


@pytest.mark.parametrize(
    "study",
    [
        *(
            POSTER,
            CURVES,
            LARGER,
            SBP,
            PRECISION,
            RANDOM_LABELS,
            VGG,
            BOTH,
            TASKS,
            TRAINED,
            HONESTY,
            path_study(),
        ),
        Study("bench", ("section",), bench_page.page),
    ],
    ids=lambda study: study.name,
)
def test_a_page_is_made_of_its_runs(study: Study) -> None:
    made = read_rows(RESULTS / f"{study.name}.json", study.keys)
    there = (RESULTS / f"{study.name}.md").read_text().partition("<!--")[0]
    assert study.page(made) + "\n" == there, "make it anew, with --rebuild"
    assert len({tuple(row[key] for key in study.keys) for row in made}) == len(made)


@pytest.mark.parametrize("command", [random_labels, sbp, honesty], ids=lambda command: command.__name__)
def test_a_page_is_made_anew_without_data_or_runs(command: Any, tmp_path: Path) -> None:
    name = command.__name__.replace("_", "-")
    for file in (f"{name}.json", f"{name}.md"):
        shutil.copy(RESULTS / file, tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    # honesty has no cache: it measures
    cache = {} if command is honesty else {"cache": tmp_path / "none"}
    command(rebuild=True, out=tmp_path, quiet=True, **cache)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize("command", [vgg, both, precision, path], ids=lambda command: command.__name__)
def test_without_finished_runs_no_page_is_made(command: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no run is finished in --cache or in --out; run without --rebuild"):
        command(rebuild=True, out=tmp_path, cache=tmp_path / "none", quiet=True)
    assert not list(tmp_path.iterdir())


def test_gaussian_weights_are_drawn_anew_from_the_finished_runs(tmp_path: Path) -> None:
    shutil.copy(RESULTS / "bmr.json", tmp_path)
    before = (tmp_path / "bmr.json").read_bytes()
    bmr(rebuild=True, out=tmp_path, cache=tmp_path / "none", quiet=True)
    assert (tmp_path / "bmr.json").read_bytes() == before
    assert (tmp_path / "bmr-lenet-fashion_mnist.png").stat().st_size
    with pytest.raises(
        ValueError, match="no run of mixer on fashion_mnist is finished in --cache or in --out"
    ):
        bmr(network=["mixer"], rebuild=True, out=tmp_path, cache=tmp_path / "none", quiet=True)


def test_runs_need_data(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--data-root is missing"):
        random_labels(out=tmp_path / "out", cache=tmp_path / "cache")
    assert not list(tmp_path.iterdir())
