"""Whether the labels are such as the network's outputs can be likelihoods of, asked before training."""

from __future__ import annotations

__all__ = ["refuse_labels"]

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from bmrs_pyro.inference.model import SupervisedModel
from bmrs_pyro.network.untouched import modes_kept, random_state_kept


@torch.no_grad()
def refuse_labels(model: SupervisedModel, x: Any, y: Tensor, num_classes: int | None = None) -> None:
    """Raise ValueError, in one line, if a batch's labels lie outside the support of the likelihood.

    Args:
        model: the model; it is asked in evaluation mode, and stays as it is.
        x: inputs of the batch, on the model's device.
        y: its labels.
        num_classes: number of classes of all the data, where that is known.
    """
    net = model.network.net
    with modes_kept(net), random_state_kept(net):
        net.eval()
        distribution = model.likelihood(model.network(x))
    base = distribution
    while hasattr(base, "base_dist"):
        base = base.base_dist
    outputs = base.probs.shape[-1] if isinstance(base, dist.Categorical) else None
    if outputs is not None and num_classes is not None and num_classes > outputs:
        raise ValueError(
            f"the network has {outputs} outputs for {num_classes} classes: give its last layer {num_classes} outputs"
        )
    if outputs is None and not base._validate_args:  # its author lets it score other values, too
        return
    try:
        fits = distribution.support.check(y)
    except (NotImplementedError, ValueError):  # it does not say, or the shapes differ
        return
    if not fits.all():
        raise ValueError(_misfit(base, outputs, y, fits))


def _misfit(base: dist.TorchDistribution, outputs: int | None, y: Tensor, fits: Tensor) -> str:
    first = y.reshape(*fits.shape, -1)[~fits][0]
    value = first[~first.isfinite()][0] if not first.isfinite().all() else first[0]
    found = f"{int((~fits).sum())} of the first {fits.numel()} labels"
    if outputs is None:
        return f"{found} are no values of the likelihood, a {type(base).__name__}, such as {value.item():g}"
    if y.is_floating_point():
        return f"{found} are no classes, such as {value.item():g}; give whole numbers from 0 to {outputs - 1}"
    return (
        f"the network has {outputs} outputs, for labels from 0 to {outputs - 1}, but the labels go from {int(y.min())} "
        f"to {int(y.max())}: number them from 0, and give the last layer one output for every class"
    )
