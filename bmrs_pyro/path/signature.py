"""Numbers by which networks, likelihoods and data are known again."""

from __future__ import annotations

__all__ = ["digest", "identity", "signature"]

import hashlib
import math
from collections.abc import Iterable
from typing import Any

import pyro
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from bmrs_pyro.inference.model import SupervisedModel
from bmrs_pyro.inference.observations import NonFiniteLoss
from bmrs_pyro.network.generators import generators_kept, seed_generators
from bmrs_pyro.network.untouched import deep_copy, forget_
from bmrs_pyro.training.loop import Batches
from bmrs_pyro.training.validation import mean_of, validate


def identity(model: SupervisedModel, validation: Batches) -> dict[str, Any]:
    """Return what has to be alike where a path is continued, whatever the weights, as plain JSON types."""
    return {
        "num_data": model.num_data,
        "kl_weight": model.kl_weight.name,
        "structures": {family.name: family.size for family in model.structures},
        "layers": {name: _described(layer) for name, layer in model.network.net.named_modules()},
        "draws": model.draws,
        "bfloat16": model.mixed_precision,
        "a mean of validation examples of": f"{mean_of(validation):.6g}",
        "a network and likelihood that score": signature(model, validation),
    }


def _described(layer: nn.Module) -> str:
    own = [parameter.requires_grad for parameter in layer.parameters(recurse=False)]
    frozen = "" if all(own) else "frozen " if not any(own) else "partly frozen "
    return f"{frozen}{type(layer).__name__}({layer.extra_repr()})"


def digest(net: nn.Module) -> str:
    """Return a digest of all weights and buffers."""
    found = hashlib.blake2b(digest_size=8)
    for name, value in sorted(net.state_dict().items()):
        if isinstance(value, Tensor):
            found.update(f"{name} {tuple(value.shape)} {value.dtype} ".encode())
            found.update(value.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().data)
    return found.hexdigest()


def signature(model: SupervisedModel, batches: Batches) -> list[float]:
    """Return mean and standard error of the log-likelihood of all examples under fixed weights, which every call gives.

    Another activation or stride changes these numbers, and so does another likelihood, even one that is a function.

    Args:
        model: the model, which is not changed.
        batches: the examples, in any order.

    Returns:
        No number if the network does not run with such weights.
    """
    with generators_kept(), pyro.get_param_store().scope():
        seed_generators(0)
        twin = deep_copy(model)
        _fix_(twin)
        _fix_(twin, _changing_buffers(twin))
        try:
            score = validate(twin, {}, batches)
        except (NonFiniteLoss, ValueError, RuntimeError):
            return []
    found = [score.log_likelihood, score.log_likelihood_error or 0.0]
    return found if all(map(math.isfinite, found)) else []


@torch.no_grad()
def _changing_buffers(model: SupervisedModel) -> list[str]:
    """Name the buffers that a call in training mode changes, such as statistics; other buffers are constants."""
    twin = deep_copy(model).train()
    for module in twin.modules():
        if isinstance(module, _NormBase):
            module.eval()  # it would refuse a single example; its statistics are fixed in any case
    for buffer in twin.buffers():
        if buffer.is_floating_point():
            buffer += 1  # an average of zeros stays 0
    before = {name: buffer.clone() for name, buffer in twin.named_buffers()}
    try:
        twin.network(*twin.network.example_inputs)
    except Exception:  # of the network's own code
        return []
    after = dict(twin.named_buffers())
    return [name for name, old in before.items() if name in after and not torch.equal(old, after[name])]


@torch.no_grad()
def _fix_(model: nn.Module, buffers: Iterable[str] = ()) -> None:
    """Replace all parameters by fixed numbers that keep the size of a signal from layer to layer, and buffers by 1."""
    random, done = torch.Generator().manual_seed(0), set[int]()
    for name in buffers:
        model.get_buffer(name).fill_(1)
    for module in model.modules():
        if isinstance(module, _NormBase):
            module.reset_running_stats()
        for parameter in module._parameters.values():
            if parameter is not None and parameter.is_floating_point() and id(parameter) not in done:
                done.add(id(parameter))
                parameter.data = _numbers(parameter, random)
    forget_(model)


def _numbers(like: Tensor, random: torch.Generator) -> Tensor:
    """Return numbers from 0.5 to 1.5 for a vector, and of variance 1 / inputs for a matrix or a kernel."""
    values = torch.rand(like.shape, generator=random).to(like)
    if like.dim() < 2:
        return values + 0.5
    return (2 * values - 1) * math.sqrt(3 * len(like) / max(like.numel(), 1))
