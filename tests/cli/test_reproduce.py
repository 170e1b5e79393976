"""What is wrong with an experiment's options or files is said before anything is run, made or measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bmrs_pyro.cli.results import added, prepare
from tests.cli.test_commands import command

SBP = ["sbp", "--data-root", "."]
POSTER = ["poster", "--data-root", "."]
CURVES = ["curves", "--data-root", "."]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([*SBP, "--posterior-lr-factor", "-1"], "posterior_lr_factor is -1.0"),
        ([*SBP, "--label-smoothing", "2"], "label_smoothing is 2.0"),
        ([*SBP, "--epochs", "-2"], "epochs is -2"),
        ([*SBP, "--epochs", "0", "--fine-tune-epochs", "0"], "there must be at least one"),
        ([*SBP, "--warm-up", "-3"], "Invalid value for '--warm-up'"),
        ([*SBP, "--seeds", "0"], "Invalid value for '--seeds'"),
        ([*POSTER, "--seeds", "0"], "Invalid value for '--seeds'"),
        ([*POSTER, "--workers", "0"], "Invalid value for '--workers'"),
        ([*CURVES, "--seeds", "0"], "Invalid value for '--seeds'"),
        (["torch-pruning", "--data-root", "data"], "no poster.json with our runs of mlp on mnist"),
        (["bmr", "--seeds", "0"], "Invalid value for '--seeds'"),
        (["bmr", "--draws", "0"], "Invalid value for '--draws'"),
        (["bmr", "--epochs", "3", "--warm-up", "3"], "--warm-up is 3"),
        (["bench", "--threads", "0"], "Invalid value for '--threads'"),
        (["bench", "--rounds", "0"], "Invalid value for '--rounds'"),
        (["demo", "--epochs", "-1"], "Invalid value for '--epochs'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_that_mean_nothing(arguments: list[str], expected: str, tmp_path: Path) -> None:
    group = [] if arguments[0] in ("bench", "demo") else ["reproduce"]
    result = command(*group, *arguments, cwd=tmp_path)
    assert result.returncode == 2, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    assert expected in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["reproduce", *SBP, "--out", "out"], "sbp.json"),
        (["reproduce", *POSTER, "--out", "out"], "poster.json"),
        (["reproduce", *CURVES, "--out", "out"], "curves.json"),
        (["reproduce", "path", "--data-root", "data", "--out", "out"], "path.json"),
        (["reproduce", "bmr", "--out", "out"], "bmr.json"),
        (["bench", "--section", "decisions", "--out", "out/bench.json"], "bench.json"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_damaged_file_of_results_is_named_before_the_runs(
    arguments: list[str], name: str, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text('[{"cut off": ')
    result = command(*arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert f"{name} is damaged" in result.stderr
    assert not result.stdout
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == [name]


@pytest.mark.parametrize("content", ["", "\x00", "null", "{}", "[1]", '[{"seed": 0}]'])
def test_only_a_list_of_such_runs_is_added_to(content: str, tmp_path: Path) -> None:
    file = tmp_path / "results" / "runs.json"
    prepare(file, ["network", "seed"])
    one = {"network": "a", "seed": 0}
    assert added(file, [one], ["network", "seed"]) == [one] == json.loads(file.read_text())
    file.write_text(content)
    for use in (lambda: prepare(file, ["network", "seed"]), lambda: added(file, [one], ["network", "seed"])):
        with pytest.raises(ValueError, match=r"runs\.json is"):
            use()
    assert file.read_text() == content
