"""The likelihood's own parameters, fitted to the outputs of a trained network."""

from __future__ import annotations

__all__ = ["fit_likelihood_"]

from contextlib import suppress

import torch
from torch import Tensor, nn

from bmrs_pyro.inference.inputs import on_device_of, outputs_of
from bmrs_pyro.inference.likelihoods import Likelihood
from bmrs_pyro.inference.observations import log_likelihoods
from bmrs_pyro.network.untouched import modes_kept
from bmrs_pyro.training.loop import Batches

STEPS = 50
"""Largest number of iterations of L-BFGS."""

EXAMPLES = 2048
"""Number of training examples that parameters are fitted to; the last batch is used whole."""


def fit_likelihood_(likelihood: Likelihood, network: nn.Module, loader: Batches) -> None:
    """Fit the parameters of a likelihood, such as a learned scale, to a network in place; the network is not changed.

    A trained network comes without them, and a smaller network has larger errors: at other values its log-likelihood
    would say little. If the fit does not lower the loss, they stay as they are.

    Args:
        likelihood: the likelihood; nothing happens if it has no parameters.
        network: the network, with or without gains.
        loader: training batches.
    """
    if not isinstance(likelihood, nn.Module) or not (parameters := list(likelihood.parameters())):
        return
    device = parameters[0].device
    with modes_kept(network), torch.no_grad():
        network.eval()
        found, examples = [], 0
        for x, y in on_device_of(network, loader):
            if len(y):
                found.append((outputs_of(network, x), y.to(device)))
                examples += len(y)
            if examples >= EXAMPLES:
                break
    before = [parameter.detach().clone() for parameter in parameters]

    def loss() -> Tensor:
        return -torch.cat([log_likelihoods(likelihood(outputs), y) for outputs, y in found]).mean()

    def step() -> float:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value.item()

    optimizer = torch.optim.LBFGS(parameters, max_iter=STEPS, line_search_fn="strong_wolfe")
    better = False
    with (
        torch.enable_grad(),
        suppress(ValueError),
    ):  # a distribution refuses NaN, which the network's score will tell
        start = loss().item()
        optimizer.step(step)
        better = loss().item() < start
    if not better:
        for parameter, value in zip(parameters, before, strict=True):
            parameter.data.copy_(value)
    optimizer.zero_grad()
