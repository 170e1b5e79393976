"""Budgets of a finished run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from bmrs_pyro.reduction import KeepMask
from bmrs_pyro.runs import RunDirectory, prune_run
from bmrs_pyro.training import Limits


@pytest.mark.parametrize("criterion", ["bmrs-n", "snr"])
def test_a_budget_compares_evidence_in_nats_of_the_likelihood(
    criterion: str, finished_run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished_run.path, tmp_path / "run")
    given: dict[str, Any] = {}
    applied = Limits.applied

    def noted(self: Limits, *args: Any, **options: Any) -> KeepMask:
        given.update(options)
        return applied(self, *args, **options)

    monkeypatch.setattr(Limits, "applied", noted)
    prune_run(RunDirectory(tmp_path / "run"), criterion, limits=Limits(max_parameters=900))
    if criterion == "snr":  # no evidence
        assert given["units"] is None
    else:  # mean:0.3 divides by the 12 and 8 structures that the families had before training
        first, second = given["units"].values()
        assert first / second == pytest.approx(8 / 12)
