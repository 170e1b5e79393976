"""Pruning in one call: :func:`prune` trains, prunes and chooses; its result can be saved and reported.

Only this room imports both training and reporting, so that results have methods for both.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
