"""What every test starts from: fixed seeds, Pyro's validation on, an empty parameter store."""

from __future__ import annotations

from collections.abc import Iterator

import pyro
import pytest
import torch

from tests.finished_run import finished_run as finished_run


@pytest.fixture(autouse=True)
def _fresh_pyro() -> Iterator[None]:
    pyro.set_rng_seed(0)
    pyro.clear_param_store()
    with pyro.validation_enabled(True):
        yield
    torch.set_default_dtype(torch.float32)
