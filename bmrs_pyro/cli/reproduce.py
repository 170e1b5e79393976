"""``bmrs reproduce``: the experiments of the sources, our numbers beside theirs."""

from __future__ import annotations

__all__ = ["reproduce"]

import typer

from bmrs_pyro.cli.reproduce_bmr import bmr
from bmrs_pyro.cli.reproduce_honesty import honesty
from bmrs_pyro.cli.reproduce_path import path
from bmrs_pyro.cli.reproduce_poster import curves, poster
from bmrs_pyro.cli.reproduce_sbp import sbp
from bmrs_pyro.cli.reproduce_studies import both, index, precision, random_labels, vgg

reproduce = typer.Typer(
    help="Run the experiments of the sources and print our numbers beside theirs.", no_args_is_help=True
)
for command in (poster, curves, path, sbp, random_labels, vgg, bmr, both, precision, honesty, index):
    reproduce.command()(command)
