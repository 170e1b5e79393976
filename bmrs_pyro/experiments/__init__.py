"""Experiments: those of the sources, and the cost of a training step; only their commands import them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
