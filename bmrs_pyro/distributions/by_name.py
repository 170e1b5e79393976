"""Distributions by site name, as the arguments of functions that read posteriors."""

from __future__ import annotations

__all__ = ["refuse_unnamed"]

from collections.abc import Mapping
from typing import Any

from torch.distributions import Distribution


def refuse_unnamed(posteriors: Any) -> None:
    """Raise TypeError if an argument is not a mapping of site names to distributions."""
    if not isinstance(posteriors, Mapping):
        raise TypeError(
            f"posteriors is a {type(posteriors).__name__}; give them by site name: posteriors(guide)"
        )
    for name, posterior in posteriors.items():
        if not isinstance(posterior, Distribution):
            raise TypeError(
                f"the posterior of {name!r} is a {type(posterior).__name__}; give distributions by site name: "
                "posteriors(guide)"
            )
