"""``bmrs fit`` in two processes, as torchrun starts them."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bmrs_pyro import load
from bmrs_pyro.cli import main
from bmrs_pyro.runs import RunDirectory
from tests.distributed.processes import FORKS, PATIENCE

ROOT = Path(__file__).parents[2]
MLP = str(ROOT / "models" / "mlp.py")
SHORT = [MLP, "--epochs", "2", "--fine-tune-epochs", "1", "--batch-size", "60"]
LONG = [MLP, "--epochs", "500", "--kl-weight", "cost", "--quiet"]


def member(folder: Path, rank: int, size: int, port: int, arguments: list[str]) -> None:
    """Do what torchrun makes a process do."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    os.chdir(folder)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{rank} of {size}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.argv = ["bmrs", *arguments]
    main()


def bmrs(folder: Path, size: int, *arguments: str) -> list[tuple[int | None, str, str]]:
    """Run the command in processes; return status, output and errors of each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [
        FORKS.Process(target=member, args=(folder, rank, size, port, list(arguments))) for rank in range(size)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE)
    return [
        (
            process.exitcode,
            *((folder / f"{rank} of {size}.{name}").read_text() for name in ("out", "err")),  # type: ignore[misc]
        )
        for rank, process in enumerate(processes)
    ]


def test_two_processes_make_the_run_of_one(tmp_path: Path) -> None:
    ((status, _, errors),) = bmrs(tmp_path, 1, "fit", *SHORT, "--out", "one", "--quiet")
    assert status == 0, errors
    first, second = bmrs(tmp_path, 2, "fit", *SHORT, "--out", "two", "--json")
    assert first[0] == second[0] == 0, first[2] + second[2]
    assert json.loads(first[1])["families"].keys() == RunDirectory(tmp_path / "two").decision().keep.keys()
    assert second[1] == ""
    one, two = (RunDirectory(tmp_path / name) for name in ("one", "two"))
    assert [list(epoch.examples) for epoch in one.metrics()] == [[1150]] * 3
    assert [list(epoch.examples) for epoch in two.metrics()] == [[575, 575]] * 3
    assert {file.name for file in one.path.iterdir()} == {file.name for file in two.path.iterdir()}
    assert one.decision().keep == two.decision().keep
    values = [load_file(run.path / "network.safetensors") for run in (one, two)]
    for name, value in values[0].items():
        torch.testing.assert_close(values[1][name], value, rtol=1e-4, atol=1e-4, msg=name)  # after 60 steps
    assert load(two.path)(torch.zeros(1, 1, 8, 8)).shape == (1, 10)


def test_two_processes_choose_alike_from_one_path(tmp_path: Path) -> None:
    along = [MLP, "--epochs", "3", "--dense-epochs", "1", "--batch-size", "60", "--max-params", "100%"]
    first, second = bmrs(tmp_path, 2, "fit", *along, "--max-latency", "10s", "--out", "two", "--json")
    assert first[0] == second[0] == 0, first[2] + second[2]
    answer = json.loads(first[1])
    assert answer["path"]["met"] is True
    assert second[1] == ""
    run = RunDirectory(tmp_path / "two")
    assert {tuple(epoch.examples) for epoch in run.metrics()} == {(2875, 2875)}  # five passes
    assert answer["small"]["parameters"] == sum(weight.numel() for weight in run.small().parameters())


def test_what_is_wrong_is_said_once(tmp_path: Path) -> None:
    first, second = bmrs(tmp_path, 2, "fit", "missing.py", "--out", "run")
    assert first[0] == second[0] == 2
    assert first[2].startswith("error (process 0 of 2): ")
    assert "missing.py" in first[2]
    assert first[2].count("\n") == 1
    assert second[2] == ""


def torchrun(folder: Path, *arguments: object) -> subprocess.Popen[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "bmrs_pyro"]
    with (folder / "torchrun.txt").open("w") as output:
        return subprocess.Popen(
            [*launcher, *map(str, arguments)],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            text=True,
            env={**os.environ, "BMRS_TIMEOUT": "30"},
        )


def workers(launcher: int) -> list[int]:
    """Return the processes of a torchrun, by rank."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    ranks = {}
    for child in children:
        environment = Path(f"/proc/{child}/environ").read_bytes().decode()
        if (found := re.search(r"\0RANK=(\d+)\0", environment)) is not None:
            ranks[int(found[1])] = int(child)
    return [ranks[rank] for rank in sorted(ranks)]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize(("dies", "how"), [(1, signal.SIGKILL), (0, signal.SIGKILL), (1, signal.SIGSTOP)])
def test_a_dead_process_ends_the_others_within_a_minute(
    tmp_path: Path, dies: int, how: signal.Signals
) -> None:
    launcher = torchrun(tmp_path, "fit", *LONG, "--out", "run")
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "run" / "state.safetensors").exists():
            assert time.monotonic() < deadline
            assert launcher.poll() is None, (tmp_path / "torchrun.txt").read_text()
            time.sleep(0.1)
        pids = workers(launcher.pid)
        assert len(pids) == 2
        os.kill(pids[dies], how)
        death = time.monotonic()
        other = Path(f"/proc/{pids[1 - dies]}")
        while other.exists() and "State:\tZ" not in (other / "status").read_text():
            assert time.monotonic() - death < 60
            time.sleep(0.05)
        if how == signal.SIGSTOP:
            os.kill(pids[dies], signal.SIGKILL)
        assert launcher.wait(60) != 0
    finally:
        launcher.kill()
    lines = (tmp_path / "torchrun.txt").read_text().splitlines()
    told = [line for line in lines if line.startswith(f"error (process {1 - dies} of 2): ")]
    assert len(told) == 1, lines
    assert "the last checkpoint is complete" in told[0]
    run = RunDirectory(tmp_path / "run")
    assert run.checkpoint.load() is not None
