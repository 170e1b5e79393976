"""``bmrs architectures``: which networks have structures that can be removed exactly."""

from __future__ import annotations

__all__ = ["architectures"]

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bmrs_pyro import reporting
from bmrs_pyro.cli.output import Json, Output, Quiet
from bmrs_pyro.files import refuse_unwritable, write_atomically

_HEAD = """# Architectures

{working} of {total} networks work: the smallest member of every family in torchvision, and those named in

    bmrs architectures{arguments} --out docs/architectures.md

No network is known by name: structures come from the dependency graph, and each family is tried on a copy.

- *reachable*: share of the parameters that belong to at least one structure;
- *seconds*: wall-clock time of `find_structures`, the trials included, on one core of a shared machine;
- *error*: largest difference in float32 between the network with half of all structures at gain 0 and the network
  without them, relative to how far the outputs of two random inputs are apart.

"""


def architectures(
    networks: Annotated[
        list[str] | None,
        typer.Argument(
            help="FILE.py, module:callable, torchvision:NAME or timm:NAME, after torchvision's families."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Markdown file to write; else the table is printed.")
    ] = None,
    only: Annotated[bool, typer.Option("--only", help="The named networks alone.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Look for structures in networks, remove half of them at random, and say what is found and how exact it is."""
    console, output = Console(stderr=True, quiet=quiet, markup=False), Output(json, quiet)
    if out is not None:
        refuse_unwritable(out)
    named = networks or []
    surveys = {}
    for spec in [*([] if only else reporting.smallest_members()), *named]:
        surveys[spec] = reporting.survey_source(spec)
        console.print(f"{spec}: {surveys[spec].refusal or f'{surveys[spec].families} families'}")
    arguments = "".join(f" {part}" for part in (*named, *(["--only"] if only else [])))
    working = sum(one.refusal is None for one in surveys.values())
    text = _HEAD.format(working=working, total=len(surveys), arguments=arguments) + reporting.survey_table(
        surveys
    )
    if out is None:
        output.show(text)
    else:
        write_atomically(out, lambda file: file.write_text(text))
    output.result({spec: asdict(one) for spec, one in surveys.items()})
