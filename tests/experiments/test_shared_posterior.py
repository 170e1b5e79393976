"""Runs that share a training run, and what all criteria make of its posterior, on scikit-learn's digits."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import spearmanr

from bmrs_pyro.cli.reproduce_poster import curves as command
from bmrs_pyro.cli.reproduce_poster import poster as poster_command
from bmrs_pyro.data import Batches, load
from bmrs_pyro.distributions import LogUniform
from bmrs_pyro.experiments.poster import runs as poster
from bmrs_pyro.experiments.poster import shared_posterior
from bmrs_pyro.experiments.poster.page import STUDY
from bmrs_pyro.experiments.poster.post_training import (
    CRITERIA,
    ODDS,
    Order,
    evidence,
    pooled_scores,
    read,
    spearman,
)
from bmrs_pyro.experiments.poster.post_training_summary import plot_curves, post_training_page
from bmrs_pyro.experiments.sweep import Config, cached, run_key
from bmrs_pyro.metrics import evaluate
from bmrs_pyro.reduction import bmrs_n, select
from bmrs_pyro.training import Recipe
from tests.experiments.in_process import Here

QUICK = replace(
    poster.PROTOCOLS["ours"],
    recipe=Recipe(epochs=8, fine_tune_epochs=1, batch_size=64, lr=1e-3, posterior_lr_factor=100.0),
)
STRUCTURES = 6 * 256  # of models/mlp.py
pytestmark = pytest.mark.filterwarnings("ignore:.*min_keep")


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(poster.PROTOCOLS, "ours", QUICK)
        yield


def config(method: str) -> Config:
    (one,) = poster.grid("ours", ["mlp"], ["digits"], [method], [1.0])
    return one


def run(method: str, cache: Path) -> dict[str, Any]:
    return shared_posterior.run(config(method), data_root="", cache=str(cache))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the posterior and BMRS_N's run."""
    folder = tmp_path_factory.mktemp("cache") / poster.recipe_key("ours")
    sweep = Here(functools.partial(shared_posterior.run, data_root="", cache=str(folder)), folder)
    sweep.execute([config("posterior"), config("bmrs-n")])
    return folder


@pytest.fixture(scope="module")
def reading(cache: Path) -> dict[str, Any]:
    return {**config("curves"), **read(config("curves"), data_root="", cache=str(cache))}


@pytest.mark.parametrize("method", ["l2", "expected"])
def test_ranked_methods_remove_bmrs_n_share_and_go_on_from_the_shared_run(
    method: str, cache: Path, tmp_path: Path
) -> None:
    found = run(method, cache)
    reference = cached(config("bmrs-n"), cache)
    assert reference is not None
    left, wanted = (sum(result["structures"].values()) for result in (found, reference))
    assert found["epochs"] == reference["epochs"] == 9
    assert wanted <= left <= wanted + 6  # each family keeps one, against the scores
    assert found["share_removed"] == pytest.approx(1 - wanted / STRUCTURES)
    assert not list(cache.glob("*.state.safetensors"))
    if method == "l2":
        # without the shared run it trains from the start, and ends up with the same
        shutil.copyfile(*(folder / f"{run_key(config('bmrs-n'))}.json" for folder in (cache, tmp_path)))
        alone = run(method, tmp_path)
        assert {**alone, "seconds": 0} == {**found, "seconds": 0}


def test_without_bmrs_n_there_is_no_share(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"l2 removes as much as bmrs-n, whose run is not finished: network mlp"
    ):
        run("l2", tmp_path)


def test_prerequisites_come_once() -> None:
    wanted = shared_posterior.prerequisites([config(name) for name in poster.METHODS])
    assert [one["method"] for one in wanted] == ["posterior", "bmrs-n"]
    assert shared_posterior.prerequisites([config("snr")]) == []


def test_an_order_leaves_one_structure_in_every_family() -> None:
    scores = torch.tensor([3.0, 1.0, 2.0, -1.0, 5.0, -2.0])
    order = Order.by(scores, {"a": 3, "b": 2, "c": 1})
    assert order.ranking.tolist() == [4, 0, 2]  # 1, 3 and 5 are the last of their families
    assert order.stop == 3
    assert {name: mask.tolist() for name, mask in order.keep(2).items()} == {
        "a": [False, True, True],
        "b": [True, False],
        "c": [True],
    }
    assert Order.by(scores - 2.5, order.sizes).stop == 2


def test_points_are_those_of_the_masked_network(cache: Path, reading: dict[str, Any]) -> None:
    directory = shared_posterior.posterior_directory(config("posterior"), cache)
    network, posteriors, _ = directory.network()
    assert [epoch.removed for epoch in directory.metrics()] == [0] * 9
    prior = LogUniform(next(iter(posteriors.values())).low, 1.0)
    keep = select(posteriors, prior, bmrs_n())
    gains = {name: q.mean * keep[name] for name, q in posteriors.items()}
    splits = load("digits")
    stop = reading["curves"]["bmrs-n"]["stop"]
    assert stop["removed"] == keep.removed
    masked = evaluate(lambda x: network(x, gains), Batches(splits.test, 500, shuffle=False), 10)
    assert stop["accuracy"] == pytest.approx(100 * masked.accuracy, abs=0.3)  # one of 360 images
    row = cached(config("posterior"), cache)
    assert row is not None
    assert reading["unpruned"]["accuracy"] == pytest.approx(row["accuracy"])
    assert stop["compression"] > 50


def test_curves_run_from_none_to_all_and_mark_the_best_point(reading: dict[str, Any]) -> None:
    assert set(reading["curves"]) == set(CRITERIA)
    enough = reading["unpruned"]["validation_accuracy"] - 1
    for name, curve in reading["curves"].items():
        assert curve["compression"][0] == 0
        assert curve["compression"] == sorted(curve["compression"])
        assert curve["removed"][-1] == STRUCTURES - 6
        assert 25 <= len(curve["removed"]) <= 40
        best = curve["best"]
        assert best["validation_accuracy"] >= enough
        after = [
            v
            for n, v in zip(curve["removed"], curve["validation_accuracy"], strict=True)
            if n > best["removed"]
        ]
        assert all(value < enough for value in after)
        if name in ("l2", "expected"):
            assert curve["stop"]["removed"] == reading["curves"]["bmrs-n"]["stop"]["removed"]


def test_rank_correlations_are_scipy_s(cache: Path, reading: dict[str, Any]) -> None:
    network, posteriors, _ = shared_posterior.posterior_directory(config("posterior"), cache).network()
    prior = LogUniform(next(iter(posteriors.values())).low, 1.0)
    scores = pooled_scores(network, posteriors, prior, QUICK)
    assert reading["spearman"] == spearman(scores)
    for pair, value in reading["spearman"].items():
        one, other = (scores[name].numpy() for name in pair.split("~"))
        assert value == pytest.approx(spearmanr(one, other).statistic, abs=1e-5), pair
    assert reading["spearman"]["expected~snr"] > 0.9
    ties = {"a": torch.tensor([1.0, 1, 2, 3]), "b": torch.tensor([2.0, 1, 1, 4])}
    assert spearman(ties)["a~b"] == pytest.approx(spearmanr(ties["a"], ties["b"]).statistic, abs=1e-5)


def test_decisions_are_counted_against_the_usual_margin(cache: Path, reading: dict[str, Any]) -> None:
    by_odds = {record["value"]: record for record in reading["odds"]}
    delta_f = torch.tensor(reading["delta_f"])
    for odds in ODDS:
        assert by_odds[odds]["removed"] == int((delta_f > -odds).sum())
        assert by_odds[odds]["changed"] == abs(by_odds[odds]["removed"] - by_odds[1.0]["removed"])
    _, posteriors, _ = shared_posterior.posterior_directory(config("posterior"), cache).network()
    prior = LogUniform(next(iter(posteriors.values())).low, 1.0)
    assert by_odds[1.0]["removed"] == int(
        sum((~mask).sum() for mask in select(posteriors, prior, bmrs_n()).values())
    )
    bits = {record["value"]: record for record in reading["bits"]}
    assert list(bits) == list(range(2, 17))
    assert bits[8]["changed"] == 0
    assert evidence(posteriors, prior, 1.0)["delta_f"] == reading["delta_f"]


def test_the_page_names_every_cell_and_its_figures(reading: dict[str, Any]) -> None:
    other: Mapping[str, Any] = {**reading, "seed": 1}
    page = post_training_page([reading, other, {**reading, "network": "lenet5"}])
    assert "| lenet5, digits, KL 1 | bmrs-n |" in page
    assert "| snr~bmrs-n | 0.95 |" in page
    assert "± 0.00" in page
    assert [ax.get_title() for ax in plot_curves([reading, other]).axes] == ["mlp, digits, KL 1"]


def test_both_commands(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("bmrs_pyro.experiments.sweep.Sweep", Here)
    monkeypatch.setattr(poster, "DATASETS", ("digits",))
    chosen: dict[str, Any] = {
        "network": ["mlp"],
        "dataset": ["digits"],
        "kl_weight": [1.0],
        "cache": cache.parent,
        "out": tmp_path,
    }
    command(data_root=tmp_path, **chosen)
    assert "Rank correlation" in capsys.readouterr().out
    for name in ("curves.png", "evidence.png", "decisions.png", "curves.md"):
        assert (tmp_path / name).stat().st_size > 1000
    (record,) = json.loads((tmp_path / "curves.json").read_text())
    command(rebuild=True, json=True, **chosen)
    assert json.loads(capsys.readouterr().out)["posteriors"] == [record]
    # no such cell in the poster
    monkeypatch.setattr(
        "bmrs_pyro.experiments.poster.page.STUDY",
        replace(STUDY, page=lambda rows: "page", figures=lambda rows: {}),
    )
    poster_command(data_root=tmp_path, method=["expected"], json=True, **chosen)
    (row,) = json.loads(capsys.readouterr().out)["runs"]
    assert row["method"] == "expected"
    # what is asked for twice is no second seed
    twice = {
        **chosen,
        "network": ["mlp", "mlp"],
        "dataset": ["digits"] * 2,
        "kl_weight": [1.0, 1.0],
        "out": None,
    }
    command(rebuild=True, json=True, **twice)
    assert json.loads(capsys.readouterr().out)["posteriors"] == [record]
    poster_command(rebuild=True, method=["expected", "expected"], json=True, **twice)
    assert json.loads(capsys.readouterr().out)["runs"] == [row]


def test_a_posterior_that_is_gone_is_trained_again_where_it_is_to_be_read(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("bmrs_pyro.experiments.sweep.Sweep", Here)
    monkeypatch.setattr(poster, "DATASETS", ("digits",))
    folder = tmp_path / cache.name
    folder.mkdir()
    shutil.copyfile(*(part / f"{run_key(config('posterior'))}.json" for part in (cache, folder)))
    for _ in range(2):
        command(
            data_root=tmp_path,
            network=["mlp"],
            dataset=["digits"],
            kl_weight=[1.0],
            cache=tmp_path,
            json=True,
        )
        (record,) = json.loads(capsys.readouterr().out)["posteriors"]
        assert set(record["curves"]) == set(CRITERIA)
        # once it was read there is no need of it
        shutil.rmtree(folder / f"{run_key(config('posterior'))}.run", ignore_errors=True)


def test_nothing_finished(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no posterior is finished"):
        command(rebuild=True, cache=tmp_path, quiet=True)
