"""bmrs_pyro: Bayesian structured pruning of PyTorch networks, written in Pyro.

Hand over a network: :class:`NoisyNetwork` gives every structure of it a random gain, :class:`SupervisedModel` and
:class:`AutoTruncatedLogNormal` make it a Pyro model and guide, :func:`fit` trains and prunes it, and
:func:`compact` returns a smaller, plain ``nn.Module``. The README shows all of it in fifteen lines.
"""

from importlib.metadata import version as _version

from bmrs_pyro.distributions import LogUniform as LogUniform
from bmrs_pyro.distributions import TruncatedLogNormal as TruncatedLogNormal
from bmrs_pyro.inference import AutoTruncatedLogNormal as AutoTruncatedLogNormal
from bmrs_pyro.inference import Checkpoint as Checkpoint
from bmrs_pyro.inference import History as History
from bmrs_pyro.inference import JointOptim as JointOptim
from bmrs_pyro.inference import KLWeight as KLWeight
from bmrs_pyro.inference import Limits as Limits
from bmrs_pyro.inference import MeanFieldELBO as MeanFieldELBO
from bmrs_pyro.inference import SupervisedModel as SupervisedModel
from bmrs_pyro.inference import fit as fit
from bmrs_pyro.inference import linear_decay as linear_decay
from bmrs_pyro.inference import load as load
from bmrs_pyro.inference import load_weights_ as load_weights_
from bmrs_pyro.inference import posteriors as posteriors
from bmrs_pyro.inference import reestimate_batch_norm_ as reestimate_batch_norm_
from bmrs_pyro.inference import remove_structures_ as remove_structures_
from bmrs_pyro.network import Complexity as Complexity
from bmrs_pyro.network import FeatureSelection as FeatureSelection
from bmrs_pyro.network import NoisyNetwork as NoisyNetwork
from bmrs_pyro.network import Structure as Structure
from bmrs_pyro.network import compact as compact
from bmrs_pyro.network import complexity as complexity
from bmrs_pyro.network import find_structures as find_structures
from bmrs_pyro.reduction import ExpectedNoise as ExpectedNoise
from bmrs_pyro.reduction import KeepMask as KeepMask
from bmrs_pyro.reduction import ModelReduction as ModelReduction
from bmrs_pyro.reduction import SignalToNoise as SignalToNoise
from bmrs_pyro.reduction import WeightNorm as WeightNorm
from bmrs_pyro.reduction import bmrs_n as bmrs_n
from bmrs_pyro.reduction import bmrs_u as bmrs_u
from bmrs_pyro.reduction import delta_f as delta_f
from bmrs_pyro.reduction import low_precision as low_precision
from bmrs_pyro.reduction import register_delta_f as register_delta_f
from bmrs_pyro.reduction import select as select
from bmrs_pyro.reduction import spike as spike

__version__ = _version("bmrs-pyro")
