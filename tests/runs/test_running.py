"""A run's beginning: what is found then is not found again."""

from __future__ import annotations

from pathlib import Path

import pytest

from bmrs_pyro.data import DataSource
from bmrs_pyro.network import noisy
from bmrs_pyro.runs import RunDirectory, begin_run
from bmrs_pyro.runs.preparing import Prepared
from bmrs_pyro.training import Recipe

SOURCE = """
from torch import nn

def network(input_shape, num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, num_classes))
"""


def test_structures_are_found_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finding the structures of a large network takes long."""
    (tmp_path / "net.py").write_text(SOURCE)
    run = begin_run(tmp_path / "run", str(tmp_path / "net.py"), DataSource("digits"), Recipe())
    found = Prepared.of(RunDirectory(run.path, trust_source=True), "cpu").model.structures

    def refuse(*_: object) -> None:
        raise AssertionError("the structures are known")

    monkeypatch.setattr(noisy, "find_structures", refuse)
    known = Prepared.of(run, "cpu").model.structures
    assert [(family.name, family.size) for family in known] == [
        (family.name, family.size) for family in found
    ]
