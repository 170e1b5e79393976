"""Bayesian model reduction: reduced priors, ΔF, criteria, and the decision which structures to keep.

Start with `select(posteriors, prior, bmrs_n())`.
"""

from typing import Any

from bmrs_pyro.reduction.budget import Cost as Cost
from bmrs_pyro.reduction.budget import JointScores as JointScores
from bmrs_pyro.reduction.budget import rounded as rounded
from bmrs_pyro.reduction.budget import within_budget as within_budget
from bmrs_pyro.reduction.criteria import Criterion as Criterion
from bmrs_pyro.reduction.criteria import ExpectedGain as ExpectedGain
from bmrs_pyro.reduction.criteria import JointCriterion as JointCriterion
from bmrs_pyro.reduction.criteria import ModelReduction as ModelReduction
from bmrs_pyro.reduction.criteria import SignalToNoise as SignalToNoise
from bmrs_pyro.reduction.criteria import WeightNorm as WeightNorm
from bmrs_pyro.reduction.criteria import bmrs_n as bmrs_n
from bmrs_pyro.reduction.criteria import bmrs_u as bmrs_u
from bmrs_pyro.reduction.criteria import refuse_no_criterion as refuse_no_criterion
from bmrs_pyro.reduction.decision import Decision as Decision
from bmrs_pyro.reduction.evidence import delta_f as delta_f
from bmrs_pyro.reduction.evidence import register_delta_f as register_delta_f
from bmrs_pyro.reduction.gaussian import reduced_posterior as reduced_posterior
from bmrs_pyro.reduction.joint_loss import JointLoss as JointLoss
from bmrs_pyro.reduction.keep_mask import KeepMask as KeepMask
from bmrs_pyro.reduction.monte_carlo import Estimate as Estimate
from bmrs_pyro.reduction.monte_carlo import monte_carlo_delta_f as monte_carlo_delta_f
from bmrs_pyro.reduction.named import criterion_name as criterion_name
from bmrs_pyro.reduction.named import named_criterion as named_criterion
from bmrs_pyro.reduction.reduced_priors import low_precision as low_precision
from bmrs_pyro.reduction.reduced_priors import spike as spike
from bmrs_pyro.reduction.selection import score_structures as score_structures
from bmrs_pyro.reduction.selection import select as select
from bmrs_pyro.renamed import with_old_names


def _no_such_name(name: str) -> Any:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__getattr__ = with_old_names(__name__, _no_such_name)
