"""The BMRS poster's networks and data sets: its table, and other studies of them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
