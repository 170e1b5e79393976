"""What several files of tests share: a small classification problem, and copies of a finished run."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest


def write_problem(folder: Path, source: str) -> tuple[np.ndarray, np.ndarray]:
    """Write a network's file and ``data.npz`` with three classes of six features; return the training part."""
    (folder / "net.py").write_text(source)
    random = np.random.default_rng(0)
    y = np.arange(600) % 3
    x = (np.eye(3, 6)[y] * 3 + random.normal(size=(600, 6))).astype(np.float32)
    np.savez(folder / "data.npz", x_train=x[:500], y_train=y[:500], x_test=x[500:], y_test=y[500:])
    return x[:500], y[:500]


@pytest.fixture
def copy(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the run in a module's folder; the working directory is where its data are."""
    shutil.copytree(folder / "run", tmp_path / "run")
    monkeypatch.chdir(folder)
    return tmp_path / "run"
