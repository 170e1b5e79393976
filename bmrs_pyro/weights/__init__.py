"""Weights: Gaussian posteriors for every weight of a network, pruned by Bayesian model reduction.

Start with :class:`WeightModel`, :class:`MeanField` and :func:`fit_weights` with the rule :class:`SpikeAndSlab`;
:func:`mean_network` and :func:`empty_structures` turn what is left into a smaller plain network.
"""

from bmrs_pyro.weights.adabelief import AdaBelief as AdaBelief
from bmrs_pyro.weights.estimators import Estimator as Estimator
from bmrs_pyro.weights.estimators import Flipout as Flipout
from bmrs_pyro.weights.estimators import LocalReparameterization as LocalReparameterization
from bmrs_pyro.weights.guide import MeanField as MeanField
from bmrs_pyro.weights.guide import PointEstimate as PointEstimate
from bmrs_pyro.weights.layers import Layer as Layer
from bmrs_pyro.weights.layers import weight_layers as weight_layers
from bmrs_pyro.weights.model import WeightModel as WeightModel
from bmrs_pyro.weights.prediction import mean_network as mean_network
from bmrs_pyro.weights.prediction import predictive as predictive
from bmrs_pyro.weights.pruning import reduce_ as reduce_
from bmrs_pyro.weights.pruning import weight_posteriors as weight_posteriors
from bmrs_pyro.weights.rules import HorseshoeRule as HorseshoeRule
from bmrs_pyro.weights.rules import Rule as Rule
from bmrs_pyro.weights.rules import SpikeAndSlab as SpikeAndSlab
from bmrs_pyro.weights.rules import inclusion_threshold as inclusion_threshold
from bmrs_pyro.weights.scales import layer_scale as layer_scale
from bmrs_pyro.weights.scales import regularised_horseshoe as regularised_horseshoe
from bmrs_pyro.weights.structures import empty_structures as empty_structures
from bmrs_pyro.weights.training import WeightEpoch as WeightEpoch
from bmrs_pyro.weights.training import fit_weights as fit_weights
