"""What a file names is not imported on its word, and a mistake in a network's own code is told as that."""

from __future__ import annotations

import json
import os
import py_compile
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from bmrs_pyro.files import load_tensors, save_tensors, seal, unseal
from bmrs_pyro.runs import (
    NetworkSource,
    RunDirectory,
    RunError,
    SourceError,
    line_at_fault,
    load,
    save_portable,
)


def portable(run: RunDirectory, path: Path, **changes: str) -> Path:
    """A single file of a run, with other texts in its head and a checksum that fits them."""
    save_portable(run, path)
    tensors, meta = load_tensors(path)
    save_tensors(path, tensors, {**meta, **changes})
    return path


def changed(run: RunDirectory, path: Path, **changes: Any) -> Path:
    """A copy of a run, with another configuration and a checksum that fits it."""
    shutil.copytree(run.path, path)
    config = path / "config.json"
    config.write_text(json.dumps(seal(unseal(config.read_text()) | changes)))
    return path


CALL = {"model": "subprocess:call", "input_shape": json.dumps(["touch", "X"])}


def test_a_file_runs_no_command(
    finished_run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = portable(finished_run, tmp_path / "small.safetensors", **CALL)
    for trusted in (False, True):  # the types are wrong in any case
        with pytest.raises(RunError, match=r"input_shape is \['touch', 'X'\], expected tuple"):
            load(file, trust_source=trusted)
    run = changed(finished_run, tmp_path / "run", model="subprocess:call", source_sha256=None)
    with pytest.raises(SourceError, match=r"'subprocess:call', which is code outside it.*trust_source=True"):
        load(run)
    run = changed(finished_run, tmp_path / "other", model="subprocess:call", input_shape=["touch", "X"])
    with pytest.raises(RunError, match="input_shape is"):
        load(run, trust_source=True)
    with pytest.raises(SourceError, match="input shape"):
        NetworkSource("subprocess:call").build(("touch", "X"), 10)  # type: ignore[arg-type]
    assert not (tmp_path / "X").exists()


def test_a_module_is_imported_when_the_caller_says_so(
    finished_run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = (finished_run.path / "model.py").read_text()
    (tmp_path / "named_by_a_file.py").write_text(
        f"open({str(tmp_path / 'imported')!r}, 'w').close()\n{source}"
    )
    monkeypatch.syspath_prepend(tmp_path)
    spec = "named_by_a_file:network"
    run = changed(finished_run, tmp_path / "run", model=spec, source_sha256=None)
    file = portable(finished_run, tmp_path / "small.safetensors", model=spec, sha256="")
    mine = finished_run.dense()
    for path in (run, file):
        with pytest.raises(SourceError, match=spec) as caught:
            load(path)
        assert "\n" not in str(caught.value)
        load(path, mine)
    assert not (tmp_path / "imported").exists()
    for path in (run, file):
        assert isinstance(load(path, trust_source=True), nn.Sequential)
    assert (tmp_path / "imported").exists()


def test_a_path_outside_is_read_when_the_caller_says_so(finished_run: RunDirectory, tmp_path: Path) -> None:
    outside = tmp_path / "outside.py"
    shutil.copyfile(finished_run.path / "model.py", outside)
    run = changed(finished_run, tmp_path / "run", model=str(outside), source_sha256=None)
    linked = changed(finished_run, tmp_path / "linked")
    (linked / "model.py").unlink()
    (linked / "model.py").symlink_to(outside)
    for path in (run, linked):
        with pytest.raises(SourceError, match="code outside it"):
            load(path)
        load(path, trust_source=True)


def test_networks_by_name_need_no_consent(finished_run: RunDirectory, tmp_path: Path) -> None:
    changes = {"model": "torchvision:squeezenet1_1", "input_shape": "[3, 32, 32]", "sha256": ""}
    with pytest.raises(RunError, match="does not fit"):  # it was built
        load(portable(finished_run, tmp_path / "small.safetensors", **changes))


def test_compiled_code_beside_the_copy_is_not_run(finished_run: RunDirectory, tmp_path: Path) -> None:
    run = changed(finished_run, tmp_path / "run")
    copy, evil = run / "model.py", tmp_path / "evil.py"
    mark = f"open({str(tmp_path / 'X')!r}, 'w')"
    evil.write_text(mark.ljust(copy.stat().st_size, "#"))
    stamp = (copy.stat().st_atime_ns, copy.stat().st_mtime_ns)
    os.utime(evil, ns=stamp)
    cached = Path(py_compile.compile(str(evil)) or "")
    (run / "__pycache__").mkdir()
    shutil.copyfile(cached, run / "__pycache__" / cached.name.replace("evil", "model"))
    load(run)
    assert not (tmp_path / "X").exists()


@pytest.mark.parametrize("name", ["config.json", "reduction.json", "compact.safetensors"])
def test_an_older_version_is_no_way_around_the_checksum(
    finished_run: RunDirectory, tmp_path: Path, name: str
) -> None:
    file = changed(finished_run, tmp_path / "run") / name
    if name.endswith(".json"):
        record = unseal(file.read_text())
        file.write_text(json.dumps({"format_version": 1, **record}))
    else:
        tensors, meta = load_tensors(file)
        save_file(tensors, file, {"keep": meta["keep"]})
    read = RunDirectory(file.parent).decision if name == "reduction.json" else RunDirectory(file.parent).small
    with pytest.raises(RunError, match="no checksum"):
        read()


HEAD = "import torch\nfrom torch import nn\n"
MISTAKES = {
    "def network(width): ...": r"called with \(input_shape, num_classes\), which does not fit",
    "def network(shape, classes):\n    return {}['absent']": r"net\.py, line 4: KeyError: 'absent'",
    "network = 1 / 0": r"net\.py, line 3: ZeroDivisionError",
    "raise SystemExit(0)": r"net\.py, line 3: SystemExit",
    "def network(:": r"invalid syntax .*line 3",
    "input_size = 'large'\ndef network(shape, classes): ...": "input_size = 'large'",
    "def network(shape, classes):\n    return 3": "gave a int",
    "def network(shape, classes):\n    return nn.Linear(shape, classes)": r"net\.py, line 4: TypeError",
}


@pytest.mark.parametrize("code", MISTAKES)
def test_a_mistake_in_the_networks_file_is_told_with_its_line(code: str, tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text(HEAD + code)
    source = NetworkSource(str(file))
    with pytest.raises(SourceError, match=MISTAKES[code]) as caught:
        source.build((source.input_size() or 1, 8, 8), 10)
    assert "\n" not in str(caught.value)


def test_the_line_at_fault_is_the_networks_own(tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    code = "class Net(nn.Module):\n    def forward(s, x): return s.absent(x)\nnetwork = lambda s, c: Net()"
    file.write_text(HEAD + code)
    net = NetworkSource(str(file)).build((1,), 1)
    with pytest.raises(AttributeError) as caught:
        net(torch.zeros(1))
    assert line_at_fault(caught.value) == f"{file}, line 4"
    with pytest.raises(KeyError) as elsewhere:
        _ = {}["absent"]
    assert line_at_fault(elsewhere.value) is None


def test_a_missing_source_is_named_with_what_to_do(finished_run: RunDirectory, tmp_path: Path) -> None:
    run = shutil.copytree(finished_run.path, tmp_path / "run")
    (run / "model.py").unlink()
    with pytest.raises(
        SourceError, match=r"model\.py is missing; copy the network's file .* there, or give the dense"
    ):
        load(run)
    x = torch.randn(2, *finished_run.config.input_shape)
    torch.testing.assert_close(load(run, finished_run.dense())(x), finished_run.small()(x))
