"""``bmrs report``: what a run removed, and how strong the evidence was."""

from __future__ import annotations

__all__ = ["report", "show_report"]

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from bmrs_pyro import network as networks
from bmrs_pyro import reporting, runs
from bmrs_pyro.cli.options import Run
from bmrs_pyro.cli.output import Json, Output, Quiet, TrustSource
from bmrs_pyro.files import refuse_unwritable, write_atomically


def report(
    run: Run,
    picture: Annotated[
        Path | None, typer.Option(help="Draw the histogram of ΔF into this file (.png, .svg, .pdf).")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write a page with all figures into this file; needs the run's data.")
    ] = None,
    trust_source: TrustSource = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Print size, number kept and range of ΔF of every structure family."""
    directory, output = runs.RunDirectory.opened(run, trust_source), Output(json, quiet)
    if picture is not None:
        reporting.refuse_figure(picture)
    if html is not None:
        refuse_unwritable(html)
    page = ""
    if html is not None:
        page = reporting.html_report(
            directory,
            dict(reporting.run_evaluations(directory)),
            reporting.reduced_prior_of(directory),
            reporting.compare_run(directory, repeats=2),
        )
    show_report(directory, output)
    if picture is not None:
        reporting.save_figure(reporting.plot_evidence(directory.decision()), picture)
        output.show(f"histogram in {picture}")
    if html is not None:
        write_atomically(html, lambda file: file.write_text(page, encoding="utf-8"))
        output.show(f"page in {html}")


def show_report(run: runs.RunDirectory, output: Output) -> None:
    """Print a run's table, with the sizes of the dense and the small network."""
    example, decision = networks.arguments(run.example()), run.decision()
    dense, small = networks.complexity(run.dense(), *example), networks.complexity(run.small(), *example)
    known = {family.name: family for family in run.families()}
    (accuracy, rmse), path, pruned = run.validation_scores(), run.path_record(), run.pruned()
    output.show(reporting.family_table(decision, known.values()))
    sizes = {"structures": (decision.keep.total, decision.keep.kept)}
    sizes |= {what: (getattr(dense, what), getattr(small, what)) for what in ("parameters", "macs")}
    for what, (before, after) in sizes.items():
        output.show(f"{what} {before:,} → {after:,} ({1 - after / before:.1%} fewer)")
    output.show(*_score_lines("small", accuracy, rmse))
    if path is not None:
        output.show(*_path_lines(run, path))
    if pruned is not None and pruned.caution:
        output.show(f"Caution: {pruned.caution}.")
    families: dict[str, Any] = {
        name: {
            "layer": known[name].layer,
            "kind": known[name].kind,
            "size": len(mask),
            "kept": int(mask.sum()),
        }
        for name, mask in decision.keep.items()
    }
    output.result(
        {
            "run": str(run.path),
            "criterion": decision.criterion,
            "likelihood": run.config.recipe.likelihood,
            "outputs": run.config.num_classes,
            "families": families,
            "dense": asdict(dense),
            "small": asdict(small),
            "validation_accuracy": accuracy,
            "validation_rmse": rmse,
            "dense_validation_accuracy": None if path is None else path.dense.score.accuracy,
            "dense_validation_rmse": None if path is None else path.dense.score.rmse,
            "caution": pruned.caution if pruned else path and path.caution,
            "path": None if path is None else _path_fields(path),
        }
    )


def _score_lines(network: str, accuracy: float | None, rmse: float | None) -> list[str]:
    """Return a line with a network's validation score, if it is known."""
    if accuracy is not None:
        return [f"validation accuracy of the {network} network: {accuracy:.2%}"]
    return [] if rmse is None else [f"validation RMSE of the {network} network: {rmse:.4g}"]


def _path_lines(run: runs.RunDirectory, path: runs.PathRecord) -> list[str]:
    whole, points = path.dense, path.points
    sizes = f"of {points[0].parameters:,} to {points[-1].parameters:,} parameters"
    what, another = "Networks on the path", "chooses another one"
    if path.of_cuts:
        sizes = f"from {whole.parameters:,} to {points[-1].parameters:,} parameters"
        what, another = "Cuts", "reduces the given weights to another target"
    return [
        *_score_lines("dense", whole.score.accuracy, whole.score.rmse),
        *reporting.choice_in_words(path),
        f"{what}: {len(points)}, {sizes}; bmrs choose {shlex.quote(str(run.path))} {another}.",
    ]


def _path_fields(path: runs.PathRecord) -> dict[str, Any]:
    return {
        "networks": len(path.points),
        "epoch": path.chosen and path.chosen.epoch,
        "target": path.target and asdict(path.target),
        "met": None if path.target is None else path.met,
        "notes": list(path.notes),
        "caution": path.caution,
    }
