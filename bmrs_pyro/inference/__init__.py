"""Inference: the Pyro model, its guide, the ELBO and the likelihoods.

Start with :class:`SupervisedModel` and :class:`AutoTruncatedLogNormal`; :func:`posteriors` reads the gains of a guide.
"""

import lazy_loader

from bmrs_pyro.renamed import with_old_names

_lookup, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__getattr__ = with_old_names(__name__, _lookup)
