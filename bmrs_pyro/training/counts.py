"""The number of training examples that a model is told, against that of the loader."""

from __future__ import annotations

__all__ = ["known_size", "warn_of_num_data"]

import warnings
from collections.abc import Sized
from contextlib import suppress

from bmrs_pyro.inference.inputs import pairs


def known_size(loader: object) -> int | None:
    """Return the number of examples in a loader's data set or in a list of batches; None if a pass must count them."""
    if isinstance(loader, list | tuple):
        once = {
            id(batch): batch for batch in loader
        }  # a list may repeat its batches, to make an epoch longer
        return sum(len(y) for _, y in pairs(once.values()))
    if isinstance(count := getattr(loader, "num_data", None), int):
        return count
    return _length(getattr(loader, "dataset", None))


def warn_of_num_data(num_data: int, loader: object) -> None:
    """Warn if a model's ``num_data`` is the size neither of the loader's data set nor of its sampler.

    A batch that is left out, or sampled twice, does not count.
    """
    whole, sampled = known_size(loader), _length(getattr(loader, "sampler", None))
    batch = getattr(loader, "batch_size", None) or 1
    known = [size for size in (whole, sampled) if size is not None]
    if known and all(abs(num_data - size) >= max(batch, 2) for size in known):
        warnings.warn(
            f"num_data is {num_data}, and the loader's data set has {known[0]} examples, so that the prior counts "
            f"{known[0] / num_data:.3g} times; give num_data={known[0]}, the number of training examples",
            stacklevel=2,
        )


def _length(source: object) -> int | None:
    """Return a length; None if there is none, such as that of a stream."""
    with suppress(TypeError, NotImplementedError):
        return len(source) if isinstance(source, Sized) else None
    return None
