"""Nothing leaves the device of the parameters: on CUDA tensors that are only imagined, where mixing devices raises."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from pyro import poutine
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.distributions import kl_divergence

from bmrs_pyro import LogUniform, TruncatedLogNormal
from bmrs_pyro.distributions.joint_draw import EAGER
from tests.inference.programs import mlp, program

CUDA = torch.device("cuda:0")


@pytest.fixture
def mode() -> Iterator[FakeTensorMode]:
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        yield mode


def test_a_posterior_takes_numbers_from_the_cpu(mode: FakeTensorMode) -> None:
    q = TruncatedLogNormal(torch.zeros(3, device=CUDA), torch.ones(3, device=CUDA))
    half = torch.tensor(0.5)
    for found in (q.log_prob(half), q.mean, q.variance, q.mode, q.entropy(), q.log_z, q.signal_to_noise):
        assert found.device == CUDA
    # an imagined quantile cannot look whether a distribution is all tail, but its devices are checked before that
    for prior in (LogUniform(), LogUniform(torch.tensor(1e-8, device=CUDA), 1.0)):
        assert prior.log_prob(torch.rand(3, device=CUDA)).device == CUDA
        assert prior.cdf(torch.rand(3, device=CUDA)).device == CUDA
    assert q.cdf(half).device == CUDA
