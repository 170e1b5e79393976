"""Save and restore the caller's random generators while the library draws from its own seeds."""

from __future__ import annotations

__all__ = ["generators_kept", "seed_generators"]

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_generators(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (networks may draw from it)
    torch.manual_seed(seed)


@contextmanager
def generators_kept() -> Iterator[None]:
    """Restore the states of Python's, NumPy's and torch's generators at the end, after errors too."""
    states, seed = (random.getstate(), np.random.get_state(), torch.get_rng_state()), torch.initial_seed()  # noqa: NPY002
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
        if cuda is None:  # GPUs that nobody had drawn from yet start from the seed of the CPU's generator
            torch.cuda.manual_seed_all(seed)
        else:
            torch.cuda.set_rng_state_all(cuda)
