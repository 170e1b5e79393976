"""``bmrs demo``: the whole method on scikit-learn's digits, in about a minute."""

from __future__ import annotations

__all__ = ["demo"]

from typing import Annotated

import typer

from bmrs_pyro import experiments
from bmrs_pyro.cli.output import Json, Output, Quiet


def demo(
    epochs: Annotated[
        int, typer.Option(min=1, help="Epochs with pruning; a third as many without follow.")
    ] = 30,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fit LeNet5 on handwritten digits, prune it as it learns, and compare it with a plainly trained one."""
    output = Output(json, quiet)
    output.result(experiments.demo.demonstrate(epochs, output.show, progress=output.progress))
