"""A warning where Pyro makes the parameters of a program anew, because its parameter store does not hold them."""

from __future__ import annotations

__all__ = ["initial_values_told"]

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro
from torch import nn


@contextmanager
def initial_values_told(program: str) -> Iterator[None]:
    """Warn of the ``pyro.param`` sites in the context that take their initial values.

    Parameters of modules are not meant: they have the module's values.

    Args:
        program: what runs in the context, for the warning.
    """
    store: Any = pyro.get_param_store()
    before = set(store.keys())
    yield
    new = set(store.keys()) - before
    made = sorted(name for name in new if not isinstance(store[name].unconstrained(), nn.Parameter))
    if made:
        warnings.warn(
            f"the {program} has initial values, because Pyro's parameter store does not hold {', '.join(made)}: call "
            "this before pyro.clear_param_store(), or load the store that training filled",
            stacklevel=4,
        )
