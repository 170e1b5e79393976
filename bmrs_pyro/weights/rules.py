"""Reduction rules: from the posterior of a layer's weights to their new prior scales, 0 for pruned weights."""

from __future__ import annotations

__all__ = ["HorseshoeRule", "Rule", "SpikeAndSlab", "inclusion_threshold", "refuse_no_rule"]

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from bmrs_pyro.inference import MeanFieldELBO
from bmrs_pyro.reduction import delta_f
from bmrs_pyro.training.options import refuse_no_number
from bmrs_pyro.weights.guide import MeanField
from bmrs_pyro.weights.layers import Layer
from bmrs_pyro.weights.scales import Scales, refuse_unfit_scales, regularised_horseshoe

Rule = Callable[[Layer, dist.Normal, Tensor], Tensor]
"""(layer, posterior, gain so far) -> factor on the prior scale of every weight, all ``(rows, columns)``.

The posterior is q(z) under the prior N(0, 1). A weight with gain 0 is already pruned. A 0 prunes, a 1 changes nothing.
"""


def refuse_no_rule(rule: object) -> None:
    """Raise TypeError if an object is a rule's class, or cannot be called."""
    if isinstance(rule, type) or not callable(rule):
        raise TypeError(f"rule is {rule!r}; give an object, such as SpikeAndSlab()")


SPIKE = 1e-8
"""γ of the published spike: the reduced prior is N(0, 1e-16)."""


def inclusion_threshold(change: Tensor, *, excluded: int = 0, rounds: int = 4) -> Tensor:
    """The largest ΔF with which a parameter stays: the log prior odds of inclusion, learned from all ΔF.

        q_i = sigmoid(ζ − ΔF_i),   α = 1 + Σ q_i,   β = 1 + Σ (1 − q_i),   ζ = ψ(α) − ψ(β)

    These are mean-field updates of the indicators and of their rate, whose prior is Beta(1, 1).

    Args:
        change: ΔF of the parameters that can be excluded, any shape, in nats.
        excluded: how many other parameters of the layer are already excluded.
        rounds: updates, from ζ = 0.

    Returns:
        ζ, a scalar; a parameter stays while ΔF ≤ ζ.
    """
    zeta = change.new_zeros(())
    for _ in range(rounds):
        included = torch.sigmoid(zeta - change).sum()
        zeta = torch.digamma(1 + included) - torch.digamma(1 + change.numel() + excluded - included)
    return zeta


@dataclass(frozen=True)
class SpikeAndSlab:
    """Prune weights whose evidence falls short of their layer's inclusion rate: ΔF > ζ.

    ΔF judges every weight alone, as if the others stayed, and a posterior that has not converged has too little
    evidence for all. So a reduction takes away at most a share of what is left, those with the largest ΔF, and the next
    one judges what the others have learned since. (The published code takes away all at once.)

    Args:
        group: the unit that is pruned: a single ``"weight"``, or a ``"row"``: all incoming weights of one neuron or
            channel and its bias. The ΔF of a row is the sum over its weights.
        rounds: updates of the inclusion rate, at least 1.
        share: largest share of a layer's units that one reduction prunes, in (0, 1], but at least one unit; 1 for all
            at once, where the posterior is exact.

    Raises:
        TypeError: ``share`` is no number.
        ValueError: ``group`` is unknown, there are no rounds, or ``share`` is out of range.

    Reference:
        Marković, Friston and Kiebel 2023, section 3.2.
    """

    group: Literal["weight", "row"] = "weight"
    rounds: int = 4
    share: float = 0.5

    def __post_init__(self) -> None:
        if self.group not in ("weight", "row"):
            raise ValueError(f"group is {self.group!r}; use 'weight' or 'row'")
        refuse_no_number("rounds", self.rounds, least=1, whole=True)
        refuse_no_number("share", self.share)
        if not 0 < self.share <= 1:
            raise ValueError(f"share is {self.share}; it must lie in (0, 1]")

    @torch.no_grad()
    def __call__(self, layer: Layer, posterior: dist.Normal, gain: Tensor) -> Tensor:
        """Factors of one layer, 0 or 1."""
        active = gain > 0
        change = delta_f(posterior, dist.Normal(0.0, 1.0), dist.Normal(0.0, SPIKE)).where(active, 0.0)
        if self.group == "row":
            change, active = change.sum(1, keepdim=True), active.any(1, keepdim=True)
        zeta = inclusion_threshold(change[active], excluded=int((~active).sum()), rounds=self.rounds)
        pruned = active & (change > zeta)
        most = max(1, int(self.share * int(active.sum())))
        if int(pruned.sum()) > most:
            worst = change.where(pruned, -torch.inf).flatten().topk(most).indices
            pruned = torch.zeros_like(pruned).flatten().index_fill(0, worst, True).view_as(pruned)
        return (active & ~pruned).to(gain).expand_as(gain)


@dataclass(frozen=True)
class HorseshoeRule:
    """Fit a hierarchical prior to the posterior, and give every weight the prior scale that results.

    The hyper-parameters h = (τ, λ, c) are fitted to the reduced evidence alone, without the data:
    max over q(h) of E_q[Σ_ij ΔF_ij(γ(h))] − KL(q(h) ‖ p(h)), where ΔF replaces the weight's current prior by N(0, γ²).
    The fitted gain is E_q[γ⁻²]^−½ = exp(E_q[log γ] − Var_q[log γ]), the scale in a weight's expected log-density, with
    log γ taken as normal. A reduction moves the logarithm of every gain by the share ``rate`` of its way there, so that
    the network adapts before weights leave. A gain may grow again, at most to 1. A weight is pruned if its gain falls
    below ``cut``, unless there is strong evidence (3 nats, odds of 20) that it is not 0 under its new scale.
    (The published code multiplies the gains of all rounds, and cuts at 1e-6.)

    Args:
        scales: the hierarchical prior of γ.
        cut: gain below which a weight is pruned, in units of the layer's scale, in [0, 1).
        steps: steps of Adam per reduction, at least 1; the learning rate falls from 0.1 to 0. With much fewer than 100
            the hyper-parameters stay where they start, and all weights shrink.
        rate: share of the way to the fitted gain, in (0, 1]; 1 takes the fitted gain at once.

    Raises:
        TypeError: ``cut`` or ``rate`` is no number, ``steps`` no whole number, or ``scales`` no function.
        ValueError: ``cut``, ``steps`` or ``rate`` is out of range; at a call, ``scales`` samples nothing.

    Reference:
        Marković, Friston and Kiebel 2023, section 3.2 and its published code.
    """

    scales: Scales = regularised_horseshoe
    cut: float = 0.1
    steps: int = 100
    rate: float = 0.25

    def __post_init__(self) -> None:
        for name, value in (("rate", self.rate), ("cut", self.cut)):
            refuse_no_number(name, value)
        if not 0 < self.rate <= 1:
            raise ValueError(f"rate is {self.rate}; it must lie in (0, 1]")
        if not 0 <= self.cut < 1:
            raise ValueError(f"cut is {self.cut}; it must lie in [0, 1), because no gain is above 1")
        refuse_no_number("steps", self.steps, least=1, whole=True)
        refuse_unfit_scales(self.scales, ())

    def __call__(self, layer: Layer, posterior: dist.Normal, gain: Tensor) -> Tensor:
        """Factors of one layer."""
        # a last layer that is to be reduced needs a scale for every weight
        layer = replace(layer, last=False)
        active = gain > 0
        now = gain.where(active, 1.0)
        weights = dist.Normal(now * posterior.loc, now * posterior.scale.clamp(max=_WIDEST))
        prior = dist.Normal(0.0, now)
        center, variance = self._log_scales(layer, weights, prior, active)
        fitted = (center - variance).exp().clamp(max=1.0)
        scale = now ** (1 - self.rate) * fitted**self.rate
        with torch.no_grad():
            without, shrunk = (delta_f(weights, prior, dist.Normal(0.0, other)) for other in (SPIKE, scale))
        needed = (scale >= self.cut) | (without - shrunk <= -_STRONG)
        return (scale / now).where(active & needed, 0.0)

    def _log_scales(
        self, layer: Layer, weights: dist.Normal, prior: dist.Normal, active: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Fit q(h), and return the mean and the variance of log γ under it."""

        def evidence() -> None:
            change = delta_f(weights, prior, dist.Normal(0.0, self.scales(layer).clamp(max=1.0)))
            pyro.factor("evidence", change.where(active, 0.0).sum())

        guide, elbo = MeanField(lambda: self.scales(layer), init_scale=0.5), MeanFieldELBO()
        optimizer = torch.optim.Adam(guide.parameters(), lr=0.1)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, self.steps)
        with pyro.validation_enabled(False), poutine.block():
            for _ in range(self.steps):
                optimizer.zero_grad()
                # .forward bypasses the parameter store, where another guide has the same names
                elbo.differentiable_loss(evidence, guide.forward).backward()
                optimizer.step()
                schedule.step()
            with torch.no_grad():
                mean, squares = torch.zeros_like(prior.scale), torch.zeros_like(prior.scale)
                for number in range(1, _DRAWS + 1):
                    draw = poutine.trace(guide.forward).get_trace()
                    step = poutine.replay(self.scales, trace=draw)(layer).log() - mean
                    mean = mean + step / number
                    squares = squares + (1 - 1 / number) * step**2
        return mean, squares / (_DRAWS - 1)


_DRAWS = 64
"""Number of draws of the hyper-parameters that estimate the mean and the variance of log γ."""

_STRONG = 3.0
"""Nats of evidence against 0 with which a weight stays, however small its gain (Kass and Raftery 1995: "strong")."""

_WIDEST = 1.1**-0.5
"""A posterior's largest scale, in units of its prior's: a wider one would be next to no data, and ΔF of a wider prior
would follow the noise of its mean."""
