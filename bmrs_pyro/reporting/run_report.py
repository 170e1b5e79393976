"""The HTML page about a finished run."""

from __future__ import annotations

__all__ = ["html_report", "repeat_command"]

import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch.distributions import Distribution

from bmrs_pyro.metrics import Evaluation
from bmrs_pyro.path import Target
from bmrs_pyro.reporting.comparison import NetworkMetrics, compare_networks
from bmrs_pyro.reporting.page import render
from bmrs_pyro.reporting.path_view import share_of
from bmrs_pyro.reporting.run_evaluation import left_posteriors
from bmrs_pyro.reporting.subject import Subject
from bmrs_pyro.runs import NetworkSource, RunConfig, RunDirectory


def repeat_command(
    config: RunConfig, out: str = "RUN", chosen: Target | None = None, pruned: Mapping[str, Any] | None = None
) -> str:
    """Return the command that repeats a run in another directory, and those that made its small network later.

    Args:
        config: the run's configuration.
        out: the other directory.
        chosen: the target that a network was chosen by; None for the configuration's.
        pruned: the options of `bmrs prune`, if the run was pruned again.
    """
    options = config.options()
    model = options.pop("model")
    lines = [_command("bmrs", "fit", model, "--out", out, **options)]
    if chosen is not None and config.target is not None and chosen != config.target:
        lines.append(_command("bmrs", "choose", out, **replace(config, target=chosen).target_options()))
    if pruned is not None:
        lines.append(_command("bmrs", "prune", out, **pruned))
    return "\n".join(lines)


def _command(*words: str, **options: object) -> str:
    """Return a command with the options that are neither None nor False."""
    given = {name: value for name, value in options.items() if value is not None and value is not False}
    spelt = [
        word
        for name, value in given.items()
        for word in (f"--{name.replace('_', '-')}", *([] if value is True else [str(value)]))
    ]
    return shlex.join([*words, *spelt])


def html_report(
    run: RunDirectory,
    evaluations: Mapping[str, Evaluation] | None = None,
    reduced: Distribution | None = None,
    networks: Mapping[str, NetworkMetrics] | None = None,
) -> str:
    """Return a self-contained page about a finished run.

    Args:
        run: the run.
        evaluations: evaluations of the small network, by a description such as ``"test data"``; the first one is drawn.
        reduced: reduced prior of the decision, drawn beside the posteriors; None draws no densities.
        networks: metrics of ``"dense"`` and ``"small"`` from :func:`compare_run`; None leaves out latencies,
            peak memory and evaluations.

    Raises:
        RunError: the run is not finished, or a file is damaged.
    """
    config, pruned = run.config, run.pruned()
    accuracy, rmse = run.validation_scores()
    subject = Subject(
        dense=run.noisy(),
        networks=networks or _sizes(run),
        decision=run.decision(),
        posteriors=left_posteriors(run),
        epochs=run.metrics(),
        reduced=reduced,
        accuracy=accuracy,
        rmse=rmse,
        path=run.path_record(),
        evaluations=evaluations or {},
    )
    # experiments record no torch version and have their own recipes, so no command repeats them
    chosen, options = None if subject.path is None else subject.path.target, None
    if pruned is not None:
        chosen, options = pruned.target, pruned.options
    repeat = repeat_command(config, "RUN", chosen, options) if "torch" in config.versions else None
    data = Path(config.data.data).name.removesuffix(".npz")
    return render(
        "report.html",
        **subject.content(),
        title=f"{NetworkSource(config.model).name} on {data}",
        run=f"run {run.path.resolve().name}",
        cost_note=_cost_note(run, subject.networks),
        next_steps=_next_steps(run, subject),
        caution=pruned and pruned.caution,
        repeat=repeat,
        versions=list(config.versions.items()),
        settings=[
            (name, str(value))
            for name, value in {**vars(config), **config.options()}.items()
            if name not in ("recipe", "versions", "target", "cycle")
        ],
    )


def _sizes(run: RunDirectory) -> dict[str, NetworkMetrics]:
    nets, example = {"dense": run.dense(), "small": run.small()}, run.example()
    return compare_networks(nets, [(example, example)], untrained=nets, batch_sizes=())


def _dense_is_trained(run: RunDirectory, networks: Mapping[str, NetworkMetrics]) -> bool:
    return run.dense_is_trained or networks["dense"].evaluation is not None


def _cost_note(run: RunDirectory, networks: Mapping[str, NetworkMetrics]) -> str:
    note = ""
    if not _dense_is_trained(run, networks):
        note = (
            "The run has no trained weights of the dense network, so what pruning cost is not known. "
            "Compare with trained weights (the command is on this page), or start a run from trained weights. "
        )
    if networks["small"].seconds:
        note += "Latencies are medians for one batch, on the machine that made this page."
    return note


def _next_steps(run: RunDirectory, subject: Subject) -> list[tuple[str, str]]:
    """Return commands to copy, each with its description."""
    trust = " --trust-source" if run.trust_source else ""
    name = shlex.quote(str(run.path)) + trust
    path, another = subject.path, []
    if path is None:
        if macs := subject.smaller():
            another = [("Remove more from the same posteriors:", f"bmrs prune {name} --max-macs {macs}")]
    else:
        doing, size = "Choose the smallest network of the same path that loses", "Choose a smaller one:"
        if path.of_cuts:
            doing, size = "Reduce the given weights as far as they lose", "Reduce to a smaller size:"
        loss = _less(path.target)
        unit = "nats per example" if path.dense.score.accuracy is None else "points of accuracy"
        less = f"{doing} at most {loss:g} {unit}:"
        if loss:
            another.append((less, f"bmrs choose {name} --max-loss {loss:g}"))
        if macs := subject.smaller(run.config.recipe.round_to if path.of_cuts else 1):
            another.append((size, f"bmrs choose {name} --max-macs {share_of(path, macs)}"))
    weights = "" if _dense_is_trained(run, subject.networks) else " --weights DENSE.safetensors"
    return [
        *another,
        ("Compare both networks on the test data:", f"bmrs compare {name}{weights}"),
        ("Ship the small one:", f"bmrs export {name} --format onnx"),
    ]


def _less(target: Target | None) -> float:
    """Return a smaller loss than the target allows; 0 if it allows none."""
    allowed = None if target is None else target.max_loss
    return 0.1 if allowed is None else min(0.1, allowed / 2)
