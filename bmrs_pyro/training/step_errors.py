"""The causes of errors in a training step."""

from __future__ import annotations

__all__ = ["clearer_error"]

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from bmrs_pyro.inference.inputs import gaps, is_finite
from bmrs_pyro.inference.observations import NonFiniteLoss
from bmrs_pyro.training.batch_norm import lone_example


def clearer_error(
    error: Exception,
    x: Any,
    y: Tensor,
    parameters: Mapping[str, Tensor],
    explain: Callable[[Any, Tensor], str | None],
) -> Exception | None:
    """Return a clearer error than a step's; None if the cause is not found.

    Args:
        error: the step's error.
        x: inputs of the batch.
        y: labels of the batch.
        parameters: what is trained, by name.
        explain: says what is wrong with the labels, if it is known.
    """
    # a distribution may notice NaN before there is a loss
    if isinstance(error, NonFiniteLoss | ValueError):
        # of labels that a distribution refuses, its own message says more
        labels = y if isinstance(error, NonFiniteLoss) else None
        if culprit := _not_finite(x, labels, parameters):
            return NonFiniteLoss(culprit)
    if isinstance(error, NonFiniteLoss):
        misfit = explain(x, y)
        return ValueError(misfit) if misfit else NonFiniteLoss(str(error))
    if lone := lone_example(error):
        return ValueError(lone)
    if "does not require grad" in str(error):
        return ValueError(
            "there is nothing to train, because all weights are frozen (requires_grad=False): unfreeze some, or fit "
            "the gains alone, with dense_epochs=0 and no epochs of fine-tuning"
        )
    misfit = explain(x, y)
    return ValueError(misfit) if misfit else None


def _not_finite(x: Any, y: Tensor | None, parameters: Mapping[str, Tensor]) -> str | None:
    """Say which input or parameter is not finite, if one is."""
    for name, values in (("data", x), ("labels", y)):
        if not is_finite(values):
            return gaps(name)
    for name, parameter in parameters.items():
        if not parameter.isfinite().all():
            return f"parameter {name!r} holds NaN or inf; lower the learning rate"
    return None
