"""Every file of a run, damaged a thousand times: refused in one line or read as it was, never executed."""

from __future__ import annotations

import builtins
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bmrs_pyro.runs import RunDirectory, RunError, SourceError
from bmrs_pyro.training import CheckpointError

MUTATIONS = 1000
SLOWEST = 5.0  # seconds that one reading may take


def plain(value: Any) -> Any:
    """Tensors as lists, so that == compares contents."""
    if isinstance(value, Tensor):
        return (str(value.dtype), value.tolist())
    if hasattr(value, "items"):
        return {key: plain(part) for key, part in value.items()}
    return value


def state(run: RunDirectory) -> Any:
    found = run.checkpoint.load()
    assert found is not None
    return plain(found.keep), [asdict(epoch) for epoch in found.epochs], found.best, plain(found.tensors)


def network(run: RunDirectory) -> Any:
    noisy, posteriors, keep = run.network()
    parameters = {name: (plain(q.loc), plain(q.scale), float(q.low)) for name, q in posteriors.items()}
    return plain(noisy.net.state_dict()), parameters, plain(keep)


def decision(run: RunDirectory) -> Any:
    return run.decision().to_json()


def built(net: nn.Module) -> Any:
    return plain(net.state_dict())


READERS: dict[str, Callable[[RunDirectory], Any]] = {
    "config.json": lambda run: run.config,
    "metrics.jsonl": lambda run: run.metrics(),
    "state.safetensors": state,
    "network.safetensors": network,
    "compact.safetensors": lambda run: built(run.small()),
    "reduction.json": decision,
    "model.py": lambda run: built(run.dense()),
}


def mutated(content: bytes, others: list[bytes], rng: np.random.Generator) -> bytes:
    """Damage: flipped bits, a cut, a lost or doubled piece, zeros, noise, another file's head."""
    data = bytearray(content)
    start, length = int(rng.integers(len(data))), int(rng.integers(1, 65))
    match int(rng.integers(7)):
        case 0:
            for position in rng.integers(len(data), size=int(rng.integers(1, 9))):
                data[position] ^= 1 << int(rng.integers(8))
        case 1:
            del data[start:]
        case 2:
            del data[start : start + length]
        case 3:
            data[start:start] = data[start : start + length]
        case 4:
            data[start : start + length] = bytes(len(data[start : start + length]))
        case 5:
            data[start : start + length] = rng.bytes(length)
        case 6:
            other = others[int(rng.integers(len(others)))]
            cut = int(rng.integers(1, len(other) // 2))
            data[:cut] = other[:cut]
    return bytes(data)


class Watch:
    """Notes what the interpreter reports of code, processes and pickles, while it is on."""

    def __init__(self) -> None:
        self.on, self.seen = False, set[str]()
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.on and event in ("exec", "os.system", "subprocess.Popen", "pickle.find_class"):
            self.seen.add(event)


WATCH = Watch()


@pytest.mark.parametrize("name", READERS)
def test_damage_is_refused_or_harmless(finished_run: RunDirectory, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished_run.path, folder)
    run, read = RunDirectory(folder), READERS[name]
    expected = read(run)
    whole = (folder / name).read_bytes()
    others = [(folder / other).read_bytes() for other in READERS if other != name]
    rng = np.random.default_rng(0)
    noticed = 0
    for number in range(MUTATIONS):
        damaged = mutated(whole, others, rng)
        (folder / name).write_bytes(damaged)
        executions = getattr(builtins, "bmrs_executions", 0)
        WATCH.seen.clear()
        WATCH.on, start = True, time.perf_counter()
        try:
            found = read(run)
        except (RunError, CheckpointError, SourceError) as error:
            found, message = None, str(error)
        finally:
            WATCH.on = False
        assert time.perf_counter() - start < SLOWEST, f"mutation {number} is slow"
        if found is None:
            noticed += 1
            assert "\n" not in message, f"mutation {number}: {message}"
            assert getattr(builtins, "bmrs_executions", 0) == executions, (
                f"mutation {number} was executed: {message}"
            )
            assert not WATCH.seen, f"mutation {number}: {WATCH.seen}"
        else:
            # a run that was interrupted leaves its first epochs
            right = expected[: len(found)] if name == "metrics.jsonl" else expected
            assert found == right, f"mutation {number} was read as something else"
            noticed += found != expected
    assert noticed > 0.9 * MUTATIONS


def test_sound_files_in_each_others_place_are_refused(finished_run: RunDirectory, tmp_path: Path) -> None:
    for name, read in READERS.items():
        for other in READERS:
            if name == other:
                continue
            folder = tmp_path / f"{name}-{other}"
            shutil.copytree(finished_run.path, folder)
            shutil.copyfile(finished_run.path / other, folder / name)
            with pytest.raises((RunError, CheckpointError, SourceError)):
                read(RunDirectory(folder))


def test_a_newer_format_is_named(finished_run: RunDirectory, tmp_path: Path) -> None:
    shutil.copytree(finished_run.path, tmp_path / "run")
    run = RunDirectory(tmp_path / "run")
    (run.path / "reduction.json").write_text('{"format_version": 99}')
    with pytest.raises(RunError, match=r"format version 99.*update bmrs_pyro"):
        run.decision()


def test_a_pickle_is_not_opened(finished_run: RunDirectory, tmp_path: Path) -> None:
    shutil.copytree(finished_run.path, tmp_path / "run")
    run = RunDirectory(tmp_path / "run")
    torch.save({"weight": torch.zeros(3)}, run.path / "compact.safetensors")
    remedy = "; delete it, and bmrs fit ... --resume makes it again"
    with pytest.raises(RunError, match=rf"compact\.safetensors is damaged .*{remedy}"):
        run.small()


def test_a_missing_or_damaged_file_says_what_helps(finished_run: RunDirectory, tmp_path: Path) -> None:
    shutil.copytree(finished_run.path, tmp_path / "run")
    run = RunDirectory(tmp_path / "run")
    (run.path / "metrics.jsonl").unlink()
    with pytest.raises(RunError, match=r"metrics\.jsonl is missing; has the run finished\? .*--resume"):
        run.metrics()
    (run.path / "metrics.jsonl").write_text("nothing\n")
    with pytest.raises(
        RunError, match=r"metrics\.jsonl cannot be read .*; delete it, and bmrs fit .* --resume"
    ):
        run.metrics()
    (run.path / "config.json").write_text("{")
    with pytest.raises(
        RunError, match=r"config\.json cannot be read .*; restore it from a copy, or make a new run"
    ):
        RunDirectory(run.path).config  # noqa: B018
