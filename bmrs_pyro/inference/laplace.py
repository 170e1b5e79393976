"""Laplace's approximation of the gains' posteriors: one pass of gradients, and no training."""

from __future__ import annotations

__all__ = ["Curvature", "gain_gradients", "laplace_parameters"]

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.distributions import kl_divergence

from bmrs_pyro.distributions import LogUniform, TruncatedLogNormal
from bmrs_pyro.inference.inputs import gaps, is_finite, labelled, not_running, on_device_of
from bmrs_pyro.inference.model import SupervisedModel
from bmrs_pyro.inference.observations import (
    NonFiniteLoss,
    log_likelihoods,
    unfit_parameters,
    validated,
)
from bmrs_pyro.network.inputs import batch_size
from bmrs_pyro.network.nested import map_leaves
from bmrs_pyro.network.untouched import modes_kept

WIDE = 10.0
"""A posterior of this scale, in widths of the prior, is almost exactly the prior."""

SHIFT = 1.0
"""A loc below 0 must be better by this many nats, because smaller differences are noise of the gradient."""


@dataclass(frozen=True)
class Curvature:
    """The change of the log-likelihood of all N examples for gains near 1.

        ℓ(θ) − ℓ(1) ≈ Σ_c slope_c (θ_c − 1) − ½ information_c (θ_c − 1)²

    Attributes:
        slope: Σ_i g_ic with g_ic = ∂ log p(y_i | x_i, θ)/∂θ_c, packed like the guide's parameters, ``(Σ C_f,)``, nats.
        information: the empirical Fisher information Σ_i g_ic², packed alike; also that of log θ, because θ = 1.
    """

    slope: Tensor
    information: Tensor

    @classmethod
    def of(cls, model: SupervisedModel, loader: Iterable[Any], batches: int | None = None) -> Curvature:
        """Compute both in one pass over the data, scaled from the examples read to N.

        Args:
            model: the model.
            loader: batches as for :func:`fit`.
            batches: maximum number of batches to read; all by default.

        Raises:
            ValueError: there are no examples.
        """
        sums: tuple[Any, Any] = (0.0, 0.0)
        seen = 0
        for each in gain_gradients(model, loader, batches):
            sums = sums[0] + each.double().sum(0), sums[1] + each.double().square().sum(0)
            seen += len(each)
        if not seen:
            raise ValueError("the loader gives no examples; a Laplace approximation needs some")
        slope, information = (total * (model.num_data / seen) for total in sums)
        return cls(slope, information)


def gain_gradients(
    model: SupervisedModel, loader: Iterable[Any], batches: int | None = None
) -> Iterator[Tensor]:
    """Yield g_ic = ∂ log p(y_i | x_i, θ)/∂θ_c at θ = 1, ``(B, Σ C_f)``, nats, of every batch.

    Every example has its own copy of the gains, so that one backward pass gives the gradient of each. The model runs in
    evaluation mode; weights and batch-norm statistics do not change.

    Args:
        model: the model; if its examples share draws of the gains, they run one at a time.
        loader: batches as for :func:`fit`.
        batches: maximum number of batches to read; all by default.

    Raises:
        NonFiniteLoss: a gradient is NaN or infinite.
    """
    sizes = [family.size for family in model.structures]
    names = [family.name for family in model.structures]
    like = next(model.network.parameters())
    for x, y in _parts(
        model, islice(on_device_of(model.network, labelled("training data", loader)), batches)
    ):
        shape = (len(y), sum(sizes)) if model.draw_shape(x) else (sum(sizes),)
        with modes_kept(model), validated(), torch.enable_grad():
            gains = torch.ones(shape, dtype=like.dtype, device=like.device, requires_grad=True)
            theta = dict(zip(names, gains.split(sizes, -1), strict=True))
            try:
                outputs = model.eval().likelihood(model.network(x, theta))
                log_p = log_likelihoods(outputs, y.to(like.device))
            except RuntimeError as error:
                raise not_running(x, error) from error
            except ValueError as error:  # of a distribution, with all its numbers
                if (count := batch_size(x)) != len(y) and "gains" in str(error):
                    raise ValueError(
                        f"a batch has {count} examples and {len(y)} labels; give each example one"
                    ) from None
                if not unfit_parameters(error) and is_finite((x, y)):
                    raise
                raise _non_finite((x, y)) from None
            (each,) = torch.autograd.grad(log_p.sum(), gains)
        if not each.isfinite().all():
            raise _non_finite((x, y))
        yield each.reshape(-1, sum(sizes))


def _non_finite(batch: Any) -> NonFiniteLoss:
    if not is_finite(batch):
        return NonFiniteLoss(gaps("training data"))
    return NonFiniteLoss(
        "gradients of the gains are NaN or infinite: a weight is; if training diverged, lower the learning rate"
    )


def _parts(model: SupervisedModel, batches: Iterable[tuple[Any, Tensor]]) -> Iterator[tuple[Any, Tensor]]:
    """Yield batches, or single examples if the examples of a batch cannot have separate gains."""
    for x, y in batches:
        if len(y) and model.draw_shape(x):
            yield x, y
        elif len(y):
            for row in range(len(y)):
                yield map_leaves(partial(_row, row, len(y)), x), y[row : row + 1]


def _row(row: int, rows: int, leaf: Any) -> Any:
    return leaf[row : row + 1] if isinstance(leaf, Tensor) and leaf.shape[:1] == (rows,) else leaf


def laplace_parameters(curvature: Curvature, prior: LogUniform, kl_scales: Tensor) -> tuple[Tensor, Tensor]:
    """Return loc and scale of every posterior, ``(Σ C_f,)`` each.

    With fixed weights, the free energy E_q[ℓ] − λ KL(q ‖ p) has two optima: a narrow posterior, and the prior itself.
    The better one is taken. The narrow posterior is Laplace's, around a gain of 1 (loc 0), or around the mode of the
    quadratic if that is clearly better.

    Args:
        curvature: of the log-likelihood.
        prior: prior of the gains.
        kl_scales: λ, the weight of every structure's KL.
    """
    locs, scales = candidates(curvature, prior, kl_scales)
    q = TruncatedLogNormal(locs, scales, prior.low.to(locs.device), prior.high.to(locs.device))
    away = q.mean - 1
    expected = curvature.slope * away - curvature.information * (away.square() + q.variance) / 2
    energy = expected - kl_scales * kl_divergence(q, prior)
    at_one, at_mode, wide = energy
    narrow = (at_mode > at_one + SHIFT * kl_scales).long()
    best = torch.where(wide > torch.maximum(at_one, at_mode) - 1e-3 * kl_scales, 2, narrow)[None]
    return locs.gather(0, best)[0], scales.gather(0, best)[0]


def candidates(curvature: Curvature, prior: LogUniform, kl_scales: Tensor) -> tuple[Tensor, Tensor]:
    """Return loc and scale of three posteriors for every gain, ``(3, Σ C_f)``: around 1, around the mode, the prior."""
    information = curvature.information.clamp(min=torch.finfo(torch.float64).tiny)
    low, high = prior.low.to(information.device), prior.high.to(information.device)
    mode = (1 + curvature.slope / information).clamp(low, high)
    locs = torch.stack([torch.zeros_like(mode), mode.log(), torch.zeros_like(mode)])
    scales = (kl_scales.double() / information).sqrt() / locs.exp()
    scales[-1] = widest = WIDE * (high / low).log()
    return locs, torch.minimum(scales, widest)
