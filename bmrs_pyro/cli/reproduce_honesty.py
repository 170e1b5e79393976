"""``bmrs reproduce honesty``: networks made to deceive, and which of their structures are offered for removal."""

from __future__ import annotations

__all__ = ["honesty"]

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markdown import Markdown

from bmrs_pyro.cli.output import Json, Output, Quiet
from bmrs_pyro.cli.results import added, prepare, write_page
from bmrs_pyro.experiments.honesty import KINDS, measured
from bmrs_pyro.experiments.honesty_page import KEYS, page


def honesty(
    networks: Annotated[int, typer.Option(min=1, help="Random networks of each kind.")] = 8,
    code: Annotated[str, typer.Option(help="What the rows call the code that is measured.")] = "now",
    out: Annotated[
        Path | None, typer.Option(help="Folder for honesty.json and its page, honesty.md.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Look for structures in random networks that treat channels by their place, and count wrong offers."""
    if out is not None:
        prepare(out / "honesty.json", KEYS)
    console, output = Console(stderr=True, quiet=quiet), Output(json, quiet)
    rows: list[dict[str, Any]] = []
    for kind in KINDS:
        found = [measured(kind, number) for number in range(networks)]
        sums = {key: sum(one[key] for one in found) for key in ("offered", "wrong")}
        rows.append({"code": code, "kind": kind, "networks": networks, **sums})
        console.print(f"{kind}: {sums['offered']} offers, {sums['wrong']} wrong")
    output.show(Markdown(page(rows)))
    output.result({"kinds": rows})
    if out is not None:
        write_page(out / "honesty.md", page(added(out / "honesty.json", rows, KEYS)))
