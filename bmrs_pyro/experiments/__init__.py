"""Experiments: what the sources did, and what a step costs; imported by their commands alone."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
