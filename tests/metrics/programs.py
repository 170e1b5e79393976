"""A small fitted program with data, for what reads posteriors."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from bmrs_pyro.inference import AutoTruncatedLogNormal, SupervisedModel
from bmrs_pyro.network import NoisyNetwork

N, K = 40, 3


def program() -> tuple[AutoTruncatedLogNormal, Tensor, Tensor]:
    """Return a guide with spread posteriors, inputs and labels."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, K))
    network = NoisyNetwork(net, torch.zeros(1, 5))
    guide = AutoTruncatedLogNormal(
        SupervisedModel(network, lambda z: dist.Categorical(logits=z), N), init_loc=-1.0, init_log_scale=0.0
    )
    return guide, torch.randn(N, 5), torch.randint(0, K, (N,))
