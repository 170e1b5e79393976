"""Posteriors of the gains as ArviZ data."""

from __future__ import annotations

__all__ = ["to_inference_data"]

import importlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray
from torch import Tensor
from torch.distributions import Distribution

from bmrs_pyro.distributions import LogUniform, TruncatedLogNormal, refuse_unnamed, unwrapped
from bmrs_pyro.inference import AutoTruncatedLogNormal, SmoothedLikelihood, observed
from bmrs_pyro.inference.draws import refuse_no_draws
from bmrs_pyro.inference.inputs import not_running, pairs
from bmrs_pyro.inference.likelihoods import Likelihood, as_likelihood
from bmrs_pyro.metrics import evaluation_mode
from bmrs_pyro.metrics.scoring import predicted
from bmrs_pyro.network import NoisyNetwork
from bmrs_pyro.reduction import KeepMask
from bmrs_pyro.runs import POSTERIORS, RunDirectory, stored_posteriors
from bmrs_pyro.runs.likelihoods import scored_by

Source = AutoTruncatedLogNormal | RunDirectory | str | Path | Mapping[str, TruncatedLogNormal]


@dataclass(frozen=True)
class _Program:
    """The distributions that the groups are drawn from; without a network there are no predictions."""

    posteriors: Mapping[str, TruncatedLogNormal]
    keep: KeepMask | None
    network: NoisyNetwork | None = None
    likelihood: Likelihood = field(default_factory=SmoothedLikelihood)


def to_inference_data(
    source: Source,
    draws: int = 1000,
    *,
    data: Any = None,
    keep: Mapping[str, Tensor] | None = None,
    seed: int = 0,
) -> Any:
    """Draw from the posterior, the prior and, if data are given, the predictions, and return ArviZ groups.

    There is one variable per structure family, under its site name ``theta.NAME``, with dimensions ``chain``
    (one), ``draw`` and ``NAME``. The coordinates of ``NAME`` are the channels' numbers in the dense network. With
    data there are also the groups ``posterior_predictive``, ``log_likelihood`` and ``observed_data`` of ``y``, with
    dimension ``example``, and ``y_dim_0``, ``y_dim_1`` ... if an example has several labels or values. An example's
    log-likelihood is the sum over its labels or values. ``prior`` has draws of the log-uniform variables, each on the
    interval of its own posterior; a site of another distribution, such as a rate, has none there. Each draw of the
    gains is used for all examples. The draws are independent: ``reff`` of ``az.loo`` is 1.

    Args:
        source: a guide, a run directory or its path; or the posteriors of any guide, or the path of a directory written
            by :meth:`Pruned.save` (then without ``data``).
        draws: number of draws, at least 1.
        data: one batch of inputs and labels or values, as for :func:`fit`, on the network's device.
        keep: masks of the structures kept in training (``history.keep``), to number a guide's channels as in the dense
            network. A run directory needs none.
        seed: seed of the draws; the caller's random state is not changed.

    Returns:
        an ``arviz.InferenceData`` with ArviZ 0, an ``xarray.DataTree`` with ArviZ 1.

    Raises:
        ValueError: there is less than one draw, data are given without a network, the network does not run on
            them, or ``keep`` does not fit.
        TypeError: the source has another type.
    """
    refuse_no_draws(draws)
    program = _program(source, None if keep is None else KeepMask(keep))
    if unknown := sorted(set(keep or ()) - set(program.posteriors)):
        raise ValueError(
            f"keep has a mask for {unknown[0]!r}; the posteriors are {', '.join(program.posteriors)}"
        )
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        theta = {name: q.sample([draws]) for name, q in program.posteriors.items()}
        prior = _prior(program.posteriors, theta)
        groups = {"posterior": _gains(theta, program.keep)}
        groups |= {"prior": _gains(prior, program.keep)} if prior else {}
        if data is not None:
            if program.network is None:
                raise ValueError("posteriors alone predict nothing; give the guide or the run, or no data")
            ((x, y),) = pairs([data])
            try:
                groups |= _predictions(program.network, program.likelihood, theta, x, y)
            except RuntimeError as error:
                raise not_running(x, error) from error
    return _tree(groups)


def _program(source: Source, keep: KeepMask | None) -> _Program:
    if isinstance(source, AutoTruncatedLogNormal):
        model = source.model
        return _Program(source.posteriors(), keep, model.network, model.likelihood)
    if isinstance(source, RunDirectory | str | Path):
        run = source if isinstance(source, RunDirectory) else RunDirectory(Path(source))
        if (run.path / POSTERIORS).exists():
            posteriors, kept = stored_posteriors(run.path)
            return _Program(posteriors, kept if keep is None else keep)
        likelihood = as_likelihood(scored_by(run.config, run.trained_likelihood()))
        network, posteriors, kept = run.network()
        return _Program(posteriors, kept, network, likelihood)
    if isinstance(source, Mapping):
        refuse_unnamed(source)
        return _Program(source, keep)
    raise TypeError(
        f"source is a {type(source).__name__}; give an AutoTruncatedLogNormal, a run directory, or posteriors(guide)"
    )


def _prior(posteriors: Mapping[str, Distribution], theta: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Draw every gain or scale from the log-uniform prior on its own interval, as often as from its posterior."""
    inner = {name: unwrapped(q).base for name, q in posteriors.items()}
    return {
        name: LogUniform(q.low, q.high).expand(theta[name].shape).sample().to(theta[name])
        for name, q in inner.items()
        if isinstance(q, TruncatedLogNormal)
    }


def _gains(theta: Mapping[str, Tensor], keep: KeepMask | None) -> xarray.Dataset:
    variables: dict[str, tuple[tuple[str, ...], np.ndarray]] = {}
    coordinates = {}
    for name, value in theta.items():
        if value.dim() == 1:  # a scalar of a hierarchical model
            variables[name] = (("chain", "draw"), _array(value))
            continue
        size = value.shape[1]
        channels = torch.arange(size) if keep is None or name not in keep else keep.indices(name)
        if len(channels) != size:
            raise ValueError(
                f"{name}: keep leaves {len(channels)} structures, the posterior has {size}; keep numbers the "
                "structures that are left of a guide pruned in training (history.keep), and removes none"
            )
        # a dimension must not have the name of its variable
        family = name.removeprefix("theta.") if name.startswith("theta.") else f"{name}.structure"
        variables[name] = (("chain", "draw", family), _array(value))
        coordinates[family] = channels.numpy()
    return _dataset(variables, coordinates)


def _predictions(
    network: NoisyNetwork, likelihood: Likelihood, theta: Mapping[str, Tensor], x: Any, y: Tensor
) -> dict[str, xarray.Dataset]:
    values, log_likelihood = [], []
    with evaluation_mode(network, likelihood):
        for draw in zip(*theta.values(), strict=True):
            distribution = predicted(network(x, dict(zip(theta, draw, strict=True))), likelihood)
            y = observed(distribution, y)
            values.append(distribution.sample())
            log_likelihood.append(distribution.log_prob(y))
    example = ("example", *(f"y_dim_{number}" for number in range(y.dim() - 1)))
    dims = ("chain", "draw")
    return {
        "posterior_predictive": _dataset({"y": ((*dims, *example), _array(torch.stack(values)))}),
        "log_likelihood": _dataset({"y": ((*dims, "example"), _array(torch.stack(log_likelihood).double()))}),
        "observed_data": xarray.Dataset({"y": (example, y.cpu().numpy())}),
    }


def _dataset(
    variables: Mapping[str, tuple[tuple[str, ...], np.ndarray]],
    coordinates: Mapping[str, np.ndarray] | None = None,
) -> xarray.Dataset:
    draws = next(iter(variables.values()))[1].shape[1]
    return xarray.Dataset(variables, {"chain": np.arange(1), "draw": np.arange(draws), **(coordinates or {})})


def _array(value: Tensor) -> np.ndarray:
    return value.detach().cpu().numpy()[None]


def _tree(groups: Mapping[str, xarray.Dataset]) -> Any:
    # imported here because it takes a second, and ArviZ 0.23 warns of the next one on import
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        arviz: Any = importlib.import_module("arviz")
    if arviz.__version__.startswith("0."):
        return arviz.InferenceData(**groups)
    return xarray.DataTree.from_dict(groups)
