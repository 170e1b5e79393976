"""The HTML page about a path in memory and the network chosen from it."""

from __future__ import annotations

__all__ = ["path_report"]

from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset

from bmrs_pyro.distributions import TruncatedLogNormal
from bmrs_pyro.inference.likelihoods import Likelihood
from bmrs_pyro.metrics import evaluate, file_bytes
from bmrs_pyro.network.untouched import deep_copy
from bmrs_pyro.path import Choice, Path, TrainedPath
from bmrs_pyro.reduction import ModelReduction, criterion_name
from bmrs_pyro.reporting.comparison import NetworkMetrics, compare_networks
from bmrs_pyro.reporting.page import render
from bmrs_pyro.reporting.path_view import share_of
from bmrs_pyro.reporting.run_evaluation import reduced_of
from bmrs_pyro.reporting.subject import Subject
from bmrs_pyro.runs import PathRecord


def path_report(path: Path, choice: Choice, likelihood: Likelihood) -> str:
    """Return a self-contained page about a network of a path; the likelihood has that network's parameters."""
    trainee, history = path.trainee, choice.refit.history
    criterion, whole = trainee.criterion, trainee.model.network
    posteriors = {
        name: TruncatedLogNormal(q.loc.cpu(), q.scale.cpu(), float(q.low), float(q.high))
        for name, q in choice.refit.guide.posteriors().items()
    }
    reduced = reduced_of(criterion, posteriors) if isinstance(criterion, ModelReduction) else None
    record = PathRecord.of(path, choice)
    subject = Subject(
        dense=whole,
        networks=_measured(path, choice),
        decision=path.decision(history),
        posteriors=posteriors,
        epochs=history.epochs,
        reduced=reduced,
        accuracy=choice.refit.point.score.accuracy,
        rmse=choice.refit.point.score.rmse,
        path=record,
        evaluations={"validation data": evaluate(history.network, trainee.validation, likelihood=likelihood)},
    )
    another = "Choose another network of the same path:"
    if record.of_cuts:
        another = "Reduce the network to another size:"
    macs = subject.smaller(path.round_to if isinstance(path, TrainedPath) else 1)
    settings = {**vars(trainee.pace), **trainee.options, "criterion": criterion_name(criterion)}
    return render(
        "report.html",
        **subject.content(),
        title=f"{type(whole.net).__name__} of {path.dense.parameters:,} parameters{_on(trainee.loader)}",
        run="path",
        cost_note="Latencies are medians for one batch, on the machine that made this page.",
        next_steps=[
            *([(another, f'result.choose(max_macs="{share_of(record, macs)}")')] if macs else []),
            ("Ship the small one:", 'bmrs_pyro.save(result.network, "small.safetensors")'),
        ],
        caution=None,  # it stands beside the path
        repeat=None,
        versions=[("bmrs_pyro", version("bmrs-pyro")), ("torch", str(torch.__version__))],
        settings=[(name, str(value)) for name, value in settings.items() if name != "callbacks"],
    )


def _on(loader: Any) -> str:
    """Return a loader's data in words: their name, or else their class if it is none of torch's own."""
    data = getattr(loader, "dataset", None)
    while isinstance(data, Subset):
        data = data.dataset
    unnamed = type(data).__module__.startswith(("torch.utils.data", "builtins"))
    name = getattr(data, "name", "" if unnamed else type(data).__name__)
    return f" on {name}" if name else ""


def _measured(path: Path, choice: Choice) -> dict[str, NetworkMetrics]:
    """Measure both networks on a validation batch; if it has several inputs, use the costs of the path's points."""
    nets = {"dense": path.network(path.dense), "small": choice.refit.history.network}
    points = {"dense": path.dense, "small": choice.refit.point}
    x: Any = next(iter(path.trainee.validation))
    x = x[0] if isinstance(x, tuple | list) else None
    if isinstance(x, Tensor):
        own = {name: deep_copy(net).cpu() for name, net in nets.items()}
        return compare_networks(own, [(x.cpu(), x.cpu())], untrained=own, repeats=2)
    return {
        name: NetworkMetrics(None, points[name].parameters, points[name].macs, file_bytes(net), {}, {})
        for name, net in nets.items()
    }
