"""The tasks of ``bmrs reproduce tasks``: their data, a tiny run, and the page made of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bmrs_pyro.experiments.tasks import datasets as task_data
from bmrs_pyro.experiments.tasks import runs as tasks
from bmrs_pyro.runs import MODELS
from tests.cli.test_commands import command


def package(folder: Path, files: int) -> Path:
    folder.mkdir()
    for number in range(files):
        body = f'"""{"Say " * 30}{number}."""\n\n\ndef f():\n    """Short."""\n'
        (folder / f"m{number}.py").write_text(body)
    (folder / "broken.py").write_text("def (")
    return folder


def test_docstrings_are_read_without_an_import(tmp_path: Path) -> None:
    found = task_data.docstrings(package(tmp_path / "p", 5), 3)
    assert len(set(found)) == 3
    assert all(text.startswith("Say ") for text in found)
    assert found == task_data.docstrings(tmp_path / "p", 3)


def test_maps_label_the_ink_of_their_digits() -> None:
    data = task_data.maps(count=20).train
    ink = data.labels > 0
    assert data.images.shape[1:] == (1, 32, 32)
    assert 0.02 < ink.float().mean() < 0.3
    assert data.images[:, 0][ink].mean() > data.images[:, 0][~ink].mean() + 1


def test_diabetes_has_values() -> None:
    splits = task_data.diabetes()
    assert [len(part) for part in splits] == [283, 71, 88]
    assert splits.train.labels.is_floating_point()


@pytest.mark.parametrize(("name", "classes"), [("breast cancer", 2), ("wine", 3)])
def test_tables_of_classes(name: str, classes: int) -> None:
    train = tasks.TASKS[name].data().train
    assert train.num_classes == len(train.labels.unique()) == classes
    assert train.images.mean(0).abs().max() < 0.3


def test_a_series_is_told_from_what_was_before() -> None:
    build = tasks.TASKS["membrane"].network
    assert callable(build)
    train = task_data.membrane().train
    assert train.input_shape == (1, 16)
    assert build(train.input_shape, train.num_classes)(train.images[:3]).shape == (3, 1)
    # neighbouring values are alike
    assert torch.corrcoef(torch.stack([train.images[:, 0, -1], train.labels]))[0, 1] > 0.5


@pytest.mark.slow
def test_a_tiny_run_and_its_page(monkeypatch: pytest.MonkeyPatch) -> None:
    def small(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        return nn.Sequential(nn.Linear(10, 12), nn.ReLU(), nn.Linear(12, outputs))

    monkeypatch.setitem(tasks.TASKS, "diabetes", tasks.TASKS["diabetes"]._replace(network=small))
    torch.set_num_threads(1)
    config = {"task": "diabetes", "epochs": 7, "dense_epochs": 1, "seed": 0}
    result = tasks.run(config)
    assert result["dense"]["parameters"] == 145
    assert result["half of the MACs"]["macs"] <= 66
    assert 40 < result["dense"]["rmse"] < 200
    page = tasks.page([{**config, **result}])
    assert "| diabetes | rmse, lower is better | dense |" in page
    assert (MODELS / "unet.py").exists()


def test_the_command_makes_the_page_of_cached_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def made(config: Any) -> dict[str, Any]:
        figure = tasks.TASKS[config["task"]].figure
        one = {"parameters": 100, "macs": 90, figure: 0.5}
        half = {**one, "parameters": 40, "macs": 30, "met": False}
        return {"dense": one, "default": {**one, "met": True}, "half of the MACs": half, "seconds": 1.0}

    monkeypatch.setattr(tasks, "run", made)
    arguments = ("reproduce", "tasks", "--workers", 1, "--cache", tmp_path / "cache", "--out", tmp_path)
    result = command(*arguments, "--json")
    assert result.returncode == 0, result.stderr
    assert len(json.loads(result.stdout)["runs"]) == len(tasks.TASKS)
    page = (tmp_path / "tasks.md").read_text()
    assert "40 (40%) | 30 (33%) | misses the validation score in 1 of 1 |" in page
    refused = command(*arguments, "--task", "chess")
    assert refused.returncode == 2
    assert "task 'chess' is unknown here" in refused.stderr
