"""The benchmark suite: what a step, a run, a decision and a removal cost."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
