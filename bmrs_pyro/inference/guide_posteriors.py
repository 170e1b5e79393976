"""Posteriors of the gains, read from any guide."""

from __future__ import annotations

__all__ = ["posteriors"]

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro import poutine
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from bmrs_pyro.distributions import TruncatedLogNormal, unwrapped
from bmrs_pyro.inference.guide import AutoTruncatedLogNormal
from bmrs_pyro.inference.initial_values import initial_values_told
from bmrs_pyro.inference.model import SupervisedModel
from bmrs_pyro.inference.packing import PackedSite
from bmrs_pyro.network import NoisyNetwork


def posteriors(guide: Callable[..., Any], *args: Any, **kwargs: Any) -> dict[str, TruncatedLogNormal]:
    """Return the detached q(θ_f) of every structure family, with batch shape ``(C_f,)``.

    An :class:`AutoTruncatedLogNormal` needs no arguments. It holds its own parameters, and refuses to be read before
    training if the store holds others of its name, as after ``get_param_store().load``. A hand-written guide is called
    once and traced; its parameters come from the store. If the store does not hold them, the posteriors are those
    before training, and a warning says so.

    Args:
        guide: any callable that samples gains from :class:`TruncatedLogNormal`.
        *args: arguments of the guide, such as a batch of inputs.
        **kwargs: keyword arguments of the guide.

    Returns:
        posteriors keyed by site name. Sites of other distributions are left out, because they are not gains; so are
        scalars, such as a scale that all gains of a layer share.

    Raises:
        ValueError: no site of the guide is truncated log-normal, or the posterior of one differs between examples.
        TypeError: ``guide`` cannot be called.
        RuntimeError: an untrained AutoTruncatedLogNormal is not the one whose parameters are in the store.
    """
    if isinstance(guide, AutoTruncatedLogNormal):
        return guide.posteriors()
    if not callable(guide) or isinstance(guide, SupervisedModel | NoisyNetwork):
        raise TypeError(
            f"guide is a {type(guide).__name__}; give a guide, such as AutoTruncatedLogNormal(model)"
        )
    with torch.no_grad(), poutine.block(), initial_values_told("guide"):
        trace = poutine.trace(guide).get_trace(*args, **kwargs)
    _warn_of_other_sizes(trace)
    found = {}
    for name, site in trace.iter_stochastic_nodes():
        one = _posterior(name, site)
        if one is not None and one.batch_shape:
            found[name] = one
    if not found:
        raise ValueError(
            "the guide samples no TruncatedLogNormal site with a dimension of structures; posteriors() reads gains "
            "from sites such as "
            'pyro.sample("theta.conv1", TruncatedLogNormal(loc, scale, low, high).to_event(1))'
        )
    return found


def _warn_of_other_sizes(trace: poutine.Trace) -> None:
    """Warn if Pyro's store holds a parameter in another shape than the guide begins with: that of another network."""
    for name, site in trace.nodes.items():
        given = site["args"][-1] if site["type"] == "param" else None  # a name, and a tensor or a function
        value = site.get("value")
        if isinstance(given, Tensor) and isinstance(value, Tensor) and given.shape != value.shape:
            warnings.warn(
                f"Pyro's parameter store holds {name!r} of shape {tuple(value.shape)}, and the guide begins with "
                f"{tuple(given.shape)}: it is probably another network's. Call pyro.clear_param_store(), or load the "
                "store that belongs to this guide",
                stacklevel=3,
            )
            return


def _posterior(name: str, site: Mapping[str, Any]) -> TruncatedLogNormal | None:
    """Return the posterior of the gains at a site; None if they are none."""
    sampled = site["fn"]
    if isinstance(sampled, PackedSite):  # of an AutoTruncatedLogNormal that another guide calls
        return _one_draw(name, sampled.posterior, set())
    if not isinstance(sampled, TorchDistributionMixin):  # the indices of a plate
        return None
    inner = unwrapped(sampled)
    if not isinstance(inner.base, TruncatedLogNormal):
        return None
    plates = {frame.dim - sampled.event_dim for frame in site["cond_indep_stack"] if frame.vectorized}
    if not sampled.event_dim and -1 in plates:
        given = inner.base.log_distribution  # in the shape of the parameters, before the plate
        own = torch.broadcast_shapes(given.loc.shape, given.scale.shape)
        if own[-1:] != inner.shape[-1:]:
            return None  # a scalar, drawn for every example
        plates.discard(-1)  # a plate of the structures, in the place of to_event(1)
    return _one_draw(name, inner.base.expand(inner.shape), plates)


def _one_draw(name: str, distribution: TruncatedLogNormal, plates: set[int]) -> TruncatedLogNormal:
    """Undo the expansion over the plates of the draws."""

    def first(parameter: Tensor) -> Tensor:
        parameter = parameter.detach().expand(distribution.batch_shape)
        for dim in sorted(plates):
            one = parameter.narrow(dim, 0, 1)
            if not torch.equal(one.expand_as(parameter), parameter):
                raise ValueError(
                    f"site {name!r}: the guide's parameters differ between examples; a gain has one posterior"
                )
            parameter = one
        while parameter.dim() > 1 and parameter.shape[0] == 1:
            parameter = parameter.squeeze(0)
        return parameter.clone()

    return TruncatedLogNormal(
        first(distribution.loc), first(distribution.scale), distribution.low, distribution.high
    )
