"""What entry points import: help and refusals come without torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "pyro", "numpy", "matplotlib", "torchvision", "arviz", "sklearn", "rich.progress")
SCRIPT = """
import sys
from contextlib import suppress
{work}
found = [name for name in {heavy} if name in sys.modules]
assert not found, found
"""
HELP = """
from bmrs_pyro.cli.app import app
for words in ([], ["--help"], *([name, "--help"] for name in {names})):
    with suppress(SystemExit):
        app(words)
"""
REFUSAL = """
from bmrs_pyro.cli import main
sys.argv = ["bmrs", "fit", "net.py", "--out", "run", *{words}]
try:
    main()
except SystemExit as end:
    assert end.code == 2, end.code
else:
    raise AssertionError("not refused")
"""


def loads_nothing_heavy(work: str) -> None:
    code = SCRIPT.format(work=work, heavy=HEAVY)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_the_package_itself() -> None:
    loads_nothing_heavy("import bmrs_pyro, bmrs_pyro.training.recipe, bmrs_pyro.data.source")


def test_every_help() -> None:
    names = ["demo", "fit", "prune", "evaluate", "report", "compare", "export", "architectures", "bench"]
    loads_nothing_heavy(HELP.format(names=[*names, "reproduce"]))


@pytest.mark.parametrize(
    "words",
    [
        ["--epochs", "-1"],
        ["--epochs", "many"],
        ["--kl-weight", "mean:much"],
        ["--criterion", "vibes"],
        ["--draws", "pixel"],
        ["--no-such-option"],
    ],
    ids=" ".join,
)
def test_refusals_of_wrong_options(words: list[str]) -> None:
    loads_nothing_heavy(REFUSAL.format(words=words))
