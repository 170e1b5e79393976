"""The caller's random generators, kept while the library draws from seeds of its own."""

from __future__ import annotations

__all__ = ["generators_kept"]

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from pyro.util import get_rng_state, set_rng_state


@contextmanager
def generators_kept() -> Iterator[None]:
    """Give back the states of Python's, NumPy's and torch's generators at the end, after errors too."""
    states, seed = get_rng_state(), torch.initial_seed()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    try:
        yield
    finally:
        set_rng_state(states)
        if cuda is None:  # GPUs that nobody had drawn from yet start from the seed of the CPU's generator
            torch.cuda.manual_seed_all(seed)
        else:
            torch.cuda.set_rng_state_all(cuda)
