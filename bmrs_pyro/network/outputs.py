"""Compare the outputs of two networks."""

from __future__ import annotations

__all__ = ["all_finite", "output_error"]

from collections.abc import Sequence

import torch
from torch import Tensor


@torch.no_grad()
def output_error(expected: Sequence[Tensor], actual: Sequence[Tensor]) -> float:
    """Return the largest difference relative to the largest output; infinite if the shapes differ."""
    if [one.shape for one in expected] != [one.shape for one in actual]:
        return float("inf")
    errors = [(one - other).abs().max() for one, other in zip(expected, actual, strict=True)]
    relative = [
        (error / one.abs().max()).where(error != 0, error)
        for error, one in zip(errors, expected, strict=True)
    ]
    return float(torch.stack(relative).max())  # unlike Python's max, this returns NaN if there is one


def all_finite(outputs: Sequence[Tensor]) -> bool:
    """Whether there are outputs, and all are finite."""
    return bool(outputs) and all(bool(output.isfinite().all()) for output in outputs)
