"""Weights: Gaussian posteriors for every weight of a network, pruned by Bayesian model reduction.

Start with :class:`WeightModel`, :class:`MeanField` and :func:`fit_weights` with the rule :class:`SpikeAndSlab`;
:func:`mean_network` and :func:`empty_structures` turn the remaining weights into a smaller plain network.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
