"""Losses and other objects that are given in place of a likelihood."""

from __future__ import annotations

__all__ = ["refuse_no_likelihood"]

import inspect

from torch import nn
from torch.distributions import Distribution
from torch.nn import functional
from torch.nn.modules.loss import _Loss


def refuse_no_likelihood(likelihood: object) -> None:
    """Raise TypeError if an object is a loss, a distribution, or cannot be called with a network's outputs alone."""
    of_torch = getattr(likelihood, "__module__", "") in (functional.__name__, _Loss.__module__)
    if not callable(likelihood) or of_torch or isinstance(likelihood, _Loss | Distribution):
        name = getattr(likelihood, "__name__", None)
        kind = f"torch's {name}" if name else f"a {type(likelihood).__name__}"
        raise TypeError(f"likelihood is {kind}; give a name or a function from outputs to a distribution")
    function = likelihood.forward if isinstance(likelihood, nn.Module) else likelihood
    try:
        inspect.signature(function).bind(None)
    except ValueError:  # some functions in C have no signature
        return
    except TypeError as error:
        raise TypeError(
            f"likelihood is called with the outputs alone ({error}); give a function from outputs to a distribution"
        ) from None
