"""A run that is killed, or that cannot write: what was saved is whole, and the run goes on to the same result."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from bmrs_pyro.cli import main
from bmrs_pyro.runs import RunDirectory
from tests.distributed.processes import FORKS, PATIENCE
from tests.finished_run import SOURCE

OPTIONS = [
    "--batch-size",
    "64",
    "--lr",
    "1e-3",
    "--posterior-lr-factor",
    "120",
    "--kl-weight",
    "mean:0.1",
    "--quiet",
]
OPTIONS += ["--epochs", "7", "--fine-tune-epochs", "1"]
WRITES = 2 + 2 * 8 + 3  # source and configuration, metrics and state of every epoch, what came out
PHASES = ("half written", "written", "renamed")


def start(folder: Path, *, before: Callable[[], object] = int, out: str = "run") -> Any:
    """Start or continue the run in a process of its own, after some preparation there."""
    process = FORKS.Process(target=_run, args=(folder, before, out))
    process.start()
    return process


def status(process: Any) -> int:
    """Wait for a process."""
    process.join(PATIENCE)
    code = process.exitcode
    assert isinstance(code, int), "the process hangs"
    return code


def _run(folder: Path, before: Callable[[], object], out: str) -> None:
    os.chdir(folder)
    os.dup2(os.open("errors", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    torch.set_num_threads(1)
    before()
    warnings.filterwarnings(
        "ignore", message=".* few or no structures will leave"
    )  # too few steps, and right to say so
    sys.argv = ["bmrs", "fit", "network.py", "--out", out, *OPTIONS, "--resume"]
    main()


def die(write: int, phase: str) -> None:
    """Let the process be killed at a phase of its ``write``-th writing of a file, from 0, or of a line added."""
    count = -1
    fsync, replace = os.fsync, Path.replace

    def counted(descriptor: int) -> None:
        nonlocal count
        count += 1
        status, metrics = os.fstat(descriptor), Path(sys.argv[sys.argv.index("--out") + 1], "metrics.jsonl")
        grows = metrics.exists() and os.path.samestat(status, metrics.stat())
        if count == write and phase == "half written":
            before = len(b"".join(metrics.read_bytes().splitlines(True)[:-1])) if grows else 0
            os.truncate(descriptor, (before + status.st_size) // 2)
        if count == write and phase != "renamed":
            os.kill(os.getpid(), signal.SIGKILL)
        fsync(descriptor)
        if count == write and grows:
            os.kill(os.getpid(), signal.SIGKILL)

    def last(path: Path, target: Path) -> None:
        replace(path, target)
        if count == write and phase == "renamed":
            os.kill(os.getpid(), signal.SIGKILL)

    os.fsync = counted  # type: ignore[assignment]
    Path.replace = last  # type: ignore[assignment,method-assign]


def content(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    with safe_open(str(path), framework="pt") as file:
        meta = dict(file.metadata())
        return meta, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (the reader is no mapping)


def assert_same(one: Path, other: Path) -> None:
    """The two runs came to the same, bit for bit."""
    assert {file.name for file in one.iterdir()} == {file.name for file in other.iterdir()}
    for name in ("network", "compact", "state"):
        (meta, tensors), (other_meta, other_tensors) = (
            content(run / f"{name}.safetensors") for run in (one, other)
        )
        if name != "state":  # that one tells the seconds that epochs took
            assert meta == other_meta
        assert tensors.keys() == other_tensors.keys()
        for key, value in tensors.items():
            same = torch.equal(value.nan_to_num(), other_tensors[key].nan_to_num())  # of scores not asked for
            assert same, f"{name}: {key}"
    assert (one / "reduction.json").read_text() == (other / "reduction.json").read_text()
    records = [
        [(e.epoch, e.elbo, e.kl, e.accuracy, e.removed) for e in RunDirectory(run).metrics()]
        for run in (one, other)
    ]
    assert records[0] == records[1]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """An uninterrupted run, and the seconds that it took."""
    folder = tmp_path_factory.mktemp("straight")
    (folder / "network.py").write_text(SOURCE)
    status(start(folder, before=sys.exit))  # the process that is forked from has imported everything now
    begin = time.monotonic()
    assert status(start(folder)) == 0, (folder / "errors").read_text()
    run = RunDirectory(folder / "run")
    assert run.decision().keep.removed > 0
    return run.path, time.monotonic() - begin


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "network.py").write_text(SOURCE)
    return tmp_path


def test_killed_again_and_again_while_it_writes(straight: tuple[Path, float], folder: Path) -> None:
    """Kills at chosen phases of a few files; each attempt gets a little further."""
    for write, phase in [
        (1, "half written"),  # the configuration
        (4, "written"),  # the first epoch's metrics
        (3, "half written"),  # a state
        (4, "renamed"),  # metrics, ahead of the state
        (7, "half written"),
        (1, "renamed"),
    ]:
        assert status(start(folder, before=partial(die, write, phase))) == -signal.SIGKILL
        state = RunDirectory(folder / "run").checkpoint.load()
        assert state is None or len(state.epochs) > 0
    assert len(RunDirectory(folder / "run").metrics()) > 4
    assert status(start(folder)) == 0, (folder / "errors").read_text()
    assert_same(straight[0], folder / "run")


@pytest.mark.slow
def test_killed_at_twenty_random_moments(straight: tuple[Path, float], folder: Path) -> None:
    """Ten points in time, and ten phases of the writing of a file."""
    random = np.random.default_rng(0)
    killed = 0
    for moment in range(20):
        shutil.rmtree(folder / "run", ignore_errors=True)
        if moment % 2:
            write, phase = int(random.integers(WRITES)), str(random.choice(PHASES))
            process = start(folder, before=partial(die, write, phase))
        else:
            process = start(folder)
            process.join(random.uniform(0, straight[1]))
            process.kill()
        killed += status(process) == -signal.SIGKILL
        assert status(start(folder)) == 0, (folder / "errors").read_text()
        assert_same(straight[0], folder / "run")
    assert killed >= 15  # a point in time may lie behind the end


def pause(folder: Path) -> None:
    """Let the process wait in the middle of its third epoch's metrics, until the file ``go`` is there."""
    count, fsync = 0, os.fsync

    def waiting(descriptor: int) -> None:
        nonlocal count
        count += 1
        fsync(descriptor)
        while count == 7 and not (folder / "go").exists():
            (folder / "waiting").touch()
            time.sleep(0.01)

    os.fsync = waiting  # type: ignore[assignment]


def test_a_run_that_is_still_running_is_not_resumed(straight: tuple[Path, float], folder: Path) -> None:
    process = start(folder, before=partial(pause, folder))
    while process.is_alive() and not (folder / "waiting").exists():
        time.sleep(0.01)
    assert len(RunDirectory(folder / "run").metrics()) == 3  # it can be read
    for _ in range(2):
        assert status(start(folder)) == 2
        message = (folder / "errors").read_text()
        assert message == "error: another process is at work on run; wait for it, or stop it\n"
    (folder / "go").touch()
    assert status(process) == 0
    assert_same(straight[0], folder / "run")


def interrupted(folder: Path, out: str = "run") -> bytes:
    """Make a run that was killed in its fourth epoch; return its last state."""
    assert status(start(folder, before=partial(die, 8, "half written"), out=out)) == -signal.SIGKILL
    assert len(RunDirectory(folder / out).metrics()) == 3
    return (folder / out / "state.safetensors").read_bytes()


def assert_refused(process: Any, folder: Path, *reasons: str) -> None:
    assert status(process) == 2
    message = (folder / "errors").read_text()
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    assert "continue with --resume" in message
    assert any(reason in message for reason in reasons), message


def small_files(limit: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


def test_a_file_that_does_not_fit_leaves_the_last_state(straight: tuple[Path, float], folder: Path) -> None:
    before = interrupted(folder)
    process = start(folder, before=partial(small_files, 4096))
    assert_refused(process, folder, os.strerror(errno.EFBIG))
    assert "state.safetensors cannot be written" in (folder / "errors").read_text()
    assert (folder / "run" / "state.safetensors").read_bytes() == before
    assert not list((folder / "run").glob(".*"))
    assert status(start(folder)) == 0
    assert_same(straight[0], folder / "run")


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_leaves_the_last_state(
    straight: tuple[Path, float], folder: Path, tiny_disk: Path
) -> None:
    before = interrupted(folder, "disk/run")
    filling = tiny_disk / "filling"
    with filling.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    assert_refused(start(folder, out="disk/run"), folder, "No space left on device")
    assert (tiny_disk / "run" / "state.safetensors").read_bytes() == before
    filling.unlink()
    assert status(start(folder, out="disk/run")) == 0
    assert_same(straight[0], tiny_disk / "run")


def without_privilege() -> None:
    """Take from root the right to write where the permissions forbid it."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3 of the interface, this process
        sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; twice 32 bits
        assert libc.capget(header, sets) == 0
        sets[0] &= ~0b10  # CAP_DAC_OVERRIDE
        assert libc.capset(header, sets) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's capabilities")
def test_a_read_only_directory_leaves_the_last_state(straight: tuple[Path, float], folder: Path) -> None:
    before = interrupted(folder)
    run = folder / "run"
    run.chmod(0o555)
    process = start(folder, before=without_privilege)
    assert_refused(process, folder, os.strerror(errno.EACCES))
    assert (run / "state.safetensors").read_bytes() == before
    run.chmod(0o755)
    assert status(start(folder)) == 0
    assert_same(straight[0], run)


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's capabilities")
def test_a_run_is_not_begun_where_nothing_can_be_written(folder: Path) -> None:
    (folder / "readable").mkdir(mode=0o555)
    assert status(start(folder, before=without_privilege, out="readable/run")) == 2
    message = (folder / "errors").read_text()
    assert message == f"error: readable/run cannot be written ({os.strerror(errno.EACCES)})\n"


NAMES = ("config.json", "state.safetensors", "metrics.jsonl")


@pytest.mark.parametrize("name", NAMES)
def test_a_run_of_a_newer_version_is_refused_by_name(folder: Path, name: str) -> None:
    interrupted(folder)
    file = folder / "run" / name
    if name.endswith(".safetensors"):
        file.write_bytes(file.read_bytes().replace(b'"format_version":"2"', b'"format_version":"9"'))
    else:
        text = file.read_text()
        record = json.loads(text.splitlines()[0] if name == "metrics.jsonl" else text)
        file.write_text(json.dumps({**record, "format_version": 9}))
    assert status(start(folder)) == 2
    message = (folder / "errors").read_text()
    assert f"{name} cannot be read (it has format version 9, this bmrs_pyro reads up to 2" in message
    assert "update bmrs_pyro" in message
    assert message.count("\n") == 1
