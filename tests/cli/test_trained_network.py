"""A trained network by the command: reduced to a budget, chosen from again, reported, interrupted, and refused."""

from __future__ import annotations

import json
import shlex
import shutil
from html import unescape
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from bmrs_pyro import complexity, load
from bmrs_pyro.data import Batches
from bmrs_pyro.metrics import evaluate
from bmrs_pyro.path import Target
from bmrs_pyro.reporting import html_report, layer_widths
from bmrs_pyro.runs import NetworkSource, RunDirectory, run_data
from bmrs_pyro.training import Cycle, Epoch, PlainSteps
from tests.cli.conftest import write_problem
from tests.cli.test_commands import command
from tests.cli.test_path import DATA, SOURCE, answers
from tests.inference.programs import categorical

TRAINED = ["--weights", "trained.safetensors"]
QUICK = [*DATA, *TRAINED, "--epochs", 3]
BUDGET = ["--max-macs", "50%"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a network's file, its data and trained weights, and a run that reduces it."""
    folder = tmp_path_factory.mktemp("trained")
    x, y = write_problem(folder, SOURCE)
    torch.manual_seed(0)
    net = NetworkSource(str(folder / "net.py")).build((6,), 3)
    scaled = torch.from_numpy((x - x.mean(0)) / x.std(0))
    batches = [(scaled[i::10], torch.from_numpy(y[i::10])) for i in range(10)]
    PlainSteps(net, categorical, batches, 100, Cycle(lr=0.1)).make(100)
    save_file(net.state_dict(), folder / "trained.safetensors")
    result = command("fit", "net.py", "--out", "run", *QUICK, *BUDGET, cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "Asked for: max_macs 50%." in result.stdout
    assert "Cuts: 10, from 275 to " in result.stdout
    assert "bmrs choose run reduces the given weights to another target" in result.stdout
    return folder


def test_a_run_may_be_asked_for_a_latency(folder: Path, tmp_path: Path) -> None:
    words = ["--max-latency", "10s", "--latency-batch-size", 4, "--max-params", "60%", "--epochs", 1]
    result = command(
        "fit", "net.py", "--out", tmp_path / "fast", *DATA, *TRAINED, *words, "--json", cwd=folder
    )
    assert result.returncode == 0, result.stderr
    run = RunDirectory(tmp_path / "fast")
    record = run.path_record()
    assert record is not None
    assert record.target == Target(max_latency="10s", batch_size=4, max_params="60%")
    assert record.met
    assert record.times is not None
    assert record.chosen is not None
    assert record.chosen.parameters <= 0.6 * record.dense.parameters
    assert run.config.options()["latency_batch_size"] == 4


def test_a_latency_that_no_network_has_leaves_a_run_to_choose_from(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "fast"
    words = [*QUICK, "--max-latency", "0.001us"]
    result = command("fit", "net.py", "--out", run, *words, cwd=folder)
    assert result.returncode == 2
    assert (
        "error: no network is fast enough. The smallest has " in result.stderr
    )  # the advice depends on the machine
    assert f"bmrs choose {run} reduces the weights to another target" in result.stderr
    result = command("choose", run, "--max-macs", "60%", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert RunDirectory(run).path_record().met


@pytest.mark.filterwarnings("default:nothing was removed", "default:the small network is much worse")
def test_a_budget_that_removes_nothing_leaves_the_network_as_it_is(tmp_path: Path) -> None:
    """Statistics of batch norm are not estimated anew; and a cut is compared with the network that it begins with."""
    write_problem(
        tmp_path, SOURCE.replace("nn.Tanh(), nn.Linear(16", "nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16")
    )
    torch.manual_seed(0)
    net = NetworkSource(str(tmp_path / "net.py")).build((6,), 3)
    save_file(net.state_dict(), tmp_path / "trained.safetensors")
    words = ["--max-macs", "60%", "--epochs", 6]
    result = command("fit", "net.py", "--out", "run", *DATA, *TRAINED, *words, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    run = RunDirectory(tmp_path / "run")
    before = run.small().state_dict()
    accuracy = f"{run.path_record().chosen.score.accuracy:.2%}"
    result = command("prune", "run", "--max-macs", "60%", cwd=tmp_path)
    assert "nothing was removed" in result.stderr
    after = run.small().state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    result = command("prune", "run", "--max-params", "8%", cwd=tmp_path)
    assert f"{accuracy} before" in result.stderr


def macs(net: nn.Module) -> int:
    return complexity(net, torch.zeros(1, 6)).macs


def test_the_run_holds_the_network_within_the_budget_and_how_it_came_about(copy: Path, folder: Path) -> None:
    run = RunDirectory(copy)
    record, dense, small = run.path_record(), run.dense(), run.small()
    assert record is not None
    assert record.chosen is not None
    assert record.of_cuts
    given = load_file(folder / "trained.safetensors")
    assert all(torch.equal(value, given[name]) for name, value in dense.state_dict().items())
    assert macs(small) == record.chosen.macs <= 0.5 * macs(dense)
    held_out = Batches(run_data(run).validation, 500, shuffle=False)
    for net, point in ((dense, record.dense), (small, record.chosen)):
        assert evaluate(net, held_out, 3).accuracy == pytest.approx(point.score.accuracy)
    assert record.chosen.score.accuracy > record.dense.score.accuracy - 0.03
    epochs = run.metrics()
    assert [epoch.epoch for epoch in epochs] == [1, 2, 3]
    assert epochs[-1].parameters == record.chosen.parameters
    assert sum(epoch.removed for epoch in epochs) == run.decision().keep.removed
    assert run.config.cycle == Cycle()
    assert run.config.recipe.kl_weight == "elbo"
    _, posteriors, kept = run.network()
    assert {name: len(q.loc) for name, q in posteriors.items()} == record.chosen.structures
    assert kept.kept == record.chosen.size


@pytest.mark.filterwarnings("always:the gains of ")  # the command prints it
def test_another_budget_is_another_reduction_and_the_first_one_is_kept(copy: Path) -> None:
    first = answers(copy)
    result = command("choose", copy, "--max-macs", "30%", "--json")
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    assert answer["small"]["macs"] == macs(load(copy)) <= 0.3 * answer["dense"]["macs"]
    assert answer["path"]["met"] is True
    for words in (
        ["report"],
        ["evaluate"],
        ["compare", "--repeats", 1],
        ["export"],
        ["evaluate", "--draws", 2],
    ):
        again = command(words[0], copy, *words[1:], "--json")
        assert again.returncode == 0, again.stderr
        assert ("can predict badly" in again.stderr) == ("--draws" in words)
    assert json.loads(command("compare", copy, "--repeats", 1, "--json").stdout)["dense"]["evaluation"]
    files = {file: file.stat().st_mtime_ns for file in (copy / "path").iterdir()}
    assert len(files) == 2
    assert command("choose", copy, *BUDGET, "--quiet").returncode == 0
    assert {file: file.stat().st_mtime_ns for file in (copy / "path").iterdir()} == files
    assert answers(copy) == first


@pytest.mark.filterwarnings("always:nothing ")  # the command prints it
def test_it_is_pruned_again_to_a_budget_by_the_joint_loss(copy: Path) -> None:
    before, dense = load(copy), RunDirectory(copy).dense()
    # all gains were 1 in training, so none is folded in
    kept = command("prune", copy, "--max-params", "100%", "--quiet")
    assert kept.returncode == 0
    small = RunDirectory(copy).path_record().points[-1]
    assert kept.stderr == (
        f"warning: nothing was removed: the network that {copy} has trained meets the budget with {small.macs:,} MACs "
        f"and {small.parameters:,} parameters; give a smaller budget\n"
    )
    x = torch.randn(4, 6)
    assert torch.equal(load(copy)(x), before(x))
    result = command("prune", copy, "--max-macs", "30%", "--fine-tune-epochs", 3, "--json")
    assert result.returncode == 0, result.stderr
    assert macs(load(copy)) <= 0.3 * macs(dense)
    assert json.loads(result.stdout)["validation_accuracy"] > 0.9
    assert RunDirectory(copy).decision().joint
    assert "The small network was pruned again later" in html_report(RunDirectory(copy))
    refused = command("prune", copy)
    assert refused.returncode == 2
    assert "reduces a trained network, which is pruned again to a budget: give --max-macs" in refused.stderr


@pytest.mark.filterwarnings("always:nothing ")  # the command prints it
def test_without_a_budget_it_gets_smaller_as_long_as_the_score_holds(copy: Path) -> None:
    result = command("choose", copy, "--max-loss", 5, "--json")
    assert result.returncode == 0, result.stderr
    run, answer = RunDirectory(copy), json.loads(result.stdout)
    record, rounds = run.path_record(), len(run.metrics()) // 3
    assert rounds > 1
    assert answer["path"]["met"]
    assert answer["small"]["macs"] <= 0.7**rounds * answer["dense"]["macs"]
    assert record is not None
    assert record.chosen is not None
    assert [point.epoch for point in record.points] == list(range(1, 10 * rounds + 1))
    whole = command("choose", copy, "--max-macs", "100%", "--quiet")
    assert whole.returncode == 0
    assert whole.stderr.startswith("warning: nothing is removed: the given network meets the target with ")
    assert whole.stderr.count("\n") == 1
    assert record.chosen.epoch == 10 * rounds
    sums = [point.delta_f or 0.0 for point in record.points]
    assert all(map(np.isfinite, sums))
    assert all(scores.isfinite().all() for scores in run.decision().scores.values())
    default = command("choose", copy, "--json")
    assert default.returncode == 0, default.stderr


def test_the_page_is_about_cuts_and_its_command_repeats_the_run(
    copy: Path, folder: Path, tmp_path: Path
) -> None:
    result = command("report", copy, "--html", copy / "page.html")
    assert result.returncode == 0, result.stderr
    text = unescape((copy / "page.html").read_text())
    for words in (
        "Each cut removed",
        "How it was trained",
        f"bmrs choose {copy} --max-macs ",
        "Reduce the given weights as far as they lose at most 0.1 points of accuracy:",
        "structures were removed.",
        "the joint loss",
        "10, at the end",
        "All gains were 1 in training",
    ):
        assert words in text
    for words in (
        "KL weight",
        "refitted",
        "is folded",
        "Evidence lower bound",
        "draws of the gains",
        "Cycle(",
        "prior odds",
        "another rule",
        "threshold",
        "The closest calls",
    ):
        assert words not in text
    decision = RunDirectory(copy).decision()
    assert decision.joint
    assert "joint loss: what is kept" in result.stdout
    assert text.count('class="chosen"') == 1
    line = next(line for line in text.split("<pre><code>") if line.startswith("bmrs fit"))
    words_ = shlex.split(line.partition("</code>")[0])[1:]
    words_[words_.index("RUN")] = str(tmp_path / "again")
    again = command(*words_, "--batch-size", 64, "--quiet", cwd=folder)
    assert again.returncode == 0, again.stderr
    assert answers(tmp_path / "again") == answers(copy)


def test_an_interrupted_reduction_continues_to_the_same_network(
    folder: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(copy)
    words = ["fit", "net.py", "--out", copy, *QUICK, *BUDGET, "--quiet"]
    append = RunDirectory.append_metrics

    def interrupt(run: RunDirectory, record: Epoch) -> None:
        append(run, record)
        if record.epoch == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "append_metrics", interrupt)
        assert command(*words).returncode == 130
    early = command("choose", copy, *BUDGET)
    assert early.returncode == 2
    assert "path.json is missing; has the run finished? (bmrs fit ... --resume continues it)" in early.stderr
    made = []
    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "append_metrics", lambda run, record: made.append(record.epoch))
        assert command(*words, "--resume").returncode == 0
    assert made == [2, 3]
    assert answers(copy) == answers(folder / "run")


def test_a_finished_reduction_is_written_again_without_training(copy: Path) -> None:
    whole = answers(copy)
    (file,) = (copy / "path").iterdir()
    time = file.stat().st_mtime_ns
    for name in (
        "path.json",
        "reduction.json",
        "compact.safetensors",
        "network.safetensors",
        "metrics.jsonl",
    ):
        (copy / name).unlink()
    result = command("fit", "net.py", "--out", copy, "--resume", "--quiet")
    assert result.returncode == 0, result.stderr
    assert file.stat().st_mtime_ns == time
    assert answers(copy) == whole


def test_the_options_of_its_training_reach_it(folder: Path, tmp_path: Path) -> None:
    options = ["--optimizer", "adamw", "--lr", 1e-2, "--weight-decay", 0.01, "--clip", 1, "--warm-up", 0.2]
    limits = ["--max-params", "70%", "--round-to", 4, "--label-smoothing", 0.1, "--bfloat16", "--epochs", 0]
    words = ["fit", "net.py", "--out", tmp_path / "run", *DATA, *TRAINED, *options, *limits, "--quiet"]
    result = command(*words, cwd=folder)
    assert result.returncode == 0, result.stderr
    run = RunDirectory(tmp_path / "run")
    assert run.config.cycle == Cycle("adamw", 1e-2, 0.01, 0.2, 1.0, bfloat16=True)
    assert run.config.recipe.label_smoothing == 0.1
    assert all(width % 4 == 0 for width in list(layer_widths(load(run.path)).values())[:-1])
    other = command(*words, "--resume", "--optimizer", "sgd", cwd=folder)
    assert other.returncode == 2
    assert "--optimizer is sgd, not adamw" in other.stderr


def test_a_kl_weight_makes_a_single_run_from_the_weights(folder: Path, tmp_path: Path) -> None:
    words = ["--kl-weight", "mean:0.3", "--fine-tune-epochs", 1, "--quiet"]
    result = command("fit", "net.py", "--out", tmp_path / "run", *QUICK, *words, cwd=folder)
    assert result.returncode == 0, result.stderr
    config = RunDirectory(tmp_path / "run").config
    assert (config.cycle, config.target) == (None, None)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            [*TRAINED, "--dense-epochs", 3, "--draws", "8"],
            "--dense-epochs, --draws have no effect on a trained network",
        ),
        (
            [*TRAINED, "--min-keep", 2],
            "--min-keep has no effect on a trained network (--weights): leave it out",
        ),
        ([*TRAINED, "--max-latency", "1ns"], "max_latency is '1ns'; give seconds"),
        ([*TRAINED, "--criterion", "snr"], "criterion 'snr' has no evidence; a trained network takes bmrs-n"),
        ([*TRAINED, "--channels-last"], "--channels-last has no effect on a trained network; leave it out"),
        ([*TRAINED, "--max-params", 3], "a budget of 3 parameters cannot be met"),
        ([*TRAINED, "--epochs", -1], "error: epochs is -1; it must be at least 0"),
        ([*TRAINED, "--lr", 0], "lr is 0.0; it must be finite and above 0"),
        (
            [*TRAINED, "--latency-batch-size", 2],
            "error: latency_batch_size is 2, but it belongs to max_latency",
        ),
        ([*TRAINED, "--seed", -1], "error: seed is -1; it must not be negative"),
        ([*TRAINED, "--optimizer", "adam"], "optimizer is 'adam'; use 'sgd' or 'adamw'"),
        (["--weights", "missing.pt"], "missing.pt cannot be read"),
        (["--clip", 1, "--warm-up", 0.2], "--clip, --warm-up are for a trained network: give its --weights"),
        (
            [*TRAINED, "--kl-weight", "cost", "--clip", 1],
            "--clip is for a trained network: give its --weights, and no",
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


ENCODER = """
from torch import nn


class Encoder(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.embed, self.head = nn.Linear(2, 16), nn.Linear(16, num_classes)
        layer = nn.TransformerEncoderLayer(16, 2, 24, 0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

    def forward(self, x):
        return self.head(self.encoder(self.embed(x.unflatten(1, (3, 2)))).mean(1))


def network(input_shape, num_classes):
    return Encoder(num_classes)
"""


def test_weights_of_torchs_transformer_are_reduced(tmp_path: Path) -> None:
    write_problem(tmp_path, ENCODER)
    net = NetworkSource(str(tmp_path / "net.py")).build((6,), 3)
    save_file(net.state_dict(), tmp_path / "trained.safetensors")
    result = command("fit", "net.py", "--out", "run", *QUICK, *BUDGET, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    kinds = [family.kind for family in RunDirectory(tmp_path / "run", trust_source=True).families()]
    assert kinds == [
        "neurons",
        "head channels",
        "neurons",
    ]  # the stream, one head's channels, the block's neurons
    result = command("choose", "run", "--max-macs", "30%", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    result = command("prune", "run", "--max-macs", "25%", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    small = load(tmp_path / "run", net, trust_source=True)
    assert macs(small) <= 0.25 * macs(NetworkSource(str(tmp_path / "net.py")).build((6,), 3))
