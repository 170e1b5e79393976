"""Sweeps: what is finished is not run again, whatever happens to the rest."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping
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


SLEEPER = """
import os, sys, time
from pathlib import Path
from bmrs_pyro.experiments.sweep import Sweep

def sleep(config):
    Path(config["log"]).write_text(str(os.getpid()))
    time.sleep(120)
    return {}

if __name__ == "__main__":
    Sweep(sleep, Path(sys.argv[1]), workers=1).execute([{"log": sys.argv[2]}], progress=False)
"""


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="asks /proc")
def test_a_killed_sweep_takes_its_workers_along(tmp_path: Path) -> None:
    program, log = tmp_path / "sleeper.py", tmp_path / "log"
    program.write_text(SLEEPER)
    parent = subprocess.Popen([sys.executable, program, tmp_path / "cache", log])
    worker = int(_soon(lambda: log.read_text() if log.exists() else ""))
    assert Path(f"/proc/{worker}").exists()
    parent.kill()
    parent.wait()
    assert _soon(lambda: "gone" if _ended(worker) else "") == "gone"


def _ended(process: int) -> bool:
    """Whether a process is no more, or waits for somebody to ask how it ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def _soon(read: Callable[[], str]) -> str:
    for _ in range(600):
        if found := read():
            return found
        time.sleep(0.1)
    raise TimeoutError("nothing within a minute")
