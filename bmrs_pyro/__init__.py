"""bmrs_pyro: Bayesian structured pruning of PyTorch networks, written in Pyro.

Hand over a network: :class:`NoisyNetwork` gives every structure of it a random gain, :class:`SupervisedModel` and
:class:`AutoTruncatedLogNormal` make it a Pyro model and guide, :func:`fit` trains and prunes it, and
:func:`compact` returns a smaller, plain ``nn.Module``. The README shows all of it in fifteen lines.

Names are imported when they are first used, so that ``import bmrs_pyro`` costs next to nothing.
"""

from importlib.metadata import version as _version

import lazy_loader as _lazy

from bmrs_pyro.renamed import with_old_names

_lookup, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
__getattr__ = with_old_names(__name__, _lookup)
__version__ = _version("bmrs-pyro")
