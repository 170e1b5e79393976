"""Model reduction of weights: from posteriors to new prior scales, in place."""

from __future__ import annotations

__all__ = ["reduce_", "weight_posteriors"]

import pyro.distributions as dist
import torch

from bmrs_pyro.reduction import reduced_posterior
from bmrs_pyro.weights.guide import MeanField, refuse_other_guide
from bmrs_pyro.weights.model import WeightModel
from bmrs_pyro.weights.rules import SPIKE, Rule, refuse_no_rule


@torch.no_grad()
def weight_posteriors(model: WeightModel, guide: MeanField) -> dict[str, dist.Normal]:
    """Return q(z) of every layer's weights by site name, ``(rows, columns)``, detached; pruned ones are spikes at 0.

    Raises:
        TypeError: the guide is no MeanField.
        ValueError: the guide is another model's.
    """
    if not isinstance(guide, MeanField):
        raise TypeError(f"guide is a {type(guide).__name__}; only a MeanField has posteriors")
    refuse_other_guide(model.layers, guide)
    distributions = guide.distributions()
    found = {}
    for name, active in model.active.items():
        distribution = distributions[name].base_dist
        found[name] = dist.Normal(
            distribution.loc.where(active, 0.0), distribution.scale.where(active, SPIKE)
        )
    return found


@torch.no_grad()
def reduce_(model: WeightModel, guide: MeanField, rule: Rule, *, last: bool = False) -> int:
    """Change the prior scales of all layers by a rule, and replace the posteriors by the reduced ones.

    A weight with factor f has the reduced prior N(0, f²) for z. Its reduced posterior, in units of the new
    scale, replaces q, so the weights keep what they have learned. A pruned weight gets gain 0 and its prior as q.

    Args:
        model: its gains are multiplied in place.
        guide: its posteriors are replaced in place.
        rule: such as :class:`SpikeAndSlab` or :class:`HorseshoeRule`.
        last: whether the last layer is reduced too; in a classifier it is not.

    Returns:
        How many weights were pruned.

    Raises:
        TypeError: the guide is no MeanField, or the rule is none.
        ValueError: the guide is another model's.
    """
    refuse_no_rule(rule)
    before = int((model.gain > 0).sum())
    distributions, gains, standard = weight_posteriors(model, guide), model.gains, dist.Normal(0.0, 1.0)
    for layer in model.layers:
        if layer.last and not last:
            continue
        # the exact posterior is never wider than the prior, but a guide before its optimum may be
        distribution = dist.Normal(
            distributions[layer.name].loc, distributions[layer.name].scale.clamp(max=1.0)
        )
        with torch.enable_grad():
            factor = rule(layer, distribution, gains[layer.name]).detach()
        kept = factor > 0
        scale = factor.where(kept, 1.0)
        reduced = reduced_posterior(distribution, standard, dist.Normal(0.0, scale))
        guide.set_(layer.name, dist.Normal(reduced.loc / scale, reduced.scale / scale), kept)
        gains[layer.name].mul_(factor)
    return before - int((model.gain > 0).sum())
