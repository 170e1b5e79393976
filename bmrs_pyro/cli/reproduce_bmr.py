"""``bmrs reproduce bmr``: weights pruned by Bayesian model reduction, beside four other ways to fit them."""

from __future__ import annotations

__all__ = ["bmr"]

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import typer
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bmrs_pyro.cli.output import Json, Output, Quiet
from bmrs_pyro.cli.reproduce_options import Seeds, Workers, chosen
from bmrs_pyro.cli.results import added, prepare
from bmrs_pyro.data import load
from bmrs_pyro.experiments.bmr import METHODS, NETWORKS, run, step_times
from bmrs_pyro.experiments.sweep import Sweep
from bmrs_pyro.reporting import comparison_table, save_figure

DATA = ("fashion_mnist", "cifar10")
COLOURS = dict(zip(METHODS, ("#000000", "#0072B2", "#009E73", "#D55E00", "#CC79A7"), strict=True))
Result = Mapping[str, Any]

_KEYS = ("network", "data", "epochs", "warm_up", "steps", "batch", "draws")


def bmr(
    network: Annotated[list[str] | None, typer.Option(help="mlp, lenet or vit; repeat for several.")] = None,
    dataset: Annotated[
        list[str] | None, typer.Option("--data", help="fashion_mnist or cifar10; repeat for both.")
    ] = None,
    method: Annotated[list[str] | None, typer.Option(help=f"{', '.join(METHODS)}; all by default.")] = None,
    seeds: Seeds = 3,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of each run; the published runs have 50.")] = 16,
    steps: Annotated[
        int, typer.Option(min=1, help="Steps per epoch at most; the published runs have 500.")
    ] = 400,
    warm_up: Annotated[int, typer.Option(help="Of these, epochs of MAP that the posterior starts from.")] = 4,
    batch_size: Annotated[int, typer.Option(min=1, help="Examples per step.")] = 120,
    draws: Annotated[int, typer.Option(min=1, help="Posterior draws that a prediction averages over.")] = 20,
    data_root: Annotated[Path | None, typer.Option(help="Folder that holds the data sets.")] = None,
    cache: Annotated[
        Path, typer.Option(help="Folder of finished runs; what is there is not run again.")
    ] = Path("runs/bmr"),
    out: Annotated[Path | None, typer.Option(help="Folder for bmr.json and the figures.")] = None,
    workers: Workers = 1,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare MAP, flat, hierarchical and two reducing posteriors of all weights: accuracy, calibration, size, time."""
    networks = chosen(network or ["lenet"], NETWORKS, "network")
    datasets = chosen(dataset or ["fashion_mnist"], DATA, "data set")
    methods = chosen(method or METHODS, METHODS, "method")
    if not 0 <= warm_up < epochs:
        raise ValueError(
            f"--warm-up is {warm_up}; it must lie between 0 and --epochs={epochs}, which it is a part of"
        )
    settings = {
        "data_root": str(data_root) if data_root else None,
        "epochs": epochs,
        "warm_up": warm_up,
        "steps": steps,
        "batch": batch_size,
        "draws": draws,
    }
    if out is not None:
        prepare(out / "bmr.json", _KEYS)
    output = Output(json, quiet)
    sweep = Sweep(run, cache, workers)
    record = []
    for net, name in product(networks, datasets):
        configs = [
            {"network": net, "data": name, "method": one, "seed": seed, **settings}
            for seed, one in product(range(seeds), methods)
        ]
        results = sweep.execute(configs, progress=output.progress)
        by_method: dict[str, list[Result]] = defaultdict(list)
        for config, result in zip(configs, results, strict=True):
            by_method[str(config["method"])].append(result)
        times = step_times(net, load(name, data_root=data_root).train)
        output.show(_table(by_method, times, f"{net} on {name}", steps))
        record.append(
            {"network": net, "data": name, **settings, "results": by_method, "seconds per step": times}
        )
        del record[-1]["data_root"]
        if out is not None:
            _draw(by_method, out / f"bmr-{net}-{name}.png")
            added(out / "bmr.json", record[-1:], _KEYS)
    output.result({"experiments": record})


def _table(
    by_method: Mapping[str, Sequence[Result]], times: Mapping[str, float], title: str, steps: int
) -> Any:
    columns = {}
    for method, results in by_method.items():
        epoch = steps * times[method] + times.get(f"{method} reduction", 0.0)
        flat = steps * times["flat"]
        columns[method] = {
            "test accuracy [%]": _spread(100 * result["accuracy"] for result in results),
            "NLL [nats]": _spread(result["nll"] for result in results),
            "calibration error [%]": _spread(100 * result["ece"] for result in results),
            "weights pruned [%]": _spread(
                100 * (1 - result["active"] / result["weights"]) for result in results
            ),
            "parameters when cut": _spread(result["parameters"][1] for result in results),
            f"seconds for {steps} steps": f"{epoch:.1f}",
            "relative to flat": f"{epoch / flat:.2f}",
        }
    return comparison_table(columns, title=title)


def _spread(values: Iterable[float]) -> str:
    numbers = list(values)
    mean = f"{statistics.mean(numbers):.4g}"
    return f"{mean} ± {statistics.stdev(numbers):.2g}" if len(numbers) > 1 else mean


def _draw(by_method: Mapping[str, Sequence[Result]], path: Path) -> None:
    """Draw what is left of the weights by epoch, and accuracy against what is left at the end."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for method, results in by_method.items():
        for index, result in enumerate(results):
            label = method if index == 0 else None
            history = result["history"]
            left.plot(
                range(1, len(history) + 1),  # the epochs of the warm-up are counted apart in the history
                [100 * epoch["active"] for epoch in history],
                color=COLOURS[method],
                label=label,
            )
            right.scatter(
                100 * result["active"] / result["weights"],
                100 * result["accuracy"],
                color=COLOURS[method],
                label=label,
            )
    left.set_xlabel("epoch")
    left.xaxis.get_major_locator().set_params(integer=True)
    left.set_ylabel("weights left [%]")
    right.set_xlabel("weights left [%]")
    right.set_ylabel("test accuracy [%]")
    right.legend(fontsize="small")
    for ax in (left, right):
        ax.spines[["top", "right"]].set_visible(False)
    save_figure(left, path)
