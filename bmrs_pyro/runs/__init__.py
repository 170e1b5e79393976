"""Runs: a run directory, its configuration and data, and the networks that it gives back."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
