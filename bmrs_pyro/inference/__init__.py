"""Inference: the Pyro model, its guide, the optimiser and the training loop.

Start with :class:`SupervisedModel`, :class:`AutoTruncatedLogNormal` and :func:`fit`; :func:`posteriors` reads the
gains of any guide.
"""

import lazy_loader

from bmrs_pyro.renamed import with_old_names

_lookup, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__getattr__ = with_old_names(__name__, _lookup)
