"""Tasks that need no download: the demonstration, and those that no recipe was tuned on."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
