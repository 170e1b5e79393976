"""Gaussian posteriors of single weights: the comparison of five methods, and weights pruned after structures."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
