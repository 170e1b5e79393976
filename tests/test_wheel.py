"""An installed wheel has all that the command needs, the networks' files too."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_every_room_and_the_networks_are_packaged() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    files = (ROOT / "bmrs_pyro").rglob("__init__.py")
    packages = {".".join(file.parent.relative_to(ROOT).parts) for file in files}
    assert set(settings["packages"]) == {*packages, "bmrs_pyro.models"}
    assert settings["package-dir"] == {"bmrs_pyro.models": "models"}
    assert not [path for path in (ROOT / "models").iterdir() if path.is_dir() and path.name != "__pycache__"]


def run(*arguments: object, cwd: Path) -> str:
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(list(map(str, arguments)), cwd=cwd, env=clean, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


@pytest.mark.slow
def test_the_demo_runs_from_a_wheel_outside_of_a_checkout(tmp_path: Path) -> None:
    """The other packages are lent by the present environment, so that nothing is downloaded."""
    source = tmp_path / "source"
    source.mkdir()
    for folder in ("bmrs_pyro", "models"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, source, cwd=tmp_path)
    shutil.rmtree(source)

    environment = tmp_path / "environment"
    venv.create(environment, symlinks=True)
    python = environment / "bin" / "python"
    (packages,) = (environment / "lib").glob("python*/site-packages")
    (wheel,) = tmp_path.glob("*.whl")
    run(*pip, "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=tmp_path)
    (packages / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")

    where = run(python, "-c", "import bmrs_pyro.runs as r; print(r.__file__, r.MODELS)", cwd=tmp_path)
    assert [Path(path).is_relative_to(packages) for path in where.split()] == [True, True]
    record = json.loads(run(environment / "bin" / "bmrs", "demo", "--epochs", "1", "--json", cwd=tmp_path))
    assert record["small"]["parameters"] <= record["dense"]["parameters"]
