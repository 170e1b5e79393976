"""A pruning event: the network, the guide and the optimiser's moments shrink together, in place."""

from __future__ import annotations

__all__ = ["remove_structures_"]

from collections.abc import Mapping

from torch import Tensor

from bmrs_pyro.inference.guide import AutoTruncatedLogNormal
from bmrs_pyro.inference.model import SupervisedModel
from bmrs_pyro.training.optimiser import JointOptim


def remove_structures_(
    model: SupervisedModel,
    guide: AutoTruncatedLogNormal,
    keep: Mapping[str, Tensor],
    optim: JointOptim | None = None,
) -> None:
    """Remove structures from a model in training; from the next step on they cost nothing.

    Args:
        model: the model; its network, plates and priors shrink.
        guide: the guide; it loses the posteriors of the removed structures.
        keep: mask ``(C_f,)`` per family, True for kept structures; families not named stay whole.
        optim: the optimiser; it loses the moments of the removed structures.

    Raises:
        ValueError: a mask has the wrong length or keeps nothing of its family.
    """
    sizes = {structure.name: structure.size for structure in model.structures}
    removal = model.network.remove_(keep)
    index = guide.shrink_(keep, sizes)
    if optim is None:
        return
    for name, weight in model.network.net.named_parameters():
        if name in removal.indices:
            optim.cut_(weight, removal.indices[name])
    for parameter in guide.parameters(recurse=False):
        optim.cut_(parameter, index)
