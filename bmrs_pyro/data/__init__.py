"""Labelled data: in memory, served in normalised batches, or item by item from a torch Dataset.

Start with :func:`load`, which reads a named set, an ``.npz`` file, a table or an image folder into
:class:`Splits`, and :class:`Batches`, which serves one part of it. Data that cannot be used raise a
:class:`DataError` with a message of one line.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
