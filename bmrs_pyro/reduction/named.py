"""Criteria by name."""

from __future__ import annotations

__all__ = ["criterion_name", "named_criterion"]

from bmrs_pyro.reduction.criteria import Criterion, SignalToNoise, bmrs_n, bmrs_u


def named_criterion(name: str) -> Criterion | None:
    """Return the criterion with this name: ``bmrs-n``, ``bmrs-u-BITS`` or ``snr``; None for ``none``.

    Raises:
        ValueError: the name is none of these.
    """
    if name == "none":
        return None
    if name == "bmrs-n":
        return bmrs_n()
    if name == "snr":
        return SignalToNoise()
    kind, _, bits = name.rpartition("-")
    if kind == "bmrs-u" and bits.isdigit():
        return bmrs_u(int(bits))
    raise ValueError(
        f"criterion {name!r} is unknown; use bmrs-n, bmrs-u-4, bmrs-u-8 or snr (bmrs fit takes none too, and bmrs "
        "prune takes expected and l2)"
    )


def criterion_name(criterion: Criterion) -> str:
    """Return the name of a criterion; if it has none, the name of its function or class."""
    named = (name for name in ("bmrs-n", "snr") if named_criterion(name) == criterion)
    return next(named, getattr(criterion, "__name__", type(criterion).__name__))
