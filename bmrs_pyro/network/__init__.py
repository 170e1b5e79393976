"""Networks whose structures have gains: from :func:`find_structures` to :func:`compact`."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
