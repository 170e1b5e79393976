"""Distributions of a structure's gain θ: log-uniform prior, truncated log-normal posterior, their KL.

Start with `TruncatedLogNormal`; `TruncatedNormal` is the distribution of log θ that everything is computed from.
"""

from bmrs_pyro.distributions import kl as kl
from bmrs_pyro.distributions.by_name import refuse_unnamed as refuse_unnamed
from bmrs_pyro.distributions.interval import PRIOR_HIGH as PRIOR_HIGH
from bmrs_pyro.distributions.interval import PRIOR_LOW as PRIOR_LOW
from bmrs_pyro.distributions.interval import IntervalDistribution as IntervalDistribution
from bmrs_pyro.distributions.log_uniform import LogUniform as LogUniform
from bmrs_pyro.distributions.truncated_log_normal import TruncatedLogNormal as TruncatedLogNormal
from bmrs_pyro.distributions.truncated_normal import TruncatedNormal as TruncatedNormal
from bmrs_pyro.distributions.wrappers import Unwrapped as Unwrapped
from bmrs_pyro.distributions.wrappers import unwrapped as unwrapped
