"""Reporting: evaluation on held-out data, questions to the posteriors, latency, tables and figures."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
