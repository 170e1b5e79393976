"""The records of epochs: they grow by a line, and are mended from the state."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bmrs_pyro.runs import RunError
from bmrs_pyro.runs.epoch_log import EpochLog
from bmrs_pyro.training import Epoch


def epoch(number: int) -> Epoch:
    return Epoch(number, "prune", -1 / 3, 0.1, 0.5, None, 0, {"theta.0": 12}, 1e-3, 0.25, [64])


@pytest.fixture
def log(tmp_path: Path) -> EpochLog:
    log = EpochLog(tmp_path / "metrics.jsonl")
    for number in range(1, 6):
        log.append(epoch(number))
    return log


def test_a_record_is_added_to_the_file(log: EpochLog) -> None:
    inode, size = log.path.stat().st_ino, log.path.stat().st_size
    log.append(epoch(6))
    assert log.path.stat().st_ino == inode
    assert 0 < log.path.stat().st_size - size < size / 4
    assert log.records() == [epoch(number) for number in range(1, 7)]
    log.append(epoch(1))  # a run that begins anew
    assert log.records() == [epoch(1)]


def test_a_line_that_is_being_written_is_left_out(log: EpochLog) -> None:
    text = log.path.read_text()
    log.path.write_text(text[:-20])
    assert log.records() == [epoch(number) for number in range(1, 5)]
    log.path.write_text(text[:-1])
    assert len(log.records()) == 5


DAMAGE: dict[str, Callable[[str], str]] = {
    "as it should be": lambda text: text,
    "behind": lambda text: "".join(text.splitlines(keepends=True)[:2]),
    "cut": lambda text: text[:-20],
    "without its end": lambda text: text[:-1],
    "ahead": lambda text: text + text,
    "changed": lambda text: text.replace("12", "13"),
    "empty": lambda text: "",
    "nested": lambda text: "[" * 100_000,
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("left", [3, 5])
def test_it_is_mended_from_the_state(log: EpochLog, damage: str, left: int) -> None:
    log.path.write_text(DAMAGE[damage](log.path.read_text()))
    right = [epoch(number) for number in range(1, left + 1)]
    log.mend(right)
    assert log.records() == right
    log.append(epoch(left + 1))
    assert len(log.records()) == left + 1


def test_what_is_missing_or_no_text_is_mended(log: EpochLog) -> None:
    log.path.write_bytes(b"\xff")
    log.mend([epoch(1)])
    assert log.records() == [epoch(1)]
    log.path.unlink()
    log.mend([epoch(1)])
    assert log.records() == [epoch(1)]


def test_a_newer_format_is_not_overwritten(log: EpochLog) -> None:
    text = json.dumps({"format_version": 99})
    log.path.write_text(text)
    with pytest.raises(RunError, match="format version 99"):
        log.mend([epoch(1)])
    assert log.path.read_text() == text
