"""The likelihood's own parameters, fitted to the outputs of a trained network."""

from __future__ import annotations

__all__ = ["fit_likelihood_"]

from itertools import islice

import torch
from torch import Tensor, nn

from bmrs_pyro.inference.inputs import on_device_of, outputs_of
from bmrs_pyro.inference.model import SupervisedModel
from bmrs_pyro.inference.observations import log_likelihoods
from bmrs_pyro.network.untouched import modes_kept
from bmrs_pyro.training.loop import Batches

STEPS = 50
"""Largest number of iterations of L-BFGS."""


def fit_likelihood_(model: SupervisedModel, loader: Batches, batches: int) -> None:
    """Fit the parameters of a model's likelihood, such as a learned scale, in place; the network is not changed.

    A trained network comes without them: its log-likelihood at their initial values would say little. If the fit does
    not lower the loss, they stay as they are.

    Args:
        model: the model.
        loader: training batches.
        batches: number of batches to fit to.
    """
    likelihood = model.likelihood
    if not isinstance(likelihood, nn.Module) or not (parameters := list(likelihood.parameters())):
        return
    device = next(model.parameters()).device
    with modes_kept(model), torch.no_grad():
        model.eval()
        found = [
            (outputs_of(model.network, x), y.to(device))
            for x, y in islice(on_device_of(model.network, loader), batches)
            if len(y)
        ]
    before = [parameter.detach().clone() for parameter in parameters]

    def loss() -> Tensor:
        return -torch.cat([log_likelihoods(likelihood(outputs), y) for outputs, y in found]).mean()

    def step() -> float:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value.item()

    optimizer = torch.optim.LBFGS(parameters, max_iter=STEPS, line_search_fn="strong_wolfe")
    with torch.enable_grad():
        start = loss().item()
        optimizer.step(step)
        fitted = loss().item()
    if not fitted < start:
        for parameter, value in zip(parameters, before, strict=True):
            parameter.data.copy_(value)
    optimizer.zero_grad()
