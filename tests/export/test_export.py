"""Exported files against the small network they were made from, run where nothing of this package is."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bmrs_pyro import load
from bmrs_pyro.cli.app import app
from bmrs_pyro.export import ExportError, Format, export_run, load_onnx, load_pt2, save_onnx, save_pt2
from bmrs_pyro.files import WriteError
from bmrs_pyro.runs import NetworkSource, RunDirectory, RunError

ALONE = """
import sys, torch
class Refuse:
    def find_spec(self, name, *_):
        if name.split(".")[0] in ("bmrs_pyro", "pyro", "models"):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
x = torch.load(sys.argv[2], weights_only=True)
if sys.argv[1].endswith(".pt2"):
    y = torch.export.load(sys.argv[1]).module()(x)
else:
    import onnxruntime
    session = onnxruntime.InferenceSession(sys.argv[1])
    y = torch.from_numpy(session.run(None, {"input": x.numpy()})[0])
torch.save(y, sys.argv[3])
"""


def needs(kind: Format) -> None:
    if kind is Format.ONNX:
        for name in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(name)


@pytest.mark.parametrize("kind", list(Format))
def test_the_file_computes_what_the_small_network_does(
    kind: Format, finished_run: RunDirectory, tmp_path: Path
) -> None:
    needs(kind)
    done = export_run(finished_run, kind, tmp_path / f"small.{kind}")
    assert done.error < 1e-5
    assert done.bytes == done.path.stat().st_size


@pytest.mark.parametrize("kind", [Format.PT2, Format.ONNX])
def test_the_file_runs_without_this_package_at_another_batch_size(
    kind: Format, finished_run: RunDirectory, tmp_path: Path
) -> None:
    needs(kind)
    file = export_run(finished_run, kind, tmp_path / f"small.{kind}").path
    x = torch.randn(7, *finished_run.config.input_shape)
    torch.save(x, tmp_path / "x.pt")
    command = [sys.executable, "-c", ALONE, str(file), str(tmp_path / "x.pt"), str(tmp_path / "y.pt")]
    subprocess.run(command, check=True, cwd=tmp_path)
    expected = finished_run.small()(x)
    torch.testing.assert_close(torch.load(tmp_path / "y.pt"), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("spec", ["models/vit.py", "torchvision:mobilenet_v3_small"])
@pytest.mark.parametrize("kind", [Format.PT2, Format.ONNX])
def test_networks_of_other_kinds(kind: Format, spec: str, tmp_path: Path) -> None:
    needs(kind)
    net, x = NetworkSource(spec).build((3, 32, 32), 10).eval(), torch.randn(5, 3, 32, 32)
    path = tmp_path / f"net.{kind}"
    if kind is Format.PT2:
        save_pt2(net, x[:2], path)
        read = load_pt2(path)
    else:
        save_onnx(net, x[:2], path)
        read = load_onnx(path)
    with torch.no_grad():
        torch.testing.assert_close(read(x), net(x), rtol=1e-4, atol=1e-5)


def test_a_portable_file_needs_the_source_or_a_network(finished_run: RunDirectory, tmp_path: Path) -> None:
    file = export_run(finished_run, Format.SAFETENSORS, tmp_path / "small.safetensors").path
    x = torch.randn(3, *finished_run.config.input_shape)
    dense = finished_run.dense()
    torch.testing.assert_close(load(file, trust_source=True)(x), finished_run.small()(x))
    torch.testing.assert_close(load(file, dense)(x), finished_run.small()(x))
    assert type(load(file, trust_source=True)) is nn.Sequential
    with pytest.raises(RunError, match="does not fit the network it was given"):
        load(file, nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.Tanh(), nn.Linear(5, 10)))


def test_a_damaged_portable_file_is_named(finished_run: RunDirectory, tmp_path: Path) -> None:
    file = export_run(finished_run, Format.SAFETENSORS, tmp_path / "small.safetensors").path
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(RunError, match=r"small\.safetensors is damaged"):
        load(file)


class Unsure(nn.Module):
    """Its graph depends on its values, so it cannot be captured."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.net(x)
        return y if y.sum() > 0 else y + 1


@pytest.mark.parametrize("kind", [Format.PT2, Format.ONNX])
def test_what_cannot_be_captured_is_named_and_leaves_the_folder_as_it_was(
    kind: Format, finished_run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs(kind)
    small = finished_run.small()
    monkeypatch.setattr(RunDirectory, "small", lambda _: Unsure(small))
    path = tmp_path / f"small.{kind}"
    path.write_text("an earlier export")
    with pytest.raises(ExportError, match=f"cannot be exported to {kind}") as caught:
        export_run(finished_run, kind, path)
    assert "\n" not in str(caught.value)
    assert path.read_text() == "an earlier export"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("save", [save_pt2, save_onnx])
def test_a_network_in_memory_is_refused_in_one_line_too(save: Callable[..., None], tmp_path: Path) -> None:
    needs(Format.ONNX)
    net, x, file = nn.Linear(3, 2), torch.randn(2, 3), tmp_path / "net"
    for given, kind, message in (
        ((file, x, net), TypeError, "net is a .*Path; give the network first"),
        ((net, file, x), TypeError, "path is a Tensor; give the network first"),
        ((net, x[:1], file), ValueError, "number of examples in x: 1; give a batch of at least two"),
        ((net, {}, file), ValueError, "number of examples in x: 0"),
        ((net, x[:2].tolist(), file), TypeError, "x holds no tensor; give a batch of tensors"),
        ((Unsure(net), x, file), ExportError, "cannot be exported to .*; safetensors always works"),
        (
            (net, torch.randn(2, 4), file),
            ExportError,
            r"cannot be exported to .* run on x, \(2, 4\) .*give a batch",
        ),
        ((net, x.double(), file), ExportError, "cannot be exported to .*same dtype"),
        ((net, x.numpy(), file), TypeError, "x is a ndarray; give a batch of tensors"),
        ((net, x, tmp_path / "nowhere" / "net"), WriteError, "nowhere"),
    ):
        with pytest.raises(kind, match=message) as caught:
            save(*given)
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", list(Format))
def test_a_file_that_does_not_fit_is_refused_in_one_line(
    kind: Format, finished_run: RunDirectory, tmp_path: Path
) -> None:
    needs(kind)
    (tmp_path / f"small.{kind}").write_text("an earlier export")
    code = (
        "import resource, sys; from pathlib import Path; from bmrs_pyro.cli import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024)); main()"
    )
    command = [sys.executable, "-c", code, "export", str(finished_run.path), "--out", f"small.{kind}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1] == (
        f"error: small.{kind} cannot be written ({os.strerror(errno.EFBIG)})"
    )
    assert (tmp_path / f"small.{kind}").read_text() == "an earlier export"
    assert [file.name for file in tmp_path.iterdir()] == [f"small.{kind}"]


@pytest.mark.parametrize(("name", "kind"), [("a.onnx", Format.ONNX), ("b.PT2", Format.PT2)])
def test_the_suffix_names_the_format(name: str, kind: Format) -> None:
    assert Format.of(Path(name)) is kind
    with pytest.raises(
        ExportError, match=r"end it in \.pt2, \.onnx, \.safetensors, or name the format \(--format\)"
    ):
        Format.of(Path("small.bin"))


def test_what_would_fail_at_the_end_is_refused_before_the_network_is_made(
    finished_run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(_: object) -> None:
        raise AssertionError("too late")

    monkeypatch.setattr(RunDirectory, "small", made)
    with pytest.raises(ExportError, match=r"ends in \.onnx, but the format is pt2"):
        export_run(finished_run, Format.PT2, tmp_path / "a.onnx")
    (tmp_path / "folder.pt2").mkdir()
    with pytest.raises(WriteError, match="directory"):
        export_run(finished_run, Format.PT2, tmp_path / "folder.pt2")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    pytest.importorskip("onnxscript")
    with pytest.raises(ImportError, match="ONNX files need onnxruntime"):
        export_run(finished_run, Format.ONNX, tmp_path / "a.onnx")


@pytest.mark.parametrize("kind", list(Format))
def test_a_missing_folder_is_named(kind: Format, finished_run: RunDirectory, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"nowhere, the folder for small, is no folder"):
        export_run(finished_run, kind, tmp_path / "nowhere" / "small")


@pytest.mark.parametrize(("scale", "difference"), [(0.0, "1.0e[+]00"), (torch.nan, "nan")])
def test_a_file_that_computes_something_else_is_not_left(
    scale: float,
    difference: str,
    finished_run: RunDirectory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small = finished_run.small()
    # right for the first batch
    monkeypatch.setattr(
        "bmrs_pyro.export.checked.load_pt2", lambda _: lambda x: small(x) * (1 if len(x) == 1 else scale)
    )
    path = tmp_path / "small.pt2"
    path.write_text("an earlier export")
    with pytest.raises(ExportError, match=f"outputs that differ by {difference}"):
        export_run(finished_run, Format.PT2, path)
    assert path.read_text() == "an earlier export"
    assert list(tmp_path.iterdir()) == [path]


def test_a_large_graph_comes_with_the_file_that_holds_its_weights(
    finished_run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs(Format.ONNX)
    monkeypatch.setattr("torch.onnx._internal.exporter._onnx_program._LARGE_MODEL_THRESHOLD", 0)
    path = export_run(finished_run, Format.ONNX, tmp_path / "small.onnx").path
    assert {file.name for file in tmp_path.iterdir()} == {"small.onnx", "small.onnx.data"}
    x = torch.randn(2, *finished_run.config.input_shape)
    torch.testing.assert_close(load_onnx(path)(x), finished_run.small()(x), rtol=1e-4, atol=1e-5)


class Padded(nn.Module):
    """Reads tokens and a mask by name, and puts out a dataclass, as Hugging Face's classifiers do."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.last = nn.Embedding(20, 6), nn.Linear(6, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Scores:
        x = self.table(input_ids)
        if attention_mask is not None:
            x = x * attention_mask.unsqueeze(-1)
        return Scores(self.last(x.sum(1)), hidden=(x,))


@dataclass
class Scores:
    logits: Tensor
    loss: Tensor | None = None
    hidden: tuple[Tensor, ...] = ()


class Two(nn.Module):
    """Reads two tensors by position, and puts out two."""

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return x + y, x * y


def tokens(batch: int) -> dict[str, Tensor]:
    mask = torch.ones(batch, 7, dtype=torch.long)
    mask[::2, 4:] = 0
    return {"attention_mask": mask, "input_ids": torch.randint(20, (batch, 7))}


def written(kind: Format, net: nn.Module, x: Any, path: Path) -> Callable[..., Any]:
    needs(kind)
    save, read = (save_pt2, load_pt2) if kind is Format.PT2 else (save_onnx, load_onnx)
    save(net, x, path / f"net.{kind}")
    return read(path / f"net.{kind}")


@pytest.mark.parametrize("kind", [Format.PT2, Format.ONNX])
def test_inputs_and_outputs_keep_their_names(kind: Format, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Padded().eval()
    read, x = written(kind, net, tokens(2), tmp_path), tokens(5)
    found, expected = read(**x), net(**x)
    assert set(found) == {"logits", "hidden.0"}
    torch.testing.assert_close(found["logits"], expected.logits)
    torch.testing.assert_close(found["hidden.0"], expected.hidden[0])
    assert type(net(**x)) is Scores  # the network itself is as it was
    read, pair = written(kind, Two(), (torch.randn(2, 3), torch.randn(2, 3)), tmp_path), torch.randn(2, 4, 3)
    one, two = read(*pair).values() if kind is Format.ONNX else read(*pair)
    torch.testing.assert_close(one, pair[0] + pair[1])
    torch.testing.assert_close(two, pair[0] * pair[1])


def test_a_recurrent_layer_is_captured_without_a_warning_about_its_weights(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cells = nn.GRU(3, 4, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.cells(x)[0][:, -1]

    net, x = Last().eval(), torch.randn(4, 5, 3)
    save_pt2(net, x[:2], tmp_path / "net.pt2")
    torch.testing.assert_close(load_pt2(tmp_path / "net.pt2")(x), net(x))
    assert not [one for one in recwarn if "assigned during export" in str(one.message)]


@pytest.mark.parametrize("kind", [Format.PT2, Format.ONNX])
def test_attention_with_a_trained_bias(kind: Format, tmp_path: Path) -> None:
    class Biased(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.randn(2, 5, 5))

        def forward(self, x: Tensor) -> Tensor:
            q = x.unflatten(-1, (2, 4)).transpose(1, 2)
            y = nn.functional.scaled_dot_product_attention(q, q, q, attn_mask=self.bias)
            return y.transpose(1, 2).reshape(*x.shape)

    net, x = Biased().eval(), torch.randn(3, 5, 8)
    torch.testing.assert_close(written(kind, net, x[:2], tmp_path)(x), net(x), rtol=1e-4, atol=1e-5)


MASKED = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, outputs):
        super().__init__()
        self.table, self.inner, self.last = nn.Embedding(20, 8), nn.Linear(8, 6), nn.Linear(6, outputs)

    def forward(self, input_ids, attention_mask):
        x = self.table(input_ids) * attention_mask.unsqueeze(-1)
        return {"logits": self.last(self.inner(x.sum(1)).tanh())}

def network(input_shape, num_classes):
    return Net(num_classes)

def data():
    random = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 20, (120, 5), generator=random)
    mask = torch.ones(5, dtype=torch.long)
    return [{"input_ids": x, "attention_mask": mask, "labels": int(x[0] > 10)} for x in ids]
"""


@pytest.mark.parametrize("kind", list(Format))
def test_a_run_on_inputs_by_name(kind: Format, named_run: RunDirectory, tmp_path: Path) -> None:
    needs(kind)
    done = export_run(named_run, kind, tmp_path / f"small.{kind}")
    assert done.error < 1e-5


def test_a_file_that_lost_the_mask_is_not_left(
    named_run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All masks of the data are ones, but the file is tried with padding."""
    small = named_run.small()
    monkeypatch.setattr(
        "bmrs_pyro.export.checked.load_pt2",
        lambda _: lambda input_ids, attention_mask: small(input_ids, torch.ones_like(attention_mask)),
    )
    with pytest.raises(ExportError, match="outputs that differ"):
        export_run(named_run, Format.PT2, tmp_path / "small.pt2")


@pytest.fixture(scope="module")
def named_run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    folder = tmp_path_factory.mktemp("named")
    (folder / "net.py").write_text(MASKED)
    options = ["--data", str(folder / "net.py"), "--kl-weight", "mean:0.3", "--epochs", "2", "--quiet"]
    app(["fit", str(folder / "net.py"), "--out", str(folder / "run"), *options], standalone_mode=False)
    return RunDirectory(folder / "run", trust_source=True)
