"""Networks of falling size: the regularisation path, the reduction of a trained network, and the choice by a target."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
