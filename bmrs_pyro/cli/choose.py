"""``bmrs choose``: another network of a run's path."""

from __future__ import annotations

__all__ = ["choose"]

from dataclasses import replace

from bmrs_pyro import runs, training
from bmrs_pyro.cli.options import Run, with_options_of
from bmrs_pyro.cli.output import Json, Output, Quiet, TrustSource
from bmrs_pyro.cli.report import show_report
from bmrs_pyro.path.target import Target
from bmrs_pyro.training.recipe import Hardware


@with_options_of(target=Target, hardware=Hardware)
def choose(
    run: Run,
    target: Target,
    hardware: Hardware,
    trust_source: TrustSource = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Replace a run's small network by another network of its path; only its refit is trained, unless it was before.

    Without options this is the smallest network within one standard error of the best.
    """
    directory, output = runs.RunDirectory.opened(run, trust_source), Output(json, quiet)
    training.refuse_unusable(hardware.device or "cpu")
    own = replace(hardware, device=hardware.device or "cpu")
    runs.choose_run(directory, target, hardware=own, progress=output.progress)
    show_report(directory, output)
