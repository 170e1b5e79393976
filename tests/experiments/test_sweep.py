"""Sweeps: what is finished is not run again, whatever happens to the rest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from bmrs_pyro.experiments.sweep import Sweep, run_key


def square(config: Mapping[str, Any]) -> dict[str, Any]:
    if config["x"] == 13:
        raise ArithmeticError("unlucky")
    with Path(config["log"]).open("a") as log:
        log.write(f"{config['x']}\n")
    return {"square": config["x"] ** 2}


def configs(folder: Path, *numbers: int) -> list[dict[str, Any]]:
    return [{"x": number, "log": str(folder / "log")} for number in numbers]


def test_runs_are_cached_and_an_interrupted_sweep_goes_on(tmp_path: Path) -> None:
    sweep = Sweep(square, tmp_path / "cache", workers=2)
    assert sweep.execute(configs(tmp_path, 2, 3), progress=False) == [{"square": 4}, {"square": 9}]
    assert sweep.results(configs(tmp_path, 3, 5)) == [{"square": 9}]
    (tmp_path / "cache" / f"{run_key(configs(tmp_path, 2)[0])}.json").write_text(
        '{"config": {}, "resu'
    )  # a crash
    sweep.execute(configs(tmp_path, 2, 3, 5), progress=False)
    assert sorted((tmp_path / "log").read_text().split()) == ["2", "2", "3", "5"]


def test_a_failing_run_does_not_cost_the_others(tmp_path: Path) -> None:
    sweep = Sweep(square, tmp_path / "cache", workers=1)
    with pytest.raises(RuntimeError, match=r"1 of 3 runs failed.*unlucky"):
        sweep.execute(configs(tmp_path, 13, 4, 6), progress=False)
    assert sweep.results(configs(tmp_path, 4, 6)) == [{"square": 16}, {"square": 36}]


def test_the_key_does_not_depend_on_the_order_of_options() -> None:
    assert run_key({"a": 1, "b": 2.5}) == run_key({"b": 2.5, "a": 1})
    assert run_key({"a": 1, "b": 2.5}) != run_key({"a": 1, "b": 2})
