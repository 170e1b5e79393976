"""Criteria by name."""

from __future__ import annotations

__all__ = ["criterion_name", "named_criterion"]

import math

from bmrs_pyro.distributions import LogUniform
from bmrs_pyro.reduction.criteria import Criterion, SignalToNoise, bmrs_n, bmrs_u
from bmrs_pyro.reduction.reduced_priors import low_precision


def named_criterion(name: str) -> Criterion | None:
    """Return the criterion with this name: ``bmrs-n``, ``bmrs-u-BITS`` or ``snr``; None for ``none``.

    Raises:
        ValueError: the name is none of these, or a number of bits is out of range.
    """
    if name == "none":
        return None
    if name == "bmrs-n":
        return bmrs_n()
    if name == "snr":
        return SignalToNoise()
    kind, _, bits = name.rpartition("-")
    if kind == "bmrs-u" and bits.isdigit():
        try:
            return bmrs_u(int(bits))
        except ValueError as error:
            raise ValueError(f"criterion {name!r}: {error}") from None
    raise ValueError(
        f"criterion {name!r} is unknown; use bmrs-n, bmrs-u-4, bmrs-u-8 or snr (bmrs fit takes none too, and bmrs "
        "prune takes expected and l2)"
    )


def criterion_name(criterion: Criterion) -> str:
    """Return the name of a criterion; if it has none, the name of its function or class."""
    named = (name for name in ("bmrs-n", "snr") if named_criterion(name) == criterion)
    own = getattr(criterion, "__name__", type(criterion).__name__)
    return next(named, None) or _of_bits(criterion) or own


def _of_bits(criterion: Criterion) -> str | None:
    """Return the name of BMRS_U's criterion, by the upper bound 2^−bits of its reduced prior."""
    reduced = getattr(criterion, "reduced", None)
    if not isinstance(reduced, LogUniform) or getattr(criterion, "log_prior_odds", None) != 0:
        return None
    bits = round(-math.log2(float(reduced.high)))
    same = low_precision(bits) if 0 <= bits < 23 else None
    return f"bmrs-u-{bits}" if same and (same.low, same.high) == (reduced.low, reduced.high) else None
