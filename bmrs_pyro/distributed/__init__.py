"""Distributed: process groups, batches and batch norm shared by several processes, and their launch."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
