"""The page holds what it promises, needs nothing from elsewhere, and is well formed."""

from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor
from typer.main import get_command

from bmrs_pyro.cli.app import app
from bmrs_pyro.data import load
from bmrs_pyro.distributions import LogUniform
from bmrs_pyro.experiments.recording import run_config
from bmrs_pyro.metrics import evaluate
from bmrs_pyro.reduction import spike
from bmrs_pyro.reporting import html_report, repeat_command
from bmrs_pyro.runs import NetworkSource, RunDirectory

VOID = {"meta", "path", "use", "br", "rect"}


class Reader(HTMLParser):
    """Checks that elements nest, and collects ids, classes and addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.cells = {"kept": 0, "removed": 0}

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
    assert not re.search(r"<script|<link|@import|url\((?!#)", page)
    keep = finished_run.decision().keep
    assert reader.cells == {"kept": keep.kept, "removed": keep.removed}


@pytest.mark.parametrize(
    ("likelihood", "y", "expected"),
    [
        ("normal:1", torch.zeros(50, 10), ["What it predicts", "test RMSE", "NLL"]),
        (
            "bernoulli",
            torch.zeros(50, 10),
            ["What its probabilities are worth", "test accuracy", "Brier score"],
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
    headings = re.findall(r"<h[23]>([^<]+)<", page)
    for expected in (
        "What was removed",
        "Widths before and after",
        "ΔF of every structure",
        "The closest calls",
        "Gains of theta.1",
        "Evidence lower bound",
        "Time of an epoch",
        "Accuracy against size",
        "Reliability",
        "Do it again",
    ):
        assert expected in headings
    assert len([heading for heading in headings if heading.startswith(("Strongest", "Weakest"))]) == 2
    assert finished_run.config.versions["torch"] in page
    assert "&lt;noise&gt;" in page
    assert "<noise>" not in page


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
