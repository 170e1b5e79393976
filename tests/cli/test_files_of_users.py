"""What users hand to the command: networks with mistakes, odd names, places where nothing can be written."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from bmrs_pyro.files import seal, unseal
from bmrs_pyro.runs import RunDirectory
from tests.cli.test_commands import command
from tests.distributed.processes import FORKS, PATIENCE
from tests.finished_run import SOURCE
from tests.reliability.test_crashes import without_privilege

SHORT = ["--epochs", 1, "--fine-tune-epochs", 1, "--batch-size", 64]

TALKING = """
from torch import nn
print("imported")

class Net(nn.Sequential):
    def forward(self, x):
        print("called")
        return super().forward(x)

def network(input_shape, num_classes):
    print("made")
    return Net(nn.Flatten(), nn.Linear(64, 12), nn.Tanh(), nn.Linear(12, num_classes))
"""

NAMES = """
from collections import OrderedDict
from torch import nn

def network(input_shape, num_classes):
    layers = {"flat": nn.Flatten(), "[bold red]x[/y]": nn.Linear(64, 12), "act": nn.Tanh(),
              "$x_{$": nn.Linear(12, 8), "act2": nn.Tanh(), "out": nn.Linear(8, num_classes)}
    return nn.Sequential(OrderedDict(layers))
"""


def test_prints_of_the_network_do_not_break_the_json(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(TALKING)
    result = command("fit", "net.py", "--out", "run", *SHORT, "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["run"] == "run"
    assert {"imported", "made", "called"} <= set(result.stderr.split())
    result = command("report", tmp_path / "run", "--json")
    assert json.loads(result.stdout)["run"] == str(tmp_path / "run")


def test_layer_names_are_no_markup(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NAMES)
    result = command("fit", "net.py", "--out", "run", *SHORT, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "theta.[bold red]x[/y]" in result.stdout
    result = command("compare", "run", "--repeats", 1, cwd=tmp_path)  # its picture names them too
    assert result.returncode == 0, result.stderr
    result = command("report", "run", "--html", "page.html", cwd=tmp_path)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("def network(width): return nn.Linear(1, 1)", "called with (input_shape, num_classes)"),
        ("def network(shape, classes): return {}['width']", "net.py, line 2: KeyError: 'width'"),
        (
            "class Net(nn.Sequential):\n def forward(s, x): return super().forward(x) if len(x) < 64 else {}[64]\n"
            "def network(s, c): return Net(nn.Flatten(), nn.Linear(64, 9), nn.Tanh(), nn.Linear(9, c))",
            "line 3: KeyError: 64",
        ),
        (
            "class N(nn.Linear):\n    def forward(s, x): return s.absent(x)\nnetwork = lambda s, c: N(64, c)",
            "net.py, line 3: the network does not run on the example inputs",
        ),
    ],
)
def test_mistakes_in_the_networks_file_end_in_one_line(code: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(f"from torch import nn\n{code}\n")
    result = command("fit", "net.py", "--out", "run", *SHORT, "--quiet", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert expected in result.stderr


def test_code_outside_a_run_is_imported_by_an_option(
    finished_run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run.path, run)
    (tmp_path / "outside_of_runs.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    config = unseal((run / "config.json").read_text())
    config |= {"model": "outside_of_runs:network", "source_sha256": None}
    (run / "config.json").write_text(json.dumps(seal(config)))
    for name, *options in (["report"], ["evaluate"], ["prune"], ["compare", "--repeats", 1], ["export"]):
        refused = command(name, run, *options)
        assert refused.returncode == 2
        assert "--trust-source" in refused.stderr
        assert refused.stderr.count("\n") == 1
        done = command(name, run, *options, "--trust-source", "--quiet")
        assert done.returncode == 0, done.stderr


def test_the_suffix_decides_what_is_exported(finished_run: RunDirectory, tmp_path: Path) -> None:
    done = command("export", finished_run.path, "--out", tmp_path / "a.safetensors", "--json")
    assert json.loads(done.stdout)["format"] == "safetensors"
    for options, expected in (
        (["--out", "a.bin"], "the suffix of a.bin names no format"),
        (["--out", "a.onnx", "--format", "pt2"], "ends in .onnx, but the format is pt2"),
    ):
        refused = command("export", finished_run.path, *options, cwd=tmp_path)
        assert refused.returncode == 2
        assert expected in refused.stderr
    assert {file.name for file in tmp_path.iterdir()} == {"a.safetensors"}
    assert (
        command("export", finished_run.path, "--out", tmp_path / "a.bin", "--format", "pt2").returncode == 0
    )


def answered(folder: Path, *arguments: object) -> None:
    without_privilege()
    result = command(*arguments, cwd=folder)
    (folder / "status").write_text(str(result.returncode))
    (folder / "stderr").write_text(result.stderr)


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["compare"], "widths.png"),
        (["export"], "small.pt2"),
        (["report", "--picture", "run/a.png"], "a.png"),
        (["report", "--html", "run/a.html"], "a.html"),
        (["prune"], ".lock"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else None,
)
def test_a_read_only_run_is_refused_before_anything_is_measured(
    arguments: list[str], name: str, finished_run: RunDirectory, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run.path, run)
    (run / "model.py").unlink()  # whoever makes the network first does not get further
    run.chmod(0o555)
    child = FORKS.Process(target=answered, args=(tmp_path, arguments[0], "run", *arguments[1:]))
    child.start()
    child.join(PATIENCE)
    run.chmod(0o755)
    assert (tmp_path / "status").read_text() == "2"
    assert f"{name} cannot be written (Permission denied)" in (tmp_path / "stderr").read_text()


def test_a_picture_of_no_format_is_refused_at_the_start(finished_run: RunDirectory, tmp_path: Path) -> None:
    for name in ("report", "compare"):
        result = command(name, finished_run.path, "--picture", tmp_path / "a.doc")
        assert result.returncode == 2
        assert "doc is not a figure format" in result.stderr
        assert not result.stdout
