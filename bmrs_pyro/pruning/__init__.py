"""Pruning in one call: :func:`prune` trains, prunes and chooses; what it returns can be saved and reported.

The one room that knows both training and reporting, so that results can have methods for either.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
