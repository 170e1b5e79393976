"""The best constant outputs under a likelihood: what a network must beat to have learned anything."""

from __future__ import annotations

__all__ = ["ConstantOutputs", "constant_log_likelihood"]

import copy

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from bmrs_pyro.inference.inputs import on_device_of, outputs_of
from bmrs_pyro.inference.likelihoods import Likelihood
from bmrs_pyro.inference.observations import log_likelihoods
from bmrs_pyro.network.untouched import modes_kept
from bmrs_pyro.training.likelihood_fit import fit_likelihood_
from bmrs_pyro.training.loop import Batches


class ConstantOutputs(nn.Module):
    """A likelihood that reads the same outputs for every example, whatever the network's are.

    Args:
        likelihood: the likelihood; it is copied, with its parameters.
        outputs: outputs ``(B, …)`` of a network; their mean is the start of the constant.
    """

    def __init__(self, likelihood: Likelihood, outputs: Tensor) -> None:
        super().__init__()
        self.likelihood = copy.deepcopy(likelihood)
        self.outputs = nn.Parameter(outputs.detach().mean(0, keepdim=True))

    def forward(self, outputs: Tensor) -> dist.TorchDistribution:
        """Return the distribution of as many examples as there are outputs."""
        return self.likelihood(self.outputs.expand(len(outputs), *self.outputs.shape[1:]))


def constant_log_likelihood(likelihood: Likelihood, network: nn.Module, batches: Batches) -> float | None:
    """Return the mean log-likelihood of the best constant outputs, in nats per example.

    The outputs, and the likelihood's own parameters, are fitted to the batches by L-BFGS.

    Args:
        likelihood: the likelihood, which is not changed.
        network: a network, for the shape of its outputs.
        batches: the examples.

    Returns:
        None if the outputs are not one tensor, or their shape differs between batches.
    """
    constant: ConstantOutputs | None = None
    total, count = 0.0, 0
    with modes_kept(network), torch.no_grad():
        network.eval()
        for x, y in on_device_of(network, batches):
            outputs = outputs_of(network, x)
            if not isinstance(outputs, Tensor) or (
                constant is not None and outputs.shape[1:] != constant.outputs.shape[1:]
            ):
                return None
            if constant is None:
                constant = ConstantOutputs(likelihood, outputs)
                fit_likelihood_(constant, network, batches)
            total += float(log_likelihoods(constant(outputs), y.to(outputs.device)).sum())
            count += len(y)
    return total / count if count else None
