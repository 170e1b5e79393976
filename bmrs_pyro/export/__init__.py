"""Export: files of the small network that run elsewhere, each checked by running it.

Start with :func:`export_run`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
