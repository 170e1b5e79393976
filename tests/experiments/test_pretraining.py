"""Plain training, before the noise and after it, as its two commands run it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bmrs_pyro.data import Batches, load
from bmrs_pyro.experiments.trained import fine_tuning, pretraining
from bmrs_pyro.experiments.trained.pretraining import Stage, run_command
from bmrs_pyro.metrics import evaluate
from bmrs_pyro.runs import RunDirectory


@pytest.mark.parametrize(
    ("main", "arguments", "expected"),
    [
        (
            pretraining.main,
            ["net.py", "--out", "out", "--stages", "5"],
            "stages are '5'; give epochs x pixels",
        ),
        (pretraining.main, ["net.py", "--out", "out", "--stages", "0x8"], "stages are '0x8'"),
        (pretraining.main, ["net.py", "--out", "out", "--data", "nosuch"], "nosuch"),
        (fine_tuning.main, ["nosuch"], "nosuch"),
        (fine_tuning.main, ["nosuch", "--stages", "1x8,"], "stages are '1x8,'"),
    ],
)
def test_bad_input_ends_in_one_line_and_status_2(
    main: Callable[..., None],
    arguments: list[str],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    with pytest.raises(SystemExit) as exit_:
        run_command(main)
    assert exit_.value.code == 2
    said = capsys.readouterr().err
    assert expected in said
    assert said.count("\n") == 1


def test_stages_are_epochs_by_pixels() -> None:
    assert Stage.parse("5x16,1x32") == [Stage(5, 16), Stage(1, 32)]


def test_the_small_network_is_trained_on_and_its_accuracy_kept(
    finished_run: RunDirectory, tmp_path: Path
) -> None:
    run = RunDirectory(tmp_path / "run")
    shutil.copytree(finished_run.path, run.path)
    fine_tuning.main(run.path, stages="1x8", peak_rate=0.02)
    validation = load("digits").validation
    small = run.small()
    accuracy = evaluate(small, Batches(validation, 500, shuffle=False), 10).accuracy
    assert run.validation_scores()[0] == accuracy
    pairs = zip(small.parameters(), finished_run.small().parameters(), strict=True)
    assert all(not weight.equal(before) for weight, before in pairs)
