"""``bmrs reproduce``: the sources' experiments, with our numbers beside the published ones."""

from __future__ import annotations

__all__ = ["reproduce"]

import typer

from bmrs_pyro.cli.reproduce_poster import curves, larger, path, poster, precision, torch_pruning
from bmrs_pyro.cli.reproduce_studies import both, honesty, index, random_labels, sbp, tasks, trained, vgg
from bmrs_pyro.cli.reproduce_weights import bmr

reproduce = typer.Typer(
    help="Run the sources' experiments and our own, and print our numbers beside the published ones.",
    no_args_is_help=True,
)
SOURCES = (poster, curves, larger, sbp, random_labels, vgg, bmr, both, precision, index)
for command in (*SOURCES, path, tasks, trained, torch_pruning, honesty):
    reproduce.command()(command)
