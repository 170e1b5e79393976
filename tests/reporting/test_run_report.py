"""The page holds what it promises, needs nothing from elsewhere, and is well formed."""

from __future__ import annotations

import html
import json
import re
import shlex
import shutil
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from rich.console import Console
from torch import Tensor
from typer.main import get_command

from bmrs_pyro.cli.app import app
from bmrs_pyro.data import Batches, load
from bmrs_pyro.distributions import LogUniform, TruncatedLogNormal
from bmrs_pyro.experiments.small_runs import run_config
from bmrs_pyro.files import seal
from bmrs_pyro.metrics import ClassEvaluation, evaluate
from bmrs_pyro.path import Target
from bmrs_pyro.reduction import spike
from bmrs_pyro.reporting import NetworkMetrics, family_table, html_report, predictor_of, repeat_command
from bmrs_pyro.reporting.path_view import share_of
from bmrs_pyro.reporting.run_evaluation import left_posteriors
from bmrs_pyro.runs import NetworkSource, RunDirectory, prune_run
from bmrs_pyro.training import Cycle
from tests.reporting.paths import PATH, path, point

ODD_NAMES = """
from collections import OrderedDict
from torch import nn

def network(input_shape, num_classes):
    layers = {"flat": nn.Flatten(), "<b>x": nn.Linear(64, 12), "act": nn.Tanh(),
              "[bold red]": nn.Linear(12, 8), "act2": nn.Tanh(), "&amp;": nn.Linear(8, num_classes)}
    return nn.Sequential(OrderedDict(layers))
"""


class Reader(HTMLParser):
    """Checks that elements nest, and collects ids, classes and addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.cells = {"kept": 0, "removed": 0, "odds": 0}

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        if tag != "meta":
            self.open.append(tag)
        self.ids += [values["id"] or ""] if "id" in values else []
        self.addresses += [values[name] or "" for name in ("src", "href", "xlink:href") if name in values]
        if tag == "li":
            self.cells[values["class"] or ""] += 1

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page(finished_run: RunDirectory) -> str:
    x, y = torch.randn(50, 1, 8, 8), torch.randint(0, 10, (50,))
    result = evaluate(finished_run.small(), [(x, y)], 10)
    return html_report(finished_run, {"<noise>": result}, spike(LogUniform()))


def test_the_page_is_well_formed_and_self_contained(page: str, finished_run: RunDirectory) -> None:
    reader = Reader()
    reader.feed(page)
    assert not reader.open
    assert len(reader.ids) == len(set(reader.ids)), "two figures share an id"
    assert all(address.startswith("#") for address in reader.addresses)
    assert not re.search(r"<script .|<link|@import|https?://(?!www.w3.org)|url\((?!#)", page)
    decision = finished_run.decision()
    removed, odds = (
        torch.cat([~mask for mask in decision.keep.values()]),
        torch.cat([*decision.by_odds.values()]),
    )
    assert reader.cells == {
        "kept": decision.keep.kept,
        "removed": int((removed & ~odds).sum()),
        "odds": int((removed & odds).sum()),
    }
    assert not re.search(r"<li[^>]* title=", page), "no evidence by hover alone"
    assert page.count('<th scope="row">') > decision.keep.total, "every structure has a row of numbers"


@pytest.mark.parametrize(
    ("likelihood", "y", "expected"),
    [
        ("normal:1", torch.zeros(50, 10), ["What it predicts", "RMSE", "NLL"]),
        (
            "bernoulli",
            torch.zeros(50, 10),
            ["What its probabilities are worth", "accuracy", "Brier score"],
        ),
    ],
)
def test_the_page_shows_what_fits_the_likelihood(
    likelihood: str, y: Tensor, expected: list[str], finished_run: RunDirectory
) -> None:
    result = evaluate(finished_run.small(), [(torch.randn(50, 1, 8, 8), y)], likelihood=likelihood)
    page = html_report(finished_run, {"test data": result})
    for text in expected:
        assert text in page
    assert ("Reliability" in page) == (likelihood == "bernoulli")


def test_the_page_answers_what_was_asked(page: str, finished_run: RunDirectory) -> None:
    headings = [heading.strip() for heading in re.findall(r"<h[23]>([^<]+)<", page)]
    for expected in (
        "What it cost, against the dense network",
        "What to do next",
        "What was removed",
        "ΔF of every structure",
        "The closest calls",
        "Gains of 1",
        "Evidence lower bound",
        "Time of an epoch",
        "Accuracy against size",
        "Reliability",
        "Repeat the run",
    ):
        assert expected in headings
    assert len([heading for heading in headings if heading.startswith(("Strongest", "Weakest"))]) == 2
    assert finished_run.config.versions["torch"] in page
    settings = dict(texts(row) for row in re.findall(r"<tr>.*?</tr>", page.split("Full configuration")[1]))
    assert (settings["data"], settings["kl_weight"], settings["num_classes"]) == ("digits", "mean:0.3", "10")
    assert "<h1>network on digits</h1>" in page
    assert "<code>1</code>, 12 neurons <small>theta.1</small>" in page
    assert "&lt;noise&gt;" in page
    assert "<noise>" not in page


def metrics(accuracy: float | None, parameters: int) -> NetworkMetrics:
    result = (
        None if accuracy is None else ClassEvaluation(100, 100, accuracy, 1.0, 0.5, 0.1, 0.02, None, None, ())
    )
    return NetworkMetrics(result, parameters, 10 * parameters, 4096, {1: 2**20}, {1: parameters / 1e6})


def test_the_cost_is_against_the_dense_network_where_that_is_known(finished_run: RunDirectory) -> None:
    page = html_report(finished_run, networks={"dense": metrics(0.9, 2000), "small": metrics(0.88, 500)})
    rows = {row[0]: row[1:] for row in map(texts, re.findall(r"<tr>.*?</tr>", page))}
    assert rows["test accuracy"] == ["90.00%", "88.00%", "−2.00 points"]
    assert rows["parameters"] == ["2,000", "500", "−75%"]
    assert rows["MACs"] == ["20,000", "5,000", "−75%"]
    assert rows["latency, batch 1"] == ["2.00 ms", "0.50 ms", "−75%"]
    assert rows["validation accuracy"][0] == "not known"
    assert "no trained weights of the dense network" not in page
    page = html_report(finished_run, networks={"dense": metrics(None, 2000), "small": metrics(0.88, 500)})
    assert "no trained weights of the dense network, so what pruning cost is not known" in page


def texts(html: str) -> list[str]:
    return [unescape(re.sub("<[^>]*>", "", cell)) for cell in re.findall(r"<t[hd].*?</t[hd]>", html)]


@pytest.fixture
def path_run(finished_run: RunDirectory, tmp_path: Path) -> RunDirectory:
    """The finished run as if it were the last network of a path."""
    shutil.copytree(finished_run.path, tmp_path / "run")
    run = RunDirectory(tmp_path / "run")
    config = replace(run.config, target=Target(max_loss=0.5), dense_epochs=3)
    (run.path / "config.json").write_text(json.dumps(seal(config.to_json())))
    taken = point(4, 80, 0.96, left=run.decision().keep.kept)
    run.save_path_record(path(PATH.dense, *PATH.points, chosen=taken))
    return run


@pytest.mark.parametrize("along", [False, True])
def test_the_commands_to_copy_are_commands(
    along: bool, finished_run: RunDirectory, path_run: RunDirectory
) -> None:
    page = html_report(path_run if along else finished_run)
    shown = [shlex.split(unescape(words)) for words in re.findall(r"<code>(bmrs .*?)</code>", page)]
    another = ["choose", "choose"] if along else ["prune"]
    assert [words[1] for words in shown] == [*another, "compare", "export", "fit"]
    for _, name, *words in shown:
        get_command(app).commands[name].make_context(name, words)
    assert ("--max-loss" in shown[-1], "--kl-weight" in shown[-1]) == (along, not along)
    if along:  # the trained dense network is there, and half of the MACs can be had
        assert "--weights" not in shown[2]
        assert shown[1][-1] == "8.2%"  # half of what the network has


@pytest.mark.filterwarnings("ignore:the small network is much worse")  # one structure of each family is left
@pytest.mark.parametrize("along", [False, True])
def test_no_size_is_offered_that_cannot_be_met(
    along: bool, finished_run: RunDirectory, path_run: RunDirectory, tmp_path: Path
) -> None:
    shutil.copytree((path_run if along else finished_run).path, tmp_path / "copy")
    run = RunDirectory(tmp_path / "copy")
    least = 64 + 1 + 10  # one structure in each of two families

    def offered(macs: int) -> list[str]:
        prune_run(run, "bmrs-n", target=Target(max_macs=macs))
        return re.findall(r"<code>bmrs \w+ [^<\n]* --max-macs ([^<]*)</code>", html_report(run))

    assert offered(2 * least - 10) == [share_of(PATH, least) if along else str(least)]
    assert not offered(least)


def test_a_path_is_shown_with_its_numbers_and_what_was_chosen(
    finished_run: RunDirectory, path_run: RunDirectory
) -> None:
    page = html_report(path_run)
    rows = re.findall(r"<tr id=\"point-\d\".*?</tr>", page)
    assert [texts(row)[:3] for row in rows] == [
        ["1", "800", "98.00% ± 1.00%"],
        ["4", "90", "95.00% ± 1.00%"],
        ["unpruned", "900", "97.00% ± 1.00%"],
        ["4, refitted", "80", "96.00% ± 1.00%"],
    ]
    assert [' class="chosen"' in row for row in rows] == [False, True, False, False]
    reached = re.findall(r'<use tabindex="0" role="img" aria-label="([^"]*)" data-row="(point-\d)"', page)
    assert reached == [
        ("800 parameters, accuracy 98.00% ± 1.00%", "point-0"),
        ("90 parameters, accuracy 95.00% ± 1.00%", "point-1"),
    ]
    assert "Asked for: max_loss 0.5.<" in page
    assert "An epoch of the path has 108 steps (6\npasses over the data)" in page
    costs = {row[0]: row[1:] for row in map(texts, re.findall(r"<tr>.*?</tr>", page))}
    assert costs["validation accuracy"][0] == "97.00%"
    assert "<h2>The path</h2>" not in html_report(finished_run)


@pytest.mark.filterwarnings("ignore:the small network is much worse")
def test_a_network_that_was_pruned_again_is_no_point_of_the_path(path_run: RunDirectory) -> None:
    prune_run(path_run, "expected", 0.5)
    record = path_run.pruned()
    assert record is not None
    page = html_report(path_run)
    assert record.caution
    assert html.escape(f"Caution: {record.caution}.") in page
    assert "bmrs prune RUN --criterion expected --fraction 0.5 --round-to 1" in page
    assert "<h2>The path</h2>" in page
    assert 'class="chosen"' not in page
    assert "refitted</th>" not in page


@pytest.mark.parametrize("name", ["bmrs-n", "bmrs-u-4", "bmrs-u-8"])
def test_the_page_names_the_criterion_of_the_decision(
    name: str, finished_run: RunDirectory, tmp_path: Path
) -> None:
    shutil.copytree(finished_run.path, tmp_path / "copy")
    run = RunDirectory(tmp_path / "copy")
    prune_run(run, name)
    assert f"<p>ΔF by {name} is the change of the log evidence" in html_report(run)


def test_layer_names_are_no_html(finished_run: RunDirectory, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(ODD_NAMES)
    options = ["--out", str(tmp_path / "run"), "--epochs", "1", "--fine-tune-epochs", "0", "--quiet"]
    app(["fit", str(tmp_path / "net.py"), *options], standalone_mode=False)
    run = RunDirectory(tmp_path / "run")
    page = html_report(run)
    reader = Reader()
    reader.feed(page)
    assert not reader.open
    assert "<b>" not in page
    assert "<code>&lt;b&gt;x</code>, 12 neurons <small>theta.&lt;b&gt;x</small>" in page
    console = Console(width=120, record=True)
    console.print(family_table(run.decision(), run.families()))
    assert "│ [bold red] │ 8 neurons" in console.export_text(clear=False)
    assert re.search(r"<b>x +│ 12 neurons +│ theta.<b>x", console.export_text())


def test_the_page_is_the_same_every_time(finished_run: RunDirectory) -> None:
    assert html_report(finished_run) == html_report(finished_run)


def test_the_command_to_repeat_gives_the_same_configuration(
    finished_run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = finished_run.config
    words = repeat_command(config).split()
    assert words[:2] == ["bmrs", "fit"]
    command = get_command(app).commands["fit"]
    found = command.make_context("fit", words[2:]).params
    for name in (
        "epochs",
        "fine_tune_epochs",
        "batch_size",
        "kl_weight",
        "posterior_lr_factor",
        "seed",
        "lr",
    ):
        assert found[name] == getattr(config.recipe, name)
    assert (found["model"], found["data"]) == (config.model, config.data.data)


def test_a_later_choice_is_repeated_too(finished_run: RunDirectory) -> None:
    config = replace(finished_run.config, target=Target(max_latency="80%", batch_size=64))
    assert repeat_command(config, chosen=config.target).count("\n") == 0
    _, second = repeat_command(config, chosen=Target(max_latency="95%", max_macs="50%")).splitlines()
    command = get_command(app).commands["choose"]
    found = command.make_context("choose", second.split()[2:]).params
    assert (found["max_latency"], found["max_macs"], found["latency_batch_size"]) == ("95%", "50%", 1)


def test_pruning_again_is_repeated_too(finished_run: RunDirectory, tmp_path: Path) -> None:
    shutil.copytree(finished_run.path, tmp_path / "copy")
    run = RunDirectory(tmp_path / "copy")
    assert run.pruned() is None
    prune_run(run, "bmrs-n", target=Target(max_params="15%"), epochs=2, cycle=Cycle("adamw", 1e-3))
    record = run.pruned()
    assert record is not None
    *_, last = repeat_command(run.config, pruned=record.options).splitlines()
    command = get_command(app).commands["prune"]
    found = command.make_context("prune", last.split()[2:]).params
    assert (found["fine_tune_epochs"], found["optimizer"], found["lr"]) == (2, "adamw", 1e-3)
    again = tmp_path / "again"
    shutil.copytree(finished_run.path, again)
    app(["prune", str(again), *last.split()[3:], "--quiet"], standalone_mode=False)
    ours, theirs = (one.small().state_dict() for one in (run, RunDirectory(again)))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_no_command_is_promised_for_what_it_did_not_make(finished_run: RunDirectory, tmp_path: Path) -> None:
    source, recipe = NetworkSource(finished_run.config.model), finished_run.config.recipe
    config = run_config(source, load("digits").train, recipe, ".", validation=0.2)
    copy = RunDirectory.create(tmp_path / "run", config)
    for file in ("metrics.jsonl", "network.safetensors", "reduction.json", "compact.safetensors"):
        shutil.copy(finished_run.path / file, copy.path)
    page = html_report(copy)
    assert "<h2>Configuration</h2>" in page
    assert "bmrs fit" not in page


def test_every_command_has_json_and_quiet_and_help() -> None:
    commands = dict(get_command(app).commands)
    commands |= commands.pop("reproduce").commands
    assert {"fit", "poster"} <= commands.keys()
    for name, command in commands.items():
        options = {flag for parameter in command.params for flag in parameter.opts}
        assert {"--json", "--quiet"} <= options, name
        assert CliRunner().invoke(command, ["--help"]).exit_code == 0


def test_draws_and_gains_are_those_of_a_run_that_was_pruned_again(
    finished_run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished_run.path, tmp_path / "run")
    run = RunDirectory(tmp_path / "run")
    prune_run(run, "bmrs-n", target=Target(max_params="15%"), epochs=1)  # the weights are trained too
    trained, keep = run.network()[2], run.decision().keep
    assert keep.kept < trained.kept
    page = html_report(run)
    for name, posterior in left_posteriors(run).items():
        assert len(posterior.loc) == keep[name].sum()
        assert f"{len(posterior.loc)} of {len(keep[name])} neurons, {name}" in page
    test = Batches(load("digits").test, 500, shuffle=False)
    small = evaluate(run.small(), test, likelihood=run.likelihood())
    # with every gain at its mean the predictor is the small network
    monkeypatch.setattr(TruncatedLogNormal, "sample", lambda q, *_: q.mean)
    drawn = evaluate(predictor_of(run, 2), test, likelihood=run.likelihood())
    assert drawn.nll == pytest.approx(small.nll, rel=1e-5)
