"""The mean-field ELBO without the work that a closed KL makes superfluous."""

from __future__ import annotations

__all__ = ["MeanFieldELBO", "NonFiniteLoss"]

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer import TraceMeanField_ELBO
from pyro.infer.util import is_validation_enabled, torch_item
from pyro.poutine.util import prune_subsample_sites
from pyro.util import check_model_guide_match, check_site_shape
from torch import Tensor
from torch.distributions import kl_divergence


class NonFiniteLoss(ArithmeticError):
    """The loss is NaN or infinite; the message names the first site or input that is."""


class MeanFieldELBO(TraceMeanField_ELBO):
    """E_q[log p(y | θ)] − Σ KL(q(θ_f) ‖ p(θ_f)), every KL in closed form.

    Equal to :class:`pyro.infer.TraceMeanField_ELBO` in value and gradient. That one evaluates the log-densities
    of all latent sites and, where a KL has no closed form, turns to Monte Carlo without a word; this one never
    evaluates them, and raises instead. A loss that is not finite raises before any weight is touched.

    Raises:
        NotImplementedError: a site's KL has no closed form.
        NonFiniteLoss: the loss is NaN or infinite.
    """

    def _get_trace(
        self, model: Callable[..., Any], guide: Callable[..., Any], args: Any, kwargs: Any
    ) -> tuple[poutine.Trace, poutine.Trace]:
        guide_trace = poutine.trace(guide, graph_type="flat").get_trace(*args, **kwargs)
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace), graph_type="flat").get_trace(
            *args, **kwargs
        )
        if is_validation_enabled():
            check_model_guide_match(model_trace, guide_trace, self.max_plate_nesting)
        guide_trace = prune_subsample_sites(guide_trace)
        model_trace = prune_subsample_sites(model_trace)
        model_trace.compute_log_prob(lambda name, site: site["is_observed"])
        if is_validation_enabled():
            for site in model_trace.nodes.values():
                if site["type"] == "sample" and site["is_observed"]:
                    check_site_shape(site, self.max_plate_nesting)
        return model_trace, guide_trace

    def _differentiable_loss_particle(
        self, model_trace: poutine.Trace, guide_trace: poutine.Trace
    ) -> tuple[float, Tensor]:
        terms: dict[str, Tensor] = {}
        for name, site in model_trace.nodes.items():
            if site["type"] != "sample":
                continue
            if site["is_observed"]:
                terms[name] = site["log_prob_sum"]
            else:
                terms[name] = -_divergence(name, guide_trace.nodes[name], site)
        loss = -sum(terms.values(), torch.zeros(()))
        value: float = torch_item(loss)
        if not math.isfinite(value):
            raise NonFiniteLoss(f"the loss is {value}: {_culprit(terms, model_trace)}")
        return value, loss


def _divergence(name: str, guide_site: Mapping[str, Any], model_site: Mapping[str, Any]) -> Tensor:
    posterior, prior = guide_site["fn"], model_site["fn"]
    try:
        divergence = kl_divergence(posterior, prior)
    except NotImplementedError:
        raise NotImplementedError(
            f"site {name!r}: no closed KL from {posterior} to {prior}; register one with "
            "torch.distributions.register_kl or use pyro.infer.TraceMeanField_ELBO"
        ) from None
    return scale_and_mask(divergence, guide_site["scale"], guide_site["mask"]).sum()


def _culprit(terms: dict[str, Tensor], model_trace: poutine.Trace) -> str:
    arguments = model_trace.nodes["_INPUT"]["args"]
    for position, argument in enumerate(arguments):
        for tensor in argument if isinstance(argument, tuple) else (argument,):
            if isinstance(tensor, Tensor) and not torch.isfinite(tensor).all():
                return f"argument {position} of the model (the data) holds NaN or inf"
    for name, term in terms.items():
        if not torch.isfinite(term):
            kind = "log-likelihood" if model_trace.nodes[name]["is_observed"] else "KL"
            return f"the {kind} of site {name!r} is {term.item()}"
    return "the terms are finite, their sum is not"
