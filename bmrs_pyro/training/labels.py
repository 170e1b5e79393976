"""Checks, before training, that the labels fit the likelihood."""

from __future__ import annotations

__all__ = [
    "Unscored",
    "labels_misfit",
    "refuse_few",
    "refuse_labels",
    "warn_of_probabilities",
    "warn_of_units",
    "warn_of_unscored",
    "warn_of_untrained",
]

import copy
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from bmrs_pyro.distributions import unwrapped
from bmrs_pyro.inference.inputs import labelled, not_running
from bmrs_pyro.inference.likelihoods import Likelihood, given_each, main_output, takes_logits
from bmrs_pyro.inference.model import SupervisedModel
from bmrs_pyro.inference.observations import (
    log_likelihoods,
    misfit_of,
    observed,
    unfit_parameters,
    validated,
)
from bmrs_pyro.network.generators import generators_kept
from bmrs_pyro.network.nested import tensors_in
from bmrs_pyro.network.untouched import modes_kept, random_state_kept

if TYPE_CHECKING:
    from bmrs_pyro.training.loop import Batches

_VIEWS = ("Squeeze", "Unsqueeze", "View", "UnsafeView", "Reshape", "Transpose", "Permute", "ToCopy", "Clone")
"""Operations, by the names of their gradients, that only arrange values."""


FEW = 10
"""Number of validation examples below which a warning says that they are few."""


class Unscored(UserWarning):
    """Some structures serve only outputs that the likelihood does not use."""


def refuse_labels(model: SupervisedModel, x: Any, y: Tensor, num_classes: int | None = None) -> None:
    """Raise ValueError, in one line, if labels lie outside the support of the likelihood; see :func:`labels_misfit`."""
    if misfit := labels_misfit(model, x, y, num_classes):
        raise ValueError(misfit)


@validated()
@torch.no_grad()
def labels_misfit(model: SupervisedModel, x: Any, y: Tensor, num_classes: int | None = None) -> str | None:
    """Return a message about labels outside the support of the likelihood; None if all labels fit.

    Args:
        model: the model; it is run in evaluation mode and not changed.
        x: inputs of the batch, on the model's device.
        y: labels of the batch.
        num_classes: number of classes in all data, if known.
    """
    with modes_kept(model), random_state_kept(model):
        model.eval()
        try:
            outputs = model.network(x)
        except RuntimeError as error:
            raise not_running(x, error) from error
        try:
            distribution = model.likelihood_of(outputs)
        except ValueError as error:
            if not unfit_parameters(error) or not all(leaf.isfinite().all() for leaf in tensors_in(outputs)):
                raise
            why = str(error).partition(", but found")[0]
            return (
                f"the likelihood refuses the network's outputs ({why}): outputs are any real numbers, so map them to "
                "what the distribution takes, as in Categorical(logits=z) or Normal(z, 0.1)"
            )
    return misfit_of(distribution, y, num_classes)


@torch.no_grad()
def warn_of_units(model: SupervisedModel, x: Any, y: Tensor) -> None:
    """Warn if values lie more than 30 standard deviations of the likelihood from the predictions before training."""
    with modes_kept(model), random_state_kept(model):
        model.eval()
        distribution = model.likelihood_of(model.network(x))
    base = unwrapped(distribution)[0]
    if not isinstance(base, dist.Normal | dist.StudentT):
        return
    values = observed(distribution, y).double()
    distance = ((values - distribution.mean) / distribution.variance.sqrt()).square().mean().sqrt()
    if distance > 30:
        # the text names no number, so that Python shows the warning once in a path of many fits
        warnings.warn(
            "the values are more than 30 standard deviations of the likelihood from the predictions before training, "
            "which takes many steps to learn: standardise them, or give bmrs_pyro.inference.ScaledLikelihood('normal', "
            "centre=[MEAN], unit=[DEVIATION]) with the values' mean and standard deviation",
            stacklevel=1,
        )


def warn_of_probabilities(
    model: nn.Module, network: Callable[[Any], Any], likelihood: Likelihood, x: Any
) -> None:
    """Warn if the network ends with a softmax or sigmoid and the likelihood takes logits, so that both apply one."""
    with modes_kept(model), random_state_kept(model), torch.enable_grad(), pyro.poutine.block():
        model.eval()
        node = _logits_node(likelihood, network(x))
    while node is not None and node.name().startswith(_VIEWS):
        node = node.next_functions[0][0]
    for name in ("Softmax", "Sigmoid"):
        if node is not None and node.name().startswith(f"{name}Backward"):
            warnings.warn(
                f"the network ends with a {name.lower()}, and the likelihood takes logits: leave the {name.lower()} "
                "out, or give a likelihood= of probabilities",
                stacklevel=2,
            )


def _logits_node(likelihood: Likelihood, outputs: Any) -> Any:
    """Return the node of torch's graph that made the logits; None if the likelihood takes none."""
    if takes_logits(likelihood):
        return main_output(outputs).grad_fn
    base = unwrapped(given_each(likelihood, outputs))[0]
    base = getattr(base, "_categorical", base)  # that of a multinomial, or of a one-hot vector
    # a distribution that was made of probabilities computes its logits when they are asked for
    logits = vars(base).get("logits")
    node = None if logits is None else logits.grad_fn
    if node is not None and isinstance(
        base, torch.distributions.Categorical
    ):  # the logits less their log-sum-exp
        node = node.next_functions[0][0]
    return node


def refuse_few(validation: Batches) -> None:
    """Refuse a single example, whose score has no known error; warn of few examples, and if all labels are the same.

    Raises:
        ValueError: there are fewer than two examples.
    """
    count, first, varied = 0, None, False
    try:
        uncounted = copy.copy(validation)  # a loader that counts its passes does not count this one
    except Exception:  # an object of the user's may forbid copies
        uncounted = validation
    with generators_kept():
        for _, y in labelled("validation data", uncounted):
            count += len(y)
            if first is None and y.numel():
                first = y.flatten()[0]
            varied = varied or (first is not None and not bool((y == first).all()))
            if count >= FEW and varied:
                return
    if count < 2:
        found = "one example, whose score has no known error" if count else "no example"
        raise ValueError(f"validation holds {found}; give at least two, better hundreds")
    if count < FEW:
        warnings.warn(
            f"validation holds {count} examples, so that chance decides between networks; give hundreds",
            stacklevel=3,
        )
    if not varied:
        warnings.warn(
            "all validation labels are the same, so that the scores tell next to nothing: shuffle the data before you "
            "split them",
            stacklevel=3,
        )


def warn_of_unscored(model: SupervisedModel, x: Any, y: Tensor) -> None:
    """Warn of structures that serve only outputs which the likelihood does not use: a path removes them."""
    with modes_kept(model), random_state_kept(model), torch.enable_grad(), pyro.poutine.block():
        model.eval()
        device = next(model.parameters()).device
        theta = {
            family.name: torch.ones(family.size, device=device, requires_grad=True)
            for family in model.structures
        }
        outputs = model.network(x, theta)
        tracked = [leaf for leaf in tensors_in(outputs) if leaf.requires_grad]
        if len(tracked) < 2:
            return
        scored, served = (
            torch.autograd.grad(
                value, [*theta.values()], retain_graph=True, allow_unused=True, materialize_grads=True
            )
            for value in (
                log_likelihoods(model.likelihood_of(outputs), y).sum(),
                sum((leaf.float().square().sum() for leaf in tracked), torch.zeros(())),
            )
        )
    names = [
        name for name, one, other in zip(theta, scored, served, strict=True) if other.any() and not one.any()
    ]
    if names:
        warnings.warn(
            f"the likelihood does not use all outputs of the network: {', '.join(names)} serve only the others, so "
            "next to nothing of them will be kept; to keep these outputs, give likelihood= a function of all outputs",
            Unscored,
            stacklevel=2,
        )


def warn_of_untrained(model: SupervisedModel, x: Any, y: Tensor) -> None:
    """Warn if the likelihood uses tensors that require a gradient but that :func:`fit` does not train."""
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
            "constants, call .requires_grad_(False)",
            stacklevel=2,
        )


def _leaves(result: Tensor) -> list[Tensor]:
    """Return the leaf tensors of a result's autograd graph that require a gradient."""
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
