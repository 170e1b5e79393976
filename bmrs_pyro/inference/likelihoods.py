"""Likelihoods by name: the distribution of classes, values or counts given a network's outputs."""

from __future__ import annotations

__all__ = [
    "IGNORED",
    "OF_CLASSES",
    "Likelihood",
    "ScaledLikelihood",
    "SmoothedLikelihood",
    "as_likelihood",
    "given",
    "given_each",
    "main_output",
    "takes_logits",
]

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn import functional

from bmrs_pyro.inference.losses import refuse_no_likelihood
from bmrs_pyro.inference.smoothed_categorical import SmoothedCategorical

Likelihood = Callable[[Any], TorchDistribution]
IGNORED = -100
"""This label is not scored if an example has several labels, as in torch and transformers."""

OF_CLASSES = ("categorical", "next-token")
"""Names of the likelihoods whose labels are numbers of classes."""


@dataclass(frozen=True)
class SmoothedLikelihood:
    """The likelihood of a classifier's labels with label smoothing, to be called with its logits.

    Logits ``(B, K)`` have labels ``(B,)``, ``(B, T, K)`` have labels ``(B, T)``, and maps ``(B, K, H, W)`` have
    labels ``(B, H, W)``. If an example has several labels, those equal to -100, such as padding, are not scored.
    Logits ``(B, K, T)``, as ``torch.nn.functional.cross_entropy`` takes them, need ``class_axis=1``, because their
    shape alone may not tell them from ``(B, T, K)``.

    Args:
        smoothing: ε in [0, 1); 0 is the categorical likelihood itself.
        next_token: the logits at position t predict label t + 1. The labels ``(B, T)`` of a language model are then
            its input, and the first label is not scored.
        class_axis: dimension of the classes in the logits; None means the last one, or 1 for maps.

    Raises:
        ValueError: ε is outside [0, 1), or the outputs have another shape.
    """

    smoothing: float = 0.0
    next_token: bool = False
    class_axis: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"label smoothing is {self.smoothing}; it must lie in [0, 1)")

    def __call__(self, outputs: Any) -> TorchDistribution:
        """Return the distribution of the labels, with batch shape ``(B,)``."""
        logits = main_output(outputs)
        if logits.dim() < 2 or (self.next_token and logits.dim() != 3):
            wanted = "(batch, tokens, K)" if self.next_token else "(batch, K)"
            raise ValueError(f"the logits have shape {tuple(logits.shape)}; expected {wanted}")
        if logits.dim() == 2:
            return SmoothedCategorical(logits, self.smoothing)
        logits = logits.movedim(_feature_axis(logits) if self.class_axis is None else self.class_axis, -1)
        if not self.next_token:
            return SmoothedCategorical(logits, self.smoothing, IGNORED).to_event(logits.dim() - 2)
        distribution = SmoothedCategorical(logits.roll(1, 1), self.smoothing, IGNORED)
        return distribution.mask(torch.arange(logits.shape[1], device=logits.device) > 0).to_event(1)


class _Bernoulli(dist.Bernoulli):
    """Bernoulli whose labels may be integers or booleans."""

    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value.to(self.logits.dtype))


def _bernoulli(outputs: Any) -> TorchDistribution:
    logits = _outcomes(main_output(outputs))
    return _Bernoulli(logits=logits).to_event(logits.dim() - 1)


def _poisson(outputs: Any) -> TorchDistribution:
    log_rate = _outcomes(main_output(outputs))
    return dist.Poisson(log_rate.exp()).to_event(log_rate.dim() - 1)


class ScaledLikelihood(nn.Module):
    """The likelihood of real values: the network's outputs are their locations.

    Args:
        family: ``"normal"``, or ``"student-t"`` (4 degrees of freedom) for values with outliers.
        scale: scale of the noise: a number in the values' own units; ``"learned"``, one parameter for all values that
            starts at 1 ``unit``; or ``"predicted"``, softplus of the second half of the outputs, times ``unit``.
        centre: the value that an output of 0 stands for; one number per feature, or one for all.
        unit: factor of the outputs. With the values' mean and standard deviation as centre and unit, the network
            predicts standardised values, and all metrics stay in the values' own units.

    Raises:
        ValueError: the family is unknown, or scale or unit is not positive; at a call, the outputs cannot be halved.
    """

    def __init__(
        self,
        family: str = "normal",
        scale: float | str = "learned",
        centre: Sequence[float] = (0.0,),
        unit: Sequence[float] = (1.0,),
    ) -> None:
        super().__init__()
        if family not in ("normal", "student-t"):
            raise ValueError(f"family is {family!r}; use 'normal' or 'student-t'")
        known = isinstance(scale, float | int) and 0 < scale < math.inf
        if not known and scale not in ("learned", "predicted"):
            raise ValueError(f"scale is {scale!r}; use a positive number, 'learned' or 'predicted'")
        if min(unit) <= 0:
            raise ValueError(f"unit is {unit}; it must be positive")
        self.family, self.scale = family, scale
        self.centre, self.unit = tuple(centre), tuple(unit)
        if scale == "learned":
            self.log_scale = nn.Parameter(torch.zeros(()))

    def forward(self, outputs: Any) -> TorchDistribution:
        """Return the distribution of values ``(B, …)``, with batch shape ``(B,)``."""
        loc = main_output(outputs)
        unit = self._features(self.unit, loc)
        if self.scale == "predicted":
            axis = _feature_axis(loc)
            if loc.dim() < 2 or loc.shape[axis] % 2:
                raise ValueError(
                    f"the outputs have shape {tuple(loc.shape)}; a predicted scale needs as many scales as locations: "
                    "give the last layer two outputs for each label, all locations first"
                )
            loc, raw = loc.chunk(2, axis)
            scale = unit * _outcomes(functional.softplus(raw)).clamp(min=torch.finfo(raw.dtype).eps)
        else:
            scale = unit * self.log_scale.exp() if self.scale == "learned" else loc.new_tensor(self.scale)
        loc = self._features(self.centre, loc) + unit * _outcomes(loc)
        distribution = dist.Normal(loc, scale) if self.family == "normal" else dist.StudentT(4.0, loc, scale)
        return distribution.to_event(loc.dim() - 1)

    def _features(self, values: tuple[float, ...], outputs: Tensor) -> Tensor:
        """Return one number for all values, or one per feature, in a shape that broadcasts with the outputs."""
        if len(values) == 1:
            return outputs.new_tensor(values[0])
        places = (1,) * (outputs.dim() - 2 if _feature_axis(outputs) == 1 else 0)
        return outputs.new_tensor(values).view(-1, *places)


_Numbers = Sequence[float]
_NAMED: dict[str, Callable[[str | None, _Numbers, _Numbers], Likelihood]] = {
    "categorical": lambda smoothing, *_: SmoothedLikelihood(float(smoothing or 0)),
    "next-token": lambda smoothing, *_: SmoothedLikelihood(float(smoothing or 0), next_token=True),
    "bernoulli": lambda *_: _bernoulli,
    "normal": lambda scale, *units: ScaledLikelihood("normal", _scale(scale), *units),
    "student-t": lambda scale, *units: ScaledLikelihood("student-t", _scale(scale), *units),
    "poisson": lambda *_: _poisson,
}


def given(likelihood: Likelihood, outputs: Any) -> dist.TorchDistribution:
    """Return the distribution of y given the outputs.

    Raises:
        TypeError: the likelihood returns something else, such as the value of a loss.
    """
    distribution = likelihood(outputs)
    if not isinstance(distribution, Distribution):
        raise TypeError(
            f"the likelihood returned a {type(distribution).__name__}; it must return the distribution of y, as "
            "lambda logits: dist.Categorical(logits=logits) does"
        )
    return distribution


def given_each(likelihood: Likelihood, outputs: Any) -> dist.TorchDistribution:
    """Return the distribution of y given the outputs, with batch shape ``(batch,)``.

    Raises:
        TypeError: see :func:`given`.
        ValueError: the batch shape is another one.
    """
    distribution = given(likelihood, outputs)
    if len(distribution.batch_shape) != 1:
        advice = "squeeze the network's output or call .to_event(n) on the distribution"
        if not distribution.batch_shape:
            advice = "it needs a distribution for every example, so reduce no outputs over the batch"
        raise ValueError(
            f"the likelihood has batch shape {tuple(distribution.batch_shape)}, expected (batch,): {advice}"
        )
    return distribution


def as_likelihood(
    likelihood: str | Likelihood, *, centre: Sequence[float] = (0.0,), unit: Sequence[float] = (1.0,)
) -> Likelihood:
    """Return the likelihood of a name; a function or module is returned as it is.

    ======================== ============================================ =========================
    name                     the network's outputs                        y
    ======================== ============================================ =========================
    ``categorical[:ε]``      logits, see :class:`SmoothedLikelihood`      class of each position
    ``next-token[:ε]``       logits ``(B, T, K)``                         tokens ``(B, T)``
    ``bernoulli``            logits                                       0 or 1, one or several
    ``normal[:SCALE]``       locations, see :class:`ScaledLikelihood`     real values
    ``student-t[:SCALE]``    locations                                    real values with outliers
    ``poisson``              logarithms of the rates                      counts
    ======================== ============================================ =========================

    If y is not classes, it has the outputs' shape, and one output ``(B, 1)`` is the same as ``(B,)``. ε is label
    smoothing, SCALE a number, ``learned`` (the default) or ``predicted``. If the outputs are not a tensor, their
    field ``logits`` or ``out`` is used.

    Args:
        likelihood: the name, or the likelihood.
        centre: the value that an output of 0 stands for; with ``unit`` see :class:`ScaledLikelihood`.
        unit: factor of the outputs.

    Raises:
        ValueError: no likelihood has that name.
        TypeError: ``likelihood`` is neither a name nor callable, or it is a loss.
    """
    if not isinstance(likelihood, str):
        refuse_no_likelihood(likelihood)
        return likelihood
    name, colon, option = likelihood.partition(":")
    if name not in _NAMED or (colon and (not option or name in ("bernoulli", "poisson"))):
        raise ValueError(
            f"likelihood is {likelihood!r}; use {', '.join(_NAMED)}, or a function from outputs to a distribution"
        )
    try:
        return _NAMED[name](option or None, centre, unit)
    except ValueError as error:
        raise ValueError(f"likelihood is {likelihood!r}: {error}") from None


def _scale(option: str | None) -> float | str:
    if option in (None, "learned", "predicted"):
        return option or "learned"
    try:
        return float(option)
    except ValueError:
        return option  # refused by ScaledLikelihood


def takes_logits(likelihood: Likelihood) -> bool:
    """Whether a likelihood of this module takes the outputs as logits."""
    return isinstance(likelihood, SmoothedLikelihood) or likelihood is _bernoulli


def _feature_axis(outputs: Tensor) -> int:
    """Return the dimension of classes or features: the last one, or 1 for maps."""
    return 1 if outputs.dim() >= 4 else -1


def _outcomes(values: Tensor) -> Tensor:
    """Return outputs ``(B, 1)`` as ``(B,)``, and others as they are."""
    return values.squeeze(1) if values.dim() == 2 and values.shape[1] == 1 else values


def main_output(outputs: Any) -> Tensor:
    """Return the tensor of logits or locations among a network's outputs."""
    if isinstance(outputs, Tensor):
        return outputs
    for field in ("logits", "out"):
        found = outputs.get(field) if isinstance(outputs, Mapping) else getattr(outputs, field, None)
        if isinstance(found, Tensor):
            return found
    raise TypeError(
        f"the network's outputs are a {type(outputs).__name__} without a tensor 'logits'; in Python, give a "
        "function that picks one, such as likelihood=lambda outputs: dist.Categorical(logits=outputs[0]); for the "
        "command, return one tensor, or a dict with 'logits'"
    )
