"""Which room may import which: the table of the design, walked over the syntax trees."""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path

import pytest

from bmrs_pyro.renamed import RENAMED

ROOT = Path(__file__).parent.parent
# in this order: a room imports only what stands above it, and of that only what it needs
ROOMS = {
    "distributions": set(),
    "files": set(),
    "data": set(),
    "network": set(),
    "reduction": {"distributions"},
    "distributed": {"distributions"},
    "inference": {"distributions", "network", "distributed"},
    "metrics": {"distributions", "network", "inference"},
    "training": {"distributions", "files", "network", "reduction", "distributed", "inference"},
    "weights": {"distributions", "network", "reduction", "inference", "metrics", "training"},
    "path": {
        *(
            "distributions",
            "files",
            "network",
            "reduction",
            "distributed",
            "inference",
            "metrics",
            "training",
        ),
    },
    "runs": {
        *("distributions", "files", "data", "network", "reduction", "distributed", "inference", "training"),
        *("metrics", "path"),
    },
    "reporting": {
        *("distributions", "files", "data", "network", "reduction", "inference", "training"),
        *("metrics", "path", "runs"),
    },
    "pruning": {
        *("distributions", "files", "network", "inference", "training", "path", "runs", "reporting"),
    },
    "export": {"files", "network", "runs"},
    "experiments": {
        *("distributions", "files", "data", "network", "reduction", "distributed", "inference", "training"),
        *("weights", "metrics", "path", "runs", "reporting", "pruning"),
    },
}
FILES = [(room, path) for room in ROOMS for path in sorted((ROOT / "bmrs_pyro" / room).rglob("*.py"))]


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            # `from bmrs_pyro import data` imports the room, not the whole package
            names |= (
                {f"bmrs_pyro.{alias.name}" for alias in node.names}
                if node.module == "bmrs_pyro"
                else {node.module or ""}
            )
    return names


@pytest.mark.parametrize(("room", "path"), FILES, ids=[str(path.relative_to(ROOT)) for _, path in FILES])
def test_imports_run_one_way(room: str, path: Path) -> None:
    for name in imported(path):
        if name.split(".")[0] == "bmrs_pyro":
            assert name.count(".") >= 1, f"{room} imports the whole package"
            assert name.split(".")[1] in ROOMS[room] | {room, "renamed"}
    if room == "network":
        assert not any(name.split(".")[0] == "pyro" for name in imported(path))


def test_every_room_is_in_the_table() -> None:
    rooms = {path.name for path in (ROOT / "bmrs_pyro").iterdir() if (path / "__init__.py").exists()}
    assert rooms == set(ROOMS) | {"cli"}


@pytest.mark.parametrize("package", RENAMED)
def test_old_names_work_and_warn(package: str) -> None:
    for name, (home, new) in RENAMED[package].items():
        with pytest.warns(DeprecationWarning, match=f"{package}.{name} is {home}.{new}"):
            assert getattr(import_module(package), name) is getattr(import_module(home), new)
    with pytest.raises(AttributeError):
        _ = import_module(package).no_such_name


@pytest.mark.parametrize("room", ["", *(room for room in ROOMS if room != "experiments")])
def test_every_public_name_is_there_and_hides_no_module(room: str) -> None:
    package = import_module(f"bmrs_pyro.{room}".rstrip("."))
    stub = ROOT / "bmrs_pyro" / room / "__init__.pyi"
    for name in package.__all__ if stub.exists() else ():
        assert not (stub.parent / f"{name}.py").exists(), f"{name} is a module too"
        getattr(package, name)
