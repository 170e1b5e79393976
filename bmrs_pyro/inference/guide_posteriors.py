"""Posteriors of the gains, read from any guide."""

from __future__ import annotations

__all__ = ["posteriors"]

from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from bmrs_pyro.distributions import TruncatedLogNormal
from bmrs_pyro.inference.guide import AutoTruncatedLogNormal


def posteriors(guide: Callable[..., Any], *args: Any, **kwargs: Any) -> dict[str, TruncatedLogNormal]:
    """Return the detached q(θ_f) of every structure family, with batch shape ``(C_f,)``.

    An :class:`AutoTruncatedLogNormal` needs no arguments. A hand-written guide is called once and traced; its
    parameters come from Pyro's parameter store (also after ``get_param_store().load``).

    Args:
        guide: any callable that samples gains from :class:`TruncatedLogNormal`.
        *args: arguments of the guide, such as a batch of inputs.
        **kwargs: keyword arguments of the guide.

    Returns:
        posteriors keyed by site name. Sites of other distributions are left out, because they are not gains; so are
        scalars, such as a scale that all gains of a layer share.

    Raises:
        ValueError: no site of the guide is truncated log-normal, or the posterior of one differs between examples.
    """
    if isinstance(guide, AutoTruncatedLogNormal):
        return guide.posteriors()
    with torch.no_grad(), poutine.block():
        trace = poutine.trace(guide).get_trace(*args, **kwargs)
    found = {}
    for name, site in trace.iter_stochastic_nodes():
        sampled: Any = site["fn"]
        distribution = sampled
        while isinstance(distribution, dist.Independent):
            distribution = distribution.base_dist
        if isinstance(distribution, TruncatedLogNormal):
            plates = {frame.dim for frame in site["cond_indep_stack"] if frame.vectorized}
            one = _one_draw(name, distribution, {dim - sampled.event_dim for dim in plates})
            if one.batch_shape:
                found[name] = one
    if not found:
        raise ValueError(
            "the guide samples no TruncatedLogNormal site with a dimension of structures; posteriors() reads gains "
            "from sites such as "
            'pyro.sample("theta.conv1", TruncatedLogNormal(loc, scale, low, high).to_event(1))'
        )
    return found


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
