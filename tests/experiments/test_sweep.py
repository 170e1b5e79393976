"""Sweeps: what is finished is not run again, whatever happens to the rest."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from joblib import parallel_config

from bmrs_pyro.experiments.sweep import Sweep, cached, run_key
from bmrs_pyro.files import WriteError


def square(config: Mapping[str, Any]) -> dict[str, Any]:
    if config["x"] == 13:
        raise ArithmeticError("unlucky")
    if config["x"] == 17:
        raise LookupError("a bug")
    with Path(config["log"]).open("a") as log:
        log.write(f"{config['x']}\n")
    return {"square": config["x"] ** 2}


def configs(folder: Path, *numbers: int) -> list[dict[str, Any]]:
    return [{"x": number, "log": str(folder / "log")} for number in numbers]


def test_runs_are_cached_and_an_interrupted_sweep_goes_on(tmp_path: Path) -> None:
    sweep = Sweep(square, tmp_path / "cache", workers=2)
    assert sweep.execute(configs(tmp_path, 2, 3), progress=False) == [{"square": 4}, {"square": 9}]
    assert sweep.results(configs(tmp_path, 3, 5)) == [{"square": 9}]
    (tmp_path / "cache" / f"{run_key(configs(tmp_path, 2)[0])}.json").write_text("")  # a crash
    sweep.execute(configs(tmp_path, 2, 3, 5), progress=False)
    assert sorted((tmp_path / "log").read_text().split()) == ["2", "2", "3", "5"]


@pytest.mark.parametrize(
    "content",
    [
        "null",
        "[]",
        "{}",
        '{"config": 1}',
        '{"config": CONFIG}',
        '{"config": {}, "result": {}}',
        '{"config": {}, "resu',
    ],
)
def test_a_damaged_record_is_of_no_finished_run(content: str, tmp_path: Path) -> None:
    (config,) = configs(tmp_path, 3)
    file = tmp_path / f"{run_key(config)}.json"
    file.write_text(content.replace("CONFIG", json.dumps(config)))
    assert cached(config, tmp_path) is None
    Sweep(square, tmp_path).make(config)
    assert cached(config, tmp_path) == {"square": 9}


def test_a_run_whose_files_are_gone_is_made_again(tmp_path: Path) -> None:
    sweep = Sweep(square, tmp_path, intact=lambda config: Path(config["log"]).exists())
    (config,) = configs(tmp_path, 3)
    sweep.make(config)
    assert sweep.results([config]) == [{"square": 9}]
    (tmp_path / "log").unlink()
    assert sweep.results([config]) == []
    for _ in range(2):
        sweep.make(config)
    assert (tmp_path / "log").read_text() == "3\n"


def test_another_backend_of_joblib_serves_as_well(tmp_path: Path) -> None:
    sweep = Sweep(square, tmp_path / "cache", workers=2)
    with parallel_config("threading"):  # as "dask" or "ray", which are not installed here
        assert sweep.execute(configs(tmp_path, 2, 3), progress=False) == [{"square": 4}, {"square": 9}]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("number", "kind", "reason"),
    [(13, ValueError, "ArithmeticError: unlucky"), (17, RuntimeError, "LookupError: a bug")],
)
def test_a_failing_run_does_not_cost_the_others(
    number: int, kind: type[Exception], reason: str, workers: int, tmp_path: Path
) -> None:
    sweep = Sweep(square, tmp_path / "cache", workers=workers)
    with pytest.raises(kind, match=rf"^1 of 3 runs failed, the first: {{'x': {number}, .*{reason}"):
        sweep.execute(configs(tmp_path, number, 4, 6), progress=False)
    assert sweep.results(configs(tmp_path, 4, 6)) == [{"square": 16}, {"square": 36}]


def wreck(config: Mapping[str, Any]) -> dict[str, Any]:
    """Make a run whose result has no place any more."""
    shutil.rmtree(config["cache"], ignore_errors=True)
    return square(config)


# joblib hands out two runs per worker in advance
@pytest.mark.parametrize(("workers", "most"), [(1, 1), (2, 4)])
def test_nothing_more_is_run_when_results_cannot_be_written(workers: int, most: int, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with pytest.raises(WriteError, match=r"cache/\w+\.\w+ cannot be written \(No such file"):
        Sweep(wreck, cache, workers=workers).execute(
            [{**config, "cache": str(cache)} for config in configs(tmp_path, *range(8))], progress=False
        )
    assert 1 <= len((tmp_path / "log").read_text().split()) <= most


def square_slowly(config: Mapping[str, Any]) -> dict[str, Any]:
    time.sleep(0.3)
    return square(config)


@pytest.mark.skipif(importlib.util.find_spec("fcntl") is None, reason="a system without file locks")
def test_of_two_sweeps_one_makes_the_run(tmp_path: Path) -> None:
    sweep, (config,) = Sweep(square_slowly, tmp_path), configs(tmp_path, 3)
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(sweep.make, [config] * 2)) == [None, None]
    assert (tmp_path / "log").read_text() == "3\n"
    assert {file.suffix for file in tmp_path.iterdir()} == {".json", ""}  # no lock is left


def test_the_key_does_not_depend_on_the_order_of_options() -> None:
    assert run_key({"a": 1, "b": 2.5}) == run_key({"b": 2.5, "a": 1})
    assert run_key({"a": 1, "b": 2.5}) != run_key({"a": 1, "b": 2})


SLEEPER = """
import os, signal, sys, time
from pathlib import Path
from bmrs_pyro.experiments.sweep import Sweep

def sleep(config):
    with open(config["log"], "a") as log:
        log.write(f"{os.getpid()}\\n")
    time.sleep(120)
    return {}

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background inherit that it is ignored
    configs = [{"x": number, "log": sys.argv[2]} for number in range(5)]
    Sweep(sleep, Path(sys.argv[1]), workers=2).execute(configs, progress=False)
"""


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="asks /proc")
@pytest.mark.parametrize("how", ["killed", "interrupted"])
def test_a_stopped_sweep_takes_its_workers_along(how: str, tmp_path: Path) -> None:
    program, log = tmp_path / "sleeper.py", tmp_path / "log"
    program.write_text(SLEEPER)
    # a group of its own, as a terminal's command: Ctrl-C reaches workers too
    parent = subprocess.Popen(
        [sys.executable, program, tmp_path / "cache", log], start_new_session=True, stderr=subprocess.PIPE
    )
    # both are at work when the file has two lines
    workers = _soon(
        lambda: found if len(found := log.read_text().split() if log.exists() else []) == 2 else []
    )
    assert parent.pid not in map(int, workers)
    if how == "killed":
        parent.kill()
    else:
        os.killpg(parent.pid, signal.SIGINT)
    _, errors = parent.communicate(timeout=60)
    assert parent.returncode != 0
    assert (b"KeyboardInterrupt" in errors) == (how == "interrupted")
    assert _soon(lambda: all(_ended(int(worker)) for worker in workers))
    assert log.read_text().split() == workers  # no other run was begun
    # whatever it held is free
    Sweep(square, tmp_path / "cache").make(configs(tmp_path, 0)[0])


def _ended(process: int) -> bool:
    """Whether a process is no more, or waits for somebody to ask how it ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def _soon(read: Callable[[], Any]) -> Any:
    for _ in range(600):
        if found := read():
            return found
        time.sleep(0.1)
    raise TimeoutError("nothing within a minute")
