"""``bmrs bench``: the benchmark suite."""

from __future__ import annotations

__all__ = ["bench"]

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.json import JSON
from rich.markdown import Markdown

from bmrs_pyro import experiments
from bmrs_pyro.cli.output import Json, Output, Quiet
from bmrs_pyro.cli.results import added, prepare, write_page
from bmrs_pyro.cli.studying import chosen

_KEYS = ("section",)


def bench(
    section: Annotated[
        list[str] | None, typer.Option(help="Section to run; repeat for several, all by default.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Alternating blocks of each measurement.")] = 15,
    threads: Annotated[int, typer.Option(min=1, help="Number of torch's threads.")] = 2,
    device: Annotated[
        str, typer.Option(help="cpu or cuda: device of the sections steps, compiled and throughput.")
    ] = "cpu",
    out: Annotated[
        Path | None,
        typer.Option(
            help="JSON file to write, with a page beside it; it keeps the results of other sections."
        ),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure steps, runs, decisions, removal and inference; steps and inference as medians of alternating blocks."""
    names = chosen(section, experiments.bench.suite.SECTIONS, "section")
    if out is not None:
        prepare(out, _KEYS)
    setting = experiments.bench.suite.Setting(rounds, device, threads)
    setting.prepare()
    output = Output(json, quiet)
    rows: list[dict[str, Any]] = []
    for name in names:
        output.show(f"{name} ...")
        results = experiments.bench.suite.SECTIONS[name](setting)
        output.show(JSON.from_data(results))
        row = {"section": name, "environment": setting.environment(name), "results": results}
        rows.append(row)
        if out is not None:  # after every section, so that none is lost
            write_page(out.with_suffix(".md"), experiments.bench.page.page(added(out, [row], _KEYS)))
    record = {row["section"]: row["results"] for row in rows}
    output.show(Markdown(experiments.bench.page.targets_table(record)))
    output.result(record)
