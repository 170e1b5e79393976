"""Nothing leaves the device of the parameters: on CUDA tensors that are only imagined, where mixing devices raises."""

from __future__ import annotations

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from bmrs_pyro import LogUniform, TruncatedLogNormal
from bmrs_pyro.inference.laplace import Curvature, candidates

CUDA = torch.device("cuda:0")


def test_distributions_take_numbers_from_the_cpu() -> None:
    """As torch's own operations do of tensors without dimensions."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        q = TruncatedLogNormal(torch.zeros(3, device=CUDA), torch.ones(3, device=CUDA), validate_args=False)
        half = torch.tensor(0.5)
        found = [q.log_prob(half), q.cdf(half), q.mean, q.variance, q.mode, q.entropy(), q.log_z]
        for low in (1e-8, torch.tensor(1e-8), torch.tensor(1e-8, device=CUDA)):
            prior = LogUniform(low, 1.0, validate_args=False)
            values = torch.rand(3, device=CUDA)
            found += [prior.log_prob(values), prior.cdf(values), prior.icdf(values)]
        assert all(tensor.device == CUDA for tensor in found)


def test_laplace_candidates_stay_on_the_device() -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):
        slope, information = torch.zeros(3, device=CUDA).double(), torch.ones(3, device=CUDA).double()
        prior = LogUniform(torch.tensor(1e-8), torch.tensor(1.0), validate_args=False)
        found = candidates(Curvature(slope, information), prior, torch.ones(3, device=CUDA).double())
        assert all(tensor.device == CUDA for tensor in found)
