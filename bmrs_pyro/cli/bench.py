"""``bmrs bench``: the benchmark suite."""

from __future__ import annotations

__all__ = ["bench"]

import platform
from collections.abc import Mapping
from json import dumps
from pathlib import Path
from typing import Annotated, Any

import pyro
import torch
import typer
from rich.json import JSON
from rich.table import Table

from bmrs_pyro.cli.demo import LENET5
from bmrs_pyro.cli.output import Json, Output, Quiet
from bmrs_pyro.experiments.bench import SECTIONS, Setting, targets
from bmrs_pyro.inference import write_atomically


def bench(
    section: Annotated[list[str] | None, typer.Option(help=f"{', '.join(SECTIONS)}; all by default.")] = None,
    rounds: Annotated[int, typer.Option(help="Alternating blocks of each measurement.")] = 15,
    threads: Annotated[int, typer.Option(help="Threads torch computes with.")] = 2,
    device: Annotated[
        str, typer.Option(help="cpu or cuda: where the sections steps, compiled and throughput train.")
    ] = "cpu",
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure steps, runs, decisions, removal and inference, as ratios of medians of interleaved repeats."""
    names = section or list(SECTIONS)
    for name in names:
        if name not in SECTIONS:
            raise ValueError(f"section {name!r} is unknown; use {', '.join(SECTIONS)}")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device is {device!r}, but torch sees no GPU; use --device cpu")
    torch.set_num_threads(threads)
    pyro.set_rng_seed(0)
    output = Output(json, quiet)
    record: dict[str, Any] = {}
    for name in names:
        output.show(f"{name} ...")
        record[name] = SECTIONS[name](Setting(str(LENET5.parent), rounds, device))
        output.show(JSON.from_data(record[name]))
        if out is not None:  # after every section, so that none is lost
            _write(out, {"environment": _environment(rounds, threads, device), **record})
    table = Table(title="targets")
    for header in ("what", "bound", "measured", ""):
        table.add_column(header)
    for what, bound, value, met in targets(record):
        table.add_row(what, f"{bound:.2f}", f"{value:.2f}", "met" if met else "missed")
    output.show(table)
    output.result(record)


def _environment(rounds: int, threads: int, device: str) -> dict[str, str | None]:
    return {
        "command": f"bmrs bench --rounds {rounds} --threads {threads} --device {device}",
        "gpu": torch.cuda.get_device_name(device) if device.startswith("cuda") else None,
        "torch": str(torch.__version__),
        "pyro": pyro.__version__,
        "python": platform.python_version(),
        "processor": platform.machine(),
    }


def _write(out: Path, record: Mapping[str, Any]) -> None:
    text = dumps(record, indent=1) + "\n"
    write_atomically(out, lambda file: file.write_text(text))
