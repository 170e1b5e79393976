"""A run along the path by the command: fitted, chosen from, reported, interrupted, and refused."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bmrs_pyro import complexity, load, runs
from bmrs_pyro.data import Batches
from bmrs_pyro.files import seal
from bmrs_pyro.metrics import evaluate
from bmrs_pyro.path import ScoreMissed, Target
from bmrs_pyro.reporting import html_report
from bmrs_pyro.runs import RunConfig, RunDirectory, run_data
from bmrs_pyro.training import Epoch, Limits
from tests.cli.conftest import write_problem
from tests.cli.test_commands import command

SOURCE = """
from torch import nn

def network(input_shape, num_classes):
    hidden = [nn.Linear(input_shape[0], 16), nn.Tanh(), nn.Linear(16, 8), nn.Tanh()]
    return nn.Sequential(*hidden, nn.Linear(8, num_classes))
"""
DATA = ["--data", "data.npz", "--batch-size", 64]
QUICK = [*DATA, "--epochs", 10, "--dense-epochs", 1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a network's file and a run along the path."""
    folder = tmp_path_factory.mktemp("path")
    write_problem(folder, SOURCE)
    result = command("fit", "net.py", "--out", "run", *QUICK, "--max-params", "90%", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "Asked for: max_params 90%." in result.stdout
    assert "bmrs choose run chooses another one" in result.stdout
    assert "data.npz: 3 classes, likelihood categorical, which is assumed: for counts" in result.stdout
    return folder


def answers(run: Path) -> dict[str, object]:
    """Return what is in a run's files, but for what takes its time."""
    tensors = {name: load_file(run / f"{name}.safetensors") for name in ("network", "compact", "dense")}
    record = RunDirectory(run).path_record()
    return {
        **{f"{part}/{name}": value.tolist() for part in tensors for name, value in tensors[part].items()},
        "decision": RunDirectory(run).decision().to_json(),
        "path": record and record.to_json(),
        "epochs": [replace(epoch, seconds=0.0) for epoch in RunDirectory(run).metrics()],
    }


def parameters(run: Path) -> int:
    return sum(weight.numel() for weight in load(run).parameters())


def test_the_run_holds_the_path_and_the_network_that_was_asked_for(copy: Path) -> None:
    run = RunDirectory(copy)
    record = run.path_record()
    assert record is not None
    assert record.chosen is not None
    dense = run.dense()
    assert parameters(run.path) == record.chosen.parameters <= 0.9 * record.dense.parameters
    assert record.dense.parameters == sum(weight.numel() for weight in dense.parameters())
    kept = [int(file.stem.removeprefix("epoch-")) for file in (run.path / "path").glob("epoch-*")]
    assert sorted(kept) == [point.epoch for point in record.points]
    held_out = Batches(run_data(run).validation, 500, shuffle=False)
    for net, point in ((dense, record.dense), (run.small(), record.chosen)):
        assert evaluate(net, held_out, 3).accuracy == pytest.approx(point.score.accuracy)
    epochs = run.metrics()
    assert len(epochs) == record.chosen.epoch + 3  # the path up to the point, and its refit
    assert epochs[-1].parameters == record.chosen.parameters


def test_another_network_of_the_run_is_chosen_and_the_first_one_not_trained_again(copy: Path) -> None:
    first = answers(copy)
    result = command("choose", copy, "--max-macs", "60%", "--json")
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    assert answer["small"]["macs"] <= 0.6 * answer["dense"]["macs"]
    assert answer["path"]["target"]["max_macs"] == "60%"
    assert answer["path"]["met"] is True
    assert answer["dense_validation_accuracy"] > 0.8
    assert complexity(load(copy), torch.zeros(1, 6)).macs == answer["small"]["macs"]
    for words in (["report"], ["evaluate"], ["compare", "--repeats", 1], ["export"], ["prune"]):
        again = command(words[0], copy, *words[1:], "--json")
        assert again.returncode == 0, again.stderr
    assert json.loads(command("compare", copy, "--repeats", 1, "--json").stdout)["dense"]["evaluation"]

    refits = {file: file.stat().st_mtime_ns for file in (copy / "path").iterdir()}
    assert command("choose", copy, "--max-params", "90%", "--quiet").returncode == 0
    assert {file: file.stat().st_mtime_ns for file in (copy / "path").iterdir()} == refits
    assert answers(copy) == first


def test_the_page_shows_the_path_and_what_pruning_cost(copy: Path) -> None:
    page = copy / "page.html"
    result = command("report", copy, "--html", page)
    assert result.returncode == 0, result.stderr
    text = unescape(page.read_text())
    assert "<h2>The path</h2>" in text
    assert text.count('class="chosen"') == 1
    assert f"bmrs choose {copy} --max-macs " in text
    share = float(re.findall(r"bmrs choose [^<]* --max-macs ([\d.]+)%", text)[0])
    record = RunDirectory(copy).path_record()
    assert record is not None
    assert record.chosen is not None
    assert share * record.dense.macs / 100 < record.chosen.macs  # it does give a smaller network
    assert "no trained weights of the dense network" not in text
    assert "bmrs fit" in text
    assert "--max-params 90%" in text.replace("'", "")


def test_what_cannot_be_met_says_what_can_and_keeps_the_path(copy: Path) -> None:
    before = answers(copy)
    refused = command("choose", copy, "--max-params", 3)
    assert refused.returncode == 2
    assert "a budget of 3 parameters cannot be met" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert answers(copy) == before

    # as if it had been asked for at the beginning
    config = replace(RunDirectory(copy).config, target=Target(max_params="3"))
    (copy / "config.json").write_text(json.dumps(seal(config.to_json())))
    for name in ("path.json", "reduction.json", "compact.safetensors", "network.safetensors"):
        (copy / name).unlink()
    refused = command("fit", "net.py", "--out", copy, "--resume", "--quiet")
    assert refused.returncode == 2
    assert f"The path is kept: bmrs choose {copy} chooses a network of it" in refused.stderr
    assert refused.stderr.count("\n") == 1
    unfinished = command("report", copy)
    assert unfinished.returncode == 2
    assert unfinished.stderr.count("\n") == 1
    chosen = command("choose", copy, "--max-params", "90%", "--quiet")
    assert chosen.returncode == 0, chosen.stderr
    assert answers(copy) == before


def test_an_interrupted_run_resumes_to_the_same_network(
    folder: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(copy)
    words = ["fit", "net.py", "--out", copy, *QUICK, "--max-params", "90%", "--quiet"]

    def interrupt(run: RunDirectory, record: Epoch) -> None:
        if record.phase == "prune" and record.epoch == 6:  # the epoch before the path fine-tunes
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "append_metrics", interrupt)
        assert command(*words).returncode == 130
    early = command("choose", copy, "--max-params", "90%")
    assert early.returncode == 2
    assert "path.json is missing; has the run finished? (bmrs fit ... --resume continues it)" in early.stderr
    assert command(*words, "--resume").returncode == 0
    assert answers(copy) == answers(folder / "run")


def test_an_interrupted_refit_is_taken_up(copy: Path) -> None:
    refit = next((copy / "path").glob("refit-????-?.safetensors"))  # not the one that is cut to the budget
    whole = answers(copy)
    state = RunDirectory(copy).shelf[int(refit.stem.split("-")[1])]
    RunDirectory(copy).shelf.refitted(len(state.epochs), 3, Limits()).save(
        state
    )  # as if no epoch of it was made
    assert command("choose", copy, "--max-params", "90%", "--quiet").returncode == 0
    assert answers(copy) == whole


def test_one_posterior_is_pruned_to_several_budgets_and_each_network_trained(copy: Path) -> None:
    posteriors = (copy / "network.safetensors").read_bytes()
    train = Batches(run_data(RunDirectory(copy)).train, 500, shuffle=False)

    def pruned(*words: object) -> tuple[dict[str, float], float]:
        result = command("prune", copy, *words, "--json")
        assert result.returncode == 0, result.stderr
        answer = json.loads(result.stdout)
        shares = {cost: answer["small"][cost] / answer["dense"][cost] for cost in ("macs", "parameters")}
        return shares, evaluate(load(copy), train, 3).nll

    assert pruned("--max-params", "30%")[0]["parameters"] <= 0.3
    shares, before = pruned("--max-macs", "40%")
    assert shares["macs"] <= 0.4
    tuned, after = pruned("--max-macs", "40%", "--fine-tune-epochs", 5)
    assert tuned == shares
    assert after < before
    adamw = pruned("--max-macs", "40%", "--fine-tune-epochs", 5, "--optimizer", "adamw", "--lr", 1e-2)[1]
    assert after != adamw < before
    assert (copy / "network.safetensors").read_bytes() == posteriors
    # the target was that of the network before
    record = RunDirectory(copy).path_record()
    assert record is not None
    assert (record.target, record.chosen) == (None, None)
    assert "Asked for" not in command("report", copy).stdout


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--max-macs", "half"], "max_macs is 'half'; give a number, or a share"),
        (["--max-params", 3], "a budget of 3 cannot be met"),
        (["--fine-tune-epochs", -1], "there are -1 epochs of fine-tuning; give 0 or more"),
        (
            ["--lr", 0.1, "--clip", 1],
            "--clip, --lr has no effect without training; give --fine-tune-epochs too",
        ),
        (["--fine-tune-epochs", 1, "--optimizer", "adam"], "optimizer is 'adam'; use 'sgd' or 'adamw'"),
        (["--fine-tune-epochs", 9, "--lr", 1e9], "lower the learning rate (1000000000.0)"),
    ],
)
def test_a_refused_pruning_leaves_the_small_network(words: list[object], expected: str, copy: Path) -> None:
    before = (copy / "compact.safetensors").read_bytes(), (copy / "reduction.json").read_bytes()
    result = command("prune", copy, *words, "--quiet")
    assert result.returncode == 2
    assert expected in result.stderr
    assert result.stderr.count("\n") == 1
    assert ((copy / "compact.safetensors").read_bytes(), (copy / "reduction.json").read_bytes()) == before


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--max-macs", "half"], "max_macs is 'half'; give a number, or a share"),
        (["--max-loss", -1], "max_loss is -1.0; it must be at least 0"),
        (["--max-latency", "2h"], "max_latency is '2h'; give seconds, or a text such as '2ms'"),
        (["--max-latency", 2, "--max-loss", "abc"], "error: Invalid value for '--max-loss'"),
        (["--max-los", 1], "error: No such option: --max-los"),
        (["--score", "f1"], "score is 'f1'; use 'accuracy' or 'log_likelihood'"),
        (["--epochs", 1], "epochs is 1; a path takes at least 2"),
        (["--dense-epochs", -1], "dense_epochs is -1; it must be at least 0"),
        (["--validation", 0], "the share to hold out is 0.0"),
        (
            ["--gains-only", "--max-loss", 1, "--dense-epochs", 2],
            "--dense-epochs, --max-loss are for a run along the path, and --gains-only makes a run at one KL weight",
        ),
        (
            ["--criterion", "none", "--dense-epochs", 1],
            "--dense-epochs is for a run along the path, and --crit",
        ),
        (
            ["--kl-weight", "cost", "--max-macs", "50%"],
            "a run at one KL weight (--kl-weight) takes an integer",
        ),
    ],
)
def test_options_that_make_no_sense_end_in_one_line_before_a_run_is_made(
    words: list[object], expected: str, folder: Path, tmp_path: Path
) -> None:
    result = command("fit", "net.py", "--out", tmp_path / "run", *DATA, *words, cwd=folder)
    assert result.returncode == 2
    assert expected in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_warnings_are_one_line_and_only_what_matters_is_told_quietly(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def warn(*_: object, **__: object) -> None:
        warnings.warn(ScoreMissed("a network\nscores less"), stacklevel=1)
        for line in (7, 8):  # the same text is printed once
            warnings.warn_explicit("a layer is empty", UserWarning, runs.__file__, line)
        warnings.warn_explicit("not ours", UserWarning, "theirs.py", 7)

    monkeypatch.setattr(runs, "choose_run", warn)
    ours = ["warning: a network scores less", "warning: a layer is empty"]
    for option, expected in (("--json", ours), ("--quiet", ours[:1]), ("--trust-source", ours)):
        with pytest.warns(UserWarning, match="not ours") as others:
            assert command("choose", copy, option).stderr.splitlines() == expected
        assert len(others) == 1


def test_wrong_use_is_one_line_and_no_arguments_show_the_help() -> None:
    for words, expected in (
        (["fit"], "error: Missing argument"),
        (["nothing"], "error: No such command 'nothing'"),
        (["report", "run", "more"], "error: Got unexpected extra argument"),
        (["evaluate", "run", "--severity", 2], "error: --severity has no effect without --corruption"),
    ):
        result = command(*words)
        assert result.returncode == 2
        assert expected in result.stderr
        assert result.stderr.count("\n") == 1
    assert "Usage: bmrs" in command().stdout
    assert command("fit", "--help").returncode == 0


@pytest.mark.parametrize(("allowed", "offered"), [(0.0, None), (0.5, 0.1), (0.1, 0.05), (None, 0.1)])
def test_the_page_offers_a_smaller_loss_than_was_allowed(
    allowed: float | None, offered: float | None, copy: Path
) -> None:
    run = RunDirectory(copy)
    record = run.path_record()
    assert record is not None
    run.save_path_record(replace(record, target=Target(max_loss=allowed)))
    page = html_report(run)
    found = re.findall(r"bmrs choose (?!RUN )[^<]* --max-loss ([\d.]+)", page)
    assert found == ([] if offered is None else [f"{offered:g}"])
    # the commands that repeat the run name what was allowed
    repeated = re.findall(r"bmrs choose RUN --max-loss ([\d.]+)", page)
    assert repeated == ([] if allowed is None else [str(allowed)])


def test_times_that_earlier_versions_saved_without_a_unit_are_seconds(copy: Path) -> None:
    record = {**RunDirectory(copy).config.to_json(), "target": {"max_latency": "0.002"}}
    assert RunConfig.from_json(record).target == Target(max_latency=0.002)
    assert RunConfig.from_json({**record, "target": {"max_latency": "2ms"}}).target == Target(
        max_latency="2ms"
    )


@pytest.mark.filterwarnings("ignore:.*min_keep=1 keeps")  # a few steps are far too few
def test_a_run_for_a_budget_of_multiply_accumulates_weighs_them(folder: Path) -> None:
    result = command(
        "fit",
        "net.py",
        "--out",
        "macs",
        *DATA,
        "--epochs",
        2,
        "--dense-epochs",
        0,
        "--max-macs",
        "90%",
        cwd=folder,
    )
    assert result.returncode == 0, result.stderr
    assert RunDirectory(folder / "macs").config.recipe.kl_weight == "cost-macs"
    assert RunDirectory(folder / "run").config.recipe.kl_weight == "cost"


def test_a_run_along_the_path_is_resumed_as_one(folder: Path) -> None:
    for words, expected in (
        (["--kl-weight", "mean:1"], "--kl-weight is mean:1, not None"),
        (["--max-params", "80%"], "--max-params is 80%, not 90%"),
        (["--max-macs", "80%"], "--max-macs is 80%, not None"),
    ):
        result = command("fit", "net.py", "--out", "run", "--resume", *words, cwd=folder)
        assert result.returncode == 2
        assert expected in result.stderr


def test_a_run_at_one_weight_has_no_path_to_choose_from(finished_run: RunDirectory) -> None:
    result = command("choose", finished_run.path, "--max-macs", "50%")
    assert result.returncode == 2
    assert "was fitted at one KL weight, so it has no path to choose from" in result.stderr
    assert result.stderr.count("\n") == 1
