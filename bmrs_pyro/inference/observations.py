"""Checks of the shape of observations, so that no example is scored against another example's label."""

from __future__ import annotations

__all__ = [
    "NonFiniteLoss",
    "log_likelihoods",
    "misfit_of",
    "observed",
    "other_shape",
    "unfit_parameters",
    "validated",
]

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro.distributions
import torch.distributions as td
from torch import Tensor

from bmrs_pyro.distributions import unwrapped


class NonFiniteLoss(ArithmeticError):
    """The loss is NaN or infinite; the message names the first site or input that is."""


@contextmanager
def validated(enabled: bool | None = None) -> Iterator[None]:
    """Let distributions check their arguments, so that none scores a label outside its support.

    The first ``torch.compile`` of a process ends all checks; Pyro's setting stays what it was.

    Args:
        enabled: whether to check; None follows Pyro's setting.
    """
    before = td.Distribution._validate_args
    wanted = pyro.distributions.is_validation_enabled() if enabled is None else enabled
    td.Distribution.set_default_validate_args(wanted)
    try:
        yield
    finally:
        td.Distribution.set_default_validate_args(before)


def observed(distribution: td.Distribution, y: Tensor) -> Tensor:
    """Return labels or values in the shape that a distribution scores; dimensions of size 1 may be missing or extra.

    Integers become floating-point numbers if the distribution is a Bernoulli, which scores only those.

    Raises:
        ValueError: the shapes differ in more than dimensions of size 1.
        TypeError: ``y`` is not a tensor.
    """
    if not isinstance(y, Tensor):
        raise TypeError(f"y is a {type(y).__name__}; give labels or values as a tensor")
    if not y.is_floating_point():
        base = unwrapped(distribution).base
        if isinstance(base, td.Bernoulli):
            y = y.to(base.mean.dtype)
    expected = distribution.batch_shape + distribution.event_shape
    # a user's own distribution may score values with more dimensions than its shapes say
    if y.shape == expected:
        return y
    if [size for size in y.shape if size != 1] == [size for size in expected if size != 1]:
        return y.reshape(expected)
    if y.dim() > len(expected):
        return y
    raise other_shape(distribution, y)


def log_likelihoods(distribution: td.Distribution, y: Tensor) -> Tensor:
    """Return log p(y_i) of every example, ``(batch,)``, nats.

    Raises:
        ValueError: ``y`` has another shape than the distribution's values, so that examples would be mixed, or values
            outside the distribution's support.
    """
    try:
        values: Tensor = distribution.log_prob(observed(distribution, y))
    except ValueError as error:  # torch's message holds all values
        if not str(error).startswith("Expected value argument"):
            raise
        raise ValueError(misfit_of(distribution, y) or error) from None
    if values.shape != distribution.batch_shape:
        raise other_shape(distribution, y)
    return values


def unfit_parameters(error: ValueError) -> bool:
    """Whether an error says that a distribution refuses its parameters, as it does if outputs are NaN or infinite."""
    return str(error).startswith("Expected parameter")


def other_shape(distribution: td.Distribution, y: Tensor) -> ValueError:
    """Return the error that names the shape of labels or values and the shape that a distribution scores."""
    expected = distribution.batch_shape + distribution.event_shape
    classes = not y.is_floating_point() and y.shape == expected[:-1]
    return ValueError(
        f"y has shape {tuple(y.shape)}, but the likelihood's values have shape {tuple(expected)}: "
        "reshape the labels, or the network's output, so that the two agree"
        + ("; if y holds classes, give likelihood='categorical'" if classes else "")
    )


def misfit_of(distribution: td.Distribution, y: Tensor, num_classes: int | None = None) -> str | None:
    """Return a message about labels outside the support of their distribution; None if all labels fit."""
    base = unwrapped(distribution).base
    classes = base.probs.shape[-1] if isinstance(base, td.Categorical) else None
    if classes is not None and num_classes is not None and num_classes != classes:
        text = f"the network has {classes} outputs for {num_classes} classes: give its last layer {num_classes} outputs"
        if num_classes > classes:
            return text
        warnings.warn(text, stacklevel=2)
    if classes is None and not base._validate_args:  # its author allows values outside the support
        return None
    try:
        y = observed(distribution, y)
    except ValueError as error:  # the shapes differ
        return str(error)
    try:
        support: Any = distribution.support
        fits = support.check(y)
    except (NotImplementedError, ValueError):  # the support is unknown, or the shapes differ
        return None
    return _shape_message(distribution, y) if fits.all() else _misfit_message(base, classes, y, fits)


def _shape_message(distribution: td.Distribution, y: Tensor) -> str | None:
    """Return a message if the likelihood cannot score labels of this shape; else None."""
    if observed(distribution, y).shape != distribution.batch_shape + distribution.event_shape:
        try:
            distribution.log_prob(y)
        except ValueError:
            return str(other_shape(distribution, y))
    return None


def _misfit_message(base: td.Distribution, outputs: int | None, y: Tensor, fits: Tensor) -> str:
    first = y.reshape(*fits.shape, -1)[~fits][0]
    value = first[~first.isfinite()][0] if not first.isfinite().all() else first[0]
    found = f"{int((~fits).sum())} of the {fits.numel()} labels of a batch"
    if outputs is None:
        hint = "" if value.isfinite() else "; leave these examples out, or fill the gaps"
        for kind, values in ((td.Poisson, "counts"), (td.Bernoulli, "0 and 1")):
            if isinstance(base, kind) and not hint:
                hint = f"; it is for {values}, so give likelihood='normal' for other values"
        name = type(base).__name__.lstrip("_")
        return f"{found} are outside the likelihood's support, a {name}, such as {value.item():g}{hint}"
    if y.is_floating_point():
        return f"{found} are not classes, such as {value.item():g}; give integers from 0 to {outputs - 1}"
    return (
        f"the network has {outputs} outputs, for labels from 0 to {outputs - 1}, but those of a batch go from "
        f"{int(y.min())} to {int(y.max())}: number them from 0, and give the last layer one output for every class"
    )
