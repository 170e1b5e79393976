"""``bmrs demo``: the whole method on scikit-learn's digits, in about a minute."""

from __future__ import annotations

__all__ = ["demo"]

from typing import Annotated

import typer

from bmrs_pyro import experiments
from bmrs_pyro.cli.output import Json, Output, Quiet


def demo(
    epochs: Annotated[
        int, typer.Option(min=2, help="Epochs of the path; half as many epochs without gains precede it.")
    ] = 24,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train LeNet5 on handwritten digits, prune it to the smallest size that predicts as well, and compare the two."""
    output = Output(json, quiet)
    output.result(experiments.tasks.demo.demonstrate(epochs, output.show, progress=output.progress))
