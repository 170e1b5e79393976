"""Whether the labels are such as the network's outputs can be likelihoods of, asked before training."""

from __future__ import annotations

__all__ = ["labels_misfit", "refuse_labels", "warn_of_untrained"]

import warnings
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from bmrs_pyro.inference.likelihoods import given
from bmrs_pyro.inference.model import SupervisedModel
from bmrs_pyro.inference.observations import log_likelihoods, observed, other_shape
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
    with modes_kept(model), random_state_kept(model):
        model.eval()
        distribution = given(model.likelihood, model.network(x))
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
    return _unlike(distribution, y) if fits.all() else _said(base, outputs, y, fits)


def warn_of_untrained(model: SupervisedModel, x: Any, y: Tensor) -> None:
    """Warn if the likelihood uses tensors that require a gradient, but that :func:`fit` does not know.

    Args:
        model: the model; it is asked in evaluation mode, and stays as it is.
        x: inputs of a batch, on the model's device.
        y: its labels.
    """
    with modes_kept(model), random_state_kept(model), torch.no_grad(), pyro.poutine.block():
        model.eval()
        outputs = model.network(x)
        with torch.enable_grad():
            try:
                score = log_likelihoods(model.likelihood(outputs), y).sum()
            except Exception:  # the first step will say why
                return
    known = {id(tensor) for tensor in (*model.parameters(), *pyro.get_param_store()._params.values())}
    strange = [leaf for leaf in _leaves(score) if id(leaf) not in known]
    if strange:
        warnings.warn(
            f"the likelihood uses parameters that are not trained ({len(strange)}, the first of shape "
            f"{tuple(strange[0].shape)}): give an nn.Module that holds them, or make them with pyro.param; if they are "
            "to stay as they are, call .requires_grad_(False)",
            stacklevel=2,
        )


def _leaves(result: Tensor) -> list[Tensor]:
    """Return the tensors from which a result was computed and which require a gradient."""
    found: list[Tensor] = []
    seen, waiting = set[Any](), [result.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if (leaf := getattr(node, "variable", None)) is not None:
            found.append(leaf)
        waiting.extend(parent for parent, _ in node.next_functions)
    return found


def _unlike(distribution: dist.TorchDistribution, y: Tensor) -> str | None:
    """Say that labels have more dimensions than a likelihood's values, if it cannot score them."""
    if observed(distribution, y).shape != distribution.batch_shape + distribution.event_shape:
        try:
            distribution.log_prob(y)
        except ValueError:
            return str(other_shape(distribution, y))
    return None


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
