"""``bmrs reproduce honesty``: adversarial networks, and how many structures are wrongly called removable."""

from __future__ import annotations

__all__ = ["honesty"]

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markdown import Markdown

from bmrs_pyro import experiments
from bmrs_pyro.cli.output import Json, Output, Quiet
from bmrs_pyro.cli.results import added, prepare, write_page


def honesty(
    networks: Annotated[int, typer.Option(min=1, help="Random networks of each kind.")] = 8,
    code: Annotated[str, typer.Option(help="Name of the measured version of the code in the table.")] = "now",
    out: Annotated[
        Path | None, typer.Option(help="Folder for honesty.json and its page, honesty.md.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find structures in random networks that treat channels by position, and count those wrongly called removable."""
    keys = experiments.honesty_page.KEYS
    if out is not None:
        prepare(out / "honesty.json", keys)
    console, output = Console(stderr=True, quiet=quiet), Output(json, quiet)
    rows: list[dict[str, Any]] = []
    for kind in experiments.honesty.KINDS:
        found = [experiments.honesty.measured(kind, number) for number in range(networks)]
        sums = {key: sum(one[key] for one in found) for key in ("offered", "wrong")}
        rows.append({"code": code, "kind": kind, "networks": networks, **sums})
        console.print(f"{kind}: {sums['offered']} offers, {sums['wrong']} wrong")
    output.show(Markdown(experiments.honesty_page.page(rows)))
    output.result({"kinds": rows})
    if out is not None:
        write_page(out / "honesty.md", experiments.honesty_page.page(added(out / "honesty.json", rows, keys)))
