"""Whether the labels are such as the network's outputs can be likelihoods of, asked before training."""

from __future__ import annotations

__all__ = ["labels_misfit", "refuse_labels"]

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from bmrs_pyro.inference.model import SupervisedModel
from bmrs_pyro.network.untouched import modes_kept, random_state_kept


def refuse_labels(model: SupervisedModel, x: Any, y: Tensor, num_classes: int | None = None) -> None:
    """Raise ValueError, in one line, if labels lie outside the support of the likelihood; see :func:`labels_misfit`."""
    if misfit := labels_misfit(model, x, y, num_classes):
        raise ValueError(misfit)


@torch.no_grad()
def labels_misfit(model: SupervisedModel, x: Any, y: Tensor, num_classes: int | None = None) -> str | None:
    """Say which of a batch's labels lie outside the support of the likelihood; None if all fit.

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
        return f"the network has {outputs} outputs for {num_classes} classes: give its last layer {num_classes} outputs"
    if outputs is None and not base._validate_args:  # its author lets it score other values, too
        return None
    try:
        support: Any = distribution.support
        fits = support.check(y)
    except (NotImplementedError, ValueError):  # it does not say, or the shapes differ
        return None
    return None if fits.all() else _said(base, outputs, y, fits)


def _said(base: dist.TorchDistribution, outputs: int | None, y: Tensor, fits: Tensor) -> str:
    first = y.reshape(*fits.shape, -1)[~fits][0]
    value = first[~first.isfinite()][0] if not first.isfinite().all() else first[0]
    found = f"{int((~fits).sum())} of the {fits.numel()} labels of a batch"
    if outputs is None:
        return f"{found} are no values of the likelihood, a {type(base).__name__}, such as {value.item():g}"
    if y.is_floating_point():
        return f"{found} are no classes, such as {value.item():g}; give whole numbers from 0 to {outputs - 1}"
    return (
        f"the network has {outputs} outputs, for labels from 0 to {outputs - 1}, but those of a batch go from "
        f"{int(y.min())} to {int(y.max())}: number them from 0, and give the last layer one output for every class"
    )
