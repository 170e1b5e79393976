"""``bmrs bench``: the benchmark suite."""

from __future__ import annotations

__all__ = ["bench"]

import platform
from pathlib import Path
from typing import Annotated, Any

import pyro
import torch
import typer
from rich.json import JSON
from rich.markdown import Markdown

from bmrs_pyro.cli.demo import LENET5
from bmrs_pyro.cli.devices import refuse_unusable
from bmrs_pyro.cli.output import Json, Output, Quiet
from bmrs_pyro.cli.results import added, prepare, write_page
from bmrs_pyro.experiments.bench import SECTIONS, Setting
from bmrs_pyro.experiments.bench_page import page, targets_table

_KEYS = ("section",)


def bench(
    section: Annotated[list[str] | None, typer.Option(help=f"{', '.join(SECTIONS)}; all by default.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Alternating blocks of each measurement.")] = 15,
    threads: Annotated[int, typer.Option(min=1, help="Threads torch computes with.")] = 2,
    device: Annotated[
        str, typer.Option(help="cpu or cuda: where the sections steps, compiled and throughput train.")
    ] = "cpu",
    out: Annotated[
        Path | None,
        typer.Option(help="JSON file to write, with a page beside it; other sections stay."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure steps, runs, decisions, removal and inference; steps and inference as medians of repeats in turns."""
    names = list(dict.fromkeys(section or SECTIONS))
    for name in names:
        if name not in SECTIONS:
            raise ValueError(f"section {name!r} is unknown; use {', '.join(SECTIONS)}")
    refuse_unusable(device)
    if out is not None:
        prepare(out, _KEYS)
    torch.set_num_threads(threads)
    pyro.set_rng_seed(0)
    output = Output(json, quiet)
    rows: list[dict[str, Any]] = []
    for name in names:
        output.show(f"{name} ...")
        results = SECTIONS[name](Setting(str(LENET5.parent), rounds, device))
        output.show(JSON.from_data(results))
        row = {
            "section": name,
            "environment": _environment(name, rounds, threads, device),
            "results": results,
        }
        rows.append(row)
        if out is not None:  # after every section, so that none is lost
            write_page(out.with_suffix(".md"), page(added(out, [row], _KEYS)))
    record = {row["section"]: row["results"] for row in rows}
    output.show(Markdown(targets_table(record)))
    output.result(record)


def _environment(section: str, rounds: int, threads: int, device: str) -> dict[str, str | None]:
    return {
        "command": f"bmrs bench --section {section} --rounds {rounds} --threads {threads} --device {device}",
        "gpu": torch.cuda.get_device_name(device) if device.startswith("cuda") else None,
        "torch": str(torch.__version__),
        "pyro": pyro.__version__,
        "python": platform.python_version(),
        "processor": platform.machine(),
    }
