"""The ``bmrs`` command as a user runs it: good input, bad input, and a run that is killed."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bmrs_pyro import data, load
from bmrs_pyro.cli import main
from bmrs_pyro.files.sealed import seal, unseal
from bmrs_pyro.metrics import evaluate
from bmrs_pyro.runs import RunDirectory, RunError, SourceError
from bmrs_pyro.training import compilation

ROOT = Path(__file__).parents[2]
LENET5 = str(ROOT / "models" / "lenet5.py")
FAST = [
    "--epochs",
    "6",
    "--fine-tune-epochs",
    "2",
    "--batch-size",
    "16",
    "--posterior-lr-factor",
    "20",
    "--lr",
    "2e-3",
]


def command(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command in this process, which spares the seconds that importing torch takes."""
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.setattr(sys, "argv", ["bmrs", *map(str, arguments)])
        patch.setenv("COLUMNS", "120")
        if cwd is not None:
            patch.chdir(cwd)
        with pytest.raises(SystemExit) as exit_:
            main()
    status = exit_.value.code
    assert isinstance(status, int)
    return subprocess.CompletedProcess(sys.argv, status, out.getvalue(), err.getvalue())


def fit(out: Path, *more: object) -> subprocess.CompletedProcess[str]:
    return command("fit", LENET5, "--out", out, "--kl-weight", "mean:1", *FAST, *more)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "digits"
    result = fit(path)
    assert result.returncode == 0, result.stderr
    assert "theta." in result.stdout
    assert "fewer" in result.stdout
    return path


def test_run_directory_holds_what_it_promises(run: Path) -> None:
    assert {file.name for file in run.iterdir()} == {
        "config.json",
        "model.py",
        "metrics.jsonl",
        "state.safetensors",
        "network.safetensors",
        "reduction.json",
        "compact.safetensors",
    }
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == list(range(1, 9))
    reduction = json.loads((run / "reduction.json").read_text())
    assert reduction["format_version"] >= 1
    assert json.loads((run / "config.json").read_text())["versions"]["torch"] == str(torch.__version__)


def test_small_network_is_rebuilt_plain_and_equals_the_noisy_one(run: Path) -> None:
    small = load(run)
    assert not any(module._forward_pre_hooks for module in small.modules())
    network, posteriors, keep = RunDirectory(run).network()
    assert keep.removed > 0
    x = torch.randn(4, 1, 32, 32)
    expected = network.eval()(x, {name: q.mean for name, q in posteriors.items()})
    torch.testing.assert_close(small(x), expected, rtol=1e-5, atol=1e-5)
    stored = load_file(run / "compact.safetensors")
    assert sum(value.numel() for value in stored.values()) == sum(p.numel() for p in small.parameters())


def test_evaluate_and_report(run: Path, tmp_path: Path) -> None:
    result = command("evaluate", run)
    assert result.returncode == 0, result.stderr
    assert "test accuracy" in result.stdout
    picture = tmp_path / "evidence.png"
    result = command("report", run, "--picture", picture)
    assert result.returncode == 0, result.stderr
    assert "ΔF of kept" in result.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")


def validation_accuracy(run: Path) -> float:
    config = RunDirectory(run).config
    held_out = data.load(config.data.data, size=config.data.size).validation
    return evaluate(load(run), data.Batches(held_out, 500, shuffle=False), 10).accuracy


def test_the_accuracy_told_is_of_the_small_network(finished_run: RunDirectory, tmp_path: Path) -> None:
    # a rate so high that the last epoch is not the best one
    options = [
        "--epochs",
        4,
        "--fine-tune-epochs",
        0,
        "--criterion",
        "none",
        "--batch-size",
        16,
        "--lr",
        0.05,
    ]
    result = command("fit", finished_run.config.model, "--out", tmp_path / "run", *options, "--json")
    assert result.returncode == 0, result.stderr
    accuracy = validation_accuracy(tmp_path / "run")
    last = RunDirectory(tmp_path / "run").metrics()[-1]
    assert last.accuracy is not None
    assert last.accuracy < accuracy
    assert json.loads(result.stdout)["validation_accuracy"] == accuracy
    report = command("report", tmp_path / "run", "--html", tmp_path / "page.html")
    assert f"validation accuracy of the small network: {accuracy:.2%}" in report.stdout
    assert f"<td>{accuracy:.2%}</td>" in (tmp_path / "page.html").read_text()


@pytest.mark.filterwarnings("always:the small network is not scored")
def test_an_accuracy_that_cannot_be_measured_is_left_out(finished_run: RunDirectory, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(finished_run.path, copy)
    change(copy / "config.json", data={"data": "gone.npz"})
    result = command("prune", copy, "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["validation_accuracy"] is None
    change(copy / "reduction.json", validation_accuracy=...)  # as earlier versions wrote it
    result = command("report", copy)
    assert result.returncode == 0, result.stderr
    assert "accuracy" not in result.stdout


def change(file: Path, **fields: object) -> None:
    """Change a sealed record; an ellipsis drops a field."""
    record = unseal(file.read_text()) | fields
    file.write_text(json.dumps(seal({key: value for key, value in record.items() if value is not ...})))


@pytest.mark.parametrize(
    ("criterion", "fraction", "expected"),
    [
        ("expected", "-0.5", "fraction must lie in [0, 1], got -0.5"),
        ("expected", "1.5", "fraction must lie in [0, 1], got 1.5"),
        ("l2", "nan", "fraction must lie in [0, 1], got nan"),
        ("snr", "0.5", "'snr' decides by itself how much to remove"),
    ],
)
def test_fractions_that_say_nothing_are_refused(
    criterion: str, fraction: str, expected: str, finished_run: RunDirectory
) -> None:
    decision = finished_run.decision().to_json()
    result = command("prune", finished_run.path, "--criterion", criterion, "--fraction", fraction)
    assert result.returncode == 2
    assert expected in result.stderr
    assert result.stderr.count("\n") == 1
    assert finished_run.decision().to_json() == decision


@pytest.mark.parametrize("criterion", ["bmrs-n", "bmrs-u-4", "bmrs-u-8", "snr", "expected", "l2"])
def test_prune_decides_anew(run: Path, tmp_path: Path, criterion: str) -> None:
    copy = tmp_path / "run"
    subprocess.run(["cp", "-r", run, copy], check=True)
    share = ["--fraction", "0.5"] if criterion in ("expected", "l2") else []
    result = command("prune", copy, "--criterion", criterion, *share, "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["validation_accuracy"] == validation_accuracy(copy)
    decision = RunDirectory(copy).decision()
    assert decision.criterion == criterion
    trained = RunDirectory(copy).network()[2]
    assert all((decision.keep[name] <= trained[name]).all() for name in trained)
    if share:
        assert decision.keep.kept == pytest.approx(trained.kept / 2, abs=4)
    assert load(copy)(torch.zeros(1, 1, 32, 32)).shape == (1, 10)


def test_a_killed_run_resumes_to_the_same_numbers(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    arguments = ["fit", LENET5, "--out", out, "--kl-weight", "mean:1", *FAST, "--quiet"]
    process = subprocess.Popen([sys.executable, "-m", "bmrs_pyro", *map(str, arguments)])
    metrics = out / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and len(metrics.read_text().splitlines()) >= 3):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "compact.safetensors").exists()
    unfinished = command("report", out)
    assert unfinished.returncode == 2
    assert "--resume" in unfinished.stderr
    again = fit(out)
    assert again.returncode == 2
    assert "--resume" in again.stderr

    assert command(*arguments, "--resume").returncode == 0
    for name in ("network", "compact"):
        first, second = (load_file(path / f"{name}.safetensors") for path in (run, out))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)
    assert (run / "reduction.json").read_text() == (out / "reduction.json").read_text()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["fit", "missing.py"], "missing.py"),
        (["fit", "nonsense"], "neither"),
        (["fit", "no.such.module:net"], "no.such.module"),
        (["fit", "torchvision:resnet19"], "resnet19"),
        (["fit", "torchvision:resnet18"], "channel"),
        (["fit", LENET5, "--data", "nonsense"], "nonsense"),
        (["fit", LENET5, "--data", "mnist", "--data-root", "nowhere"], "nowhere"),
        (["fit", LENET5, "--data", "absent.npz"], "absent.npz"),
        (["fit", LENET5, "--criterion", "vibes"], "vibes"),
        (["fit", LENET5, "--kl-weight", "mean:much"], "much"),
        (["fit", LENET5, "--draws", "pixel"], "pixel"),
        (["fit", LENET5, "--epochs", "-1"], "epochs"),
        (["fit", LENET5, "--epochs", "many"], "epochs"),
        (["fit", LENET5, "--prune-every", "0"], "prune_every"),
        (["fit", LENET5, "--batch-size", "0"], "batch_size"),
        (["fit", LENET5, "--criterion", "none", "--max-params", "20000"], "would have no effect"),
        (["fit", LENET5, "--lr", "-1"], "lr is -1.0"),
        (["fit", LENET5, "--posterior-lr-factor", "-3"], "posterior_lr_factor is -3.0"),
        (["fit", LENET5, "--device", "abacus"], "'abacus' cannot be used here"),
        (["fit", LENET5, "--device", "cuda:99"], "'cuda:99' cannot be used here"),
        (["fit", LENET5, "--cuda-graphs"], "need a GPU"),
        (["bench", "--device", "cuda:99"], "'cuda:99' cannot be used here"),
        (["fit", LENET5, "--no-such-option"], "no-such-option"),
        (["report", "nowhere"], "nowhere"),
        (["evaluate", "nowhere"], "nowhere"),
        (["prune", "nowhere"], "nowhere"),
        (["vanish"], "vanish"),
    ],
    ids=lambda value: " ".join(value[1:4]).replace(str(ROOT), "") if isinstance(value, list) else None,
)
def test_bad_input_ends_in_one_line_and_status_2(arguments: list[str], expected: str, tmp_path: Path) -> None:
    out = ["--out", "run"] if arguments[0] == "fit" else []
    result = command(*arguments, *out, cwd=tmp_path)
    assert result.returncode == 2, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    assert expected in result.stderr
    assert not (tmp_path / "run").exists()


def test_bad_arrays_end_in_one_line_and_status_2(tmp_path: Path) -> None:
    np.savez(tmp_path / "odd.npz", x_train=np.zeros((4, 8, 8), np.uint8))
    result = command("fit", LENET5, "--data", "odd.npz", "--out", "run", cwd=tmp_path)
    assert result.returncode == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert "y_train" in result.stderr


def test_a_network_with_fewer_outputs_than_classes_is_refused_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "five.py"
    file.write_text(
        "from torch import nn\n"
        "def network(shape, classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 5))\n"
    )
    result = command("fit", file, "--out", tmp_path / "run", "--quiet")
    assert result.returncode == 2
    assert "the network has 5 outputs for 10 classes: give its last layer 10 outputs" in " ".join(
        result.stderr.split()
    )
    assert not (tmp_path / "run").exists()


def test_what_only_training_would_notice_is_refused_before_a_run_is_made(
    finished_run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = np.random.default_rng(0).normal(size=(80, 64)).astype(np.float32), np.arange(80) % 2
    np.savez(tmp_path / "vectors.npz", x_train=x, y_train=y, x_test=x, y_test=y)

    def no_compiler(*_: object) -> tuple[torch.Tensor, ...]:
        raise RuntimeError("No working C++ compiler found")

    broken = replace(compilation.compiled_kernels(), forward=no_compiler)
    monkeypatch.setattr(compilation, "compiled_kernels", lambda: broken)
    for options, expected in (
        (["--data", "vectors.npz", "--augment"], "only images (B, C, H, W) can be shifted and mirrored"),
        (["--compile"], "No working C++ compiler found"),
    ):
        result = command("fit", finished_run.config.model, "--out", "run", *options, cwd=tmp_path)
        assert result.returncode == 2
        assert expected in result.stderr
        assert result.stderr.count("\n") == 1
        assert not (tmp_path / "run").exists()


def test_a_run_is_resumed_with_its_own_options(finished_run: RunDirectory) -> None:
    config = finished_run.config
    options = ["--data", "mnist", "--epochs", config.recipe.epochs, "--kl-weight", "mean:9", "--augment"]
    result = command("fit", LENET5, "--out", finished_run.path, "--resume", *options)
    assert result.returncode == 2
    assert (
        f"was started otherwise: model is {LENET5}, not {config.model}; --data is mnist, not digits; "
        "--kl-weight is mean:9, not mean:0.3; --augment is True, not False." in result.stderr
    )


def test_own_network_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "def network(input_shape, num_classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, num_classes))\n"
    )
    result = command("fit", "mine.py", "--out", "run", *FAST, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    (tmp_path / "mine.py").unlink()  # the run keeps a copy
    assert load(tmp_path / "run")[1].in_features == 64

    copy = tmp_path / "run" / "model.py"
    copy.write_text(copy.read_text() + "\nraise SystemExit\n")
    with pytest.raises(SourceError, match="changed"):
        load(tmp_path / "run")


def test_a_network_file_that_does_not_work_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import no_such_library\n")
    (tmp_path / "empty.py").write_text("x = 1\n")
    for name, expected in (
        ("broken.py", "no_such_library"),
        ("empty.py", "network(input_shape, num_classes)"),
    ):
        result = command("fit", name, "--out", "run", cwd=tmp_path)
        assert result.returncode == 2
        assert name in result.stderr
        assert expected in result.stderr


def test_newer_format_is_refused_by_name(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    subprocess.run(["cp", "-r", run, copy], check=True)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "format_version": 99}))
    with pytest.raises(RunError, match=r"config\.json.*format version 99"):
        load(copy)


@pytest.mark.parametrize("name", ["choose", "prune", "report", "evaluate", "compare", "export"])
def test_a_folder_that_is_no_run_is_named_and_left_as_it_is(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "saved").mkdir()
    for file in (tmp_path / "file.txt", tmp_path / "saved" / "small.safetensors"):
        file.touch()
    for path, why in (
        ("nowhere", "is no run: it does not exist; bmrs fit NETWORK --out RUN makes one"),
        ("file.txt", "is no run: it is a file"),
        ("folder", "is no run: it holds no config.json"),
        ("saved", "holds a network that save() wrote: bmrs_pyro.load("),
    ):
        result = command(name, tmp_path / path)
        assert result.returncode == 2
        assert why in result.stderr
        assert result.stderr.count("\n") == 1
    assert not [*(tmp_path / "folder").iterdir()]
    with pytest.raises(RunError, match="is no run: it holds no config"):
        load(tmp_path / "folder")
