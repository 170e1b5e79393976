"""What users write as a maximum: numbers, shares such as 50%, and times such as 2ms."""

from __future__ import annotations

__all__ = ["Quantity", "Times", "is_share", "number_of", "refuse_no_loss", "seconds"]

import math
import re
from dataclasses import dataclass

Quantity = float | str

_UNITS = "seconds, or a text such as '2ms' (units: s, ms, us) or '50%'"


@dataclass(frozen=True)
class Times:
    """Median seconds for a batch, of two networks that were measured in turns.

    Attributes:
        dense: of the unpruned network.
        small: of the other one.
    """

    dense: float
    small: float

    def __str__(self) -> str:
        share = self.small / self.dense
        return f"{1e3 * self.small:.3g} ms for a batch, {share:.0%} of the unpruned network's time"

    def within(self, time: Quantity | None) -> bool:
        """Whether the small network is as fast as was asked for."""
        limit = seconds(time, self.dense)
        return limit is None or self.small <= limit


def seconds(time: Quantity | None, dense: float = math.nan) -> float | None:
    """Read a time such as ``0.002``, ``"2ms"``, ``"150us"``, ``"1s"`` or ``"50%"``.

    Args:
        time: seconds, a text with a unit, or a share.
        dense: seconds of the unpruned network, which a share refers to.

    Raises:
        ValueError: it is not a positive time, or a text without a unit.
    """
    if not isinstance(time, str) or is_share(time):
        return number_of("max_latency", time, dense)
    found = re.fullmatch(r"\s*([\d.e+-]+)\s*(ms|us|s)?\s*", time)
    number = _read(found[1]) if found else -1.0
    if found is None or not 0 < number < math.inf:
        raise ValueError(f"max_latency is {time!r}; give {_UNITS}, above 0")
    if found[2] is None:
        raise ValueError(
            f"max_latency is {time!r}, a text without a unit; write '{found[1]}ms' or '{found[1]}s', or give a number "
            "of seconds"
        )
    return {"ms": 1e-3, "us": 1e-6, "s": 1.0}[found[2]] * number


def number_of(name: str, value: Quantity | None, whole: float) -> float | None:
    """Return a quantity as a number; a share is multiplied by the whole.

    Raises:
        ValueError: it is not a positive number, or a share is above 100 %; the message has its name.
    """
    if value is None:
        return None
    number, share = _read(value), is_share(value)
    if not 0 < number < math.inf:
        units = _UNITS if name == "max_latency" else "a number, or a share such as '50%'"
        raise ValueError(f"{name} is {value!r}; give {units}, above 0")
    if share and number > 100:
        raise ValueError(
            f"{name} is {value!r}, more than the whole unpruned network; give a share of at most 100%"
        )
    return number * whole / 100 if share else number


def is_share(value: object) -> bool:
    """Whether a quantity is a share, such as ``"50%"``."""
    return isinstance(value, str) and value.strip().endswith("%")


def _read(value: object) -> float:
    """Return a quantity's number, without its percent sign; -1 if it is none."""
    try:
        if isinstance(value, str):
            return float(value.strip().removesuffix("%"))
        return -1.0 if isinstance(value, bool | bytes) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return -1.0


def refuse_no_loss(loss: object) -> None:
    """Raise ValueError if a largest loss is not a number of at least 0."""
    if isinstance(loss, str):
        raise ValueError(
            f"max_loss is {loss!r}, a text; it must be a number: points of accuracy, or nats of log-likelihood"
        )
    if loss is not None and not 0 <= _read(loss) < math.inf:
        raise ValueError(f"max_loss is {loss!r}; it must be at least 0, and a finite number")
