"""``bmrs reproduce sbp``: the SBP paper's networks, and the measured speed of the pruned ones."""

from __future__ import annotations

__all__ = ["sbp"]

import functools
import itertools
from pathlib import Path
from typing import Annotated

import typer
from rich.markdown import Markdown

from bmrs_pyro import experiments, runs
from bmrs_pyro.cli.output import Json, Output, Quiet
from bmrs_pyro.cli.reproduce_options import Seeds, Workers, chosen
from bmrs_pyro.cli.results import added, prepare, write_page


def sbp(
    data_root: Annotated[Path, typer.Option(help="Folder that holds MNIST.")],
    network: Annotated[
        list[str] | None, typer.Option(help="lenet_fc or lenet5_caffe; both by default.")
    ] = None,
    method: Annotated[str, typer.Option(help="snr (as published) or bmrs-n.")] = "snr",
    kl_weight: Annotated[
        list[str] | None,
        typer.Option(help="elbo, mean:FACTOR, cost:FACTOR or cost-macs:FACTOR; repeat for several."),
    ] = None,
    posterior_lr_factor: Annotated[
        float, typer.Option(help="The posteriors' learning rate, relative to 1e-3.")
    ] = 10.0,
    label_smoothing: Annotated[float, typer.Option(help="Probability spread evenly over all classes.")] = 0.0,
    warm_up: Annotated[
        int, typer.Option(min=0, help="Epochs of plain training without gains, before the others.")
    ] = 0,
    epochs: Annotated[int, typer.Option(help="Epochs with pruning.")] = 30,
    fine_tune_epochs: Annotated[
        int, typer.Option(help="Epochs without pruning, after those with pruning.")
    ] = 10,
    refit: Annotated[
        bool,
        typer.Option(
            "--refit",
            help="Train on the validation data too and keep the last epoch; for a recipe chosen earlier.",
        ),
    ] = False,
    seeds: Seeds = 1,
    cache: Annotated[Path, typer.Option(help="Folder of finished runs, which are not run again.")] = Path(
        "runs/sbp"
    ),
    out: Annotated[Path | None, typer.Option(help="Folder for sbp.json and its page, sbp.md.")] = None,
    workers: Workers = 2,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Repeat the MNIST experiments of Structured Bayesian Pruning.

    Runs are cached. Speeds are measured again by every call, after all runs: repeat the call on an idle machine.
    """
    keys = (*experiments.sbp_page.RECIPE, "seed")
    networks = chosen(network or experiments.sbp.NETWORKS, experiments.sbp.NETWORKS, "network")
    chosen([method], ("snr", "bmrs-n"), "method")
    weights = list(dict.fromkeys(kl_weight or ["mean:0.3"]))
    if out is not None:
        prepare(out / "sbp.json", keys)
    output = Output(json, quiet)
    configs = [
        {
            "network": name,
            "method": method,
            "kl_weight": weight,
            "posterior_lr_factor": posterior_lr_factor,
            "label_smoothing": label_smoothing,
            "warm_up": warm_up,
            "epochs": epochs,
            "fine_tune_epochs": fine_tune_epochs,
            "refit": refit,
            "seed": seed,
        }
        for seed, name, weight in itertools.product(range(seeds), networks, weights)
    ]
    run = functools.partial(
        experiments.sbp.run, models=str(runs.MODELS), data_root=str(data_root), cache=str(cache)
    )
    intact = functools.partial(experiments.sbp.has_networks, cache=str(cache))
    for config in configs:
        experiments.sbp.recipe_of(config)
    results = experiments.sweep.Sweep(run, cache, workers, intact).execute(configs, progress=output.progress)
    rows = [
        {**config, **result, **experiments.sbp.measured(config, cache=str(cache))}
        for config, result in zip(configs, results, strict=True)
    ]
    output.show(Markdown(experiments.sbp_page.page(rows)))
    output.result({"runs": rows})
    if out is not None:
        write_page(out / "sbp.md", experiments.sbp_page.page(added(out / "sbp.json", rows, keys)))
