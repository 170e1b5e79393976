"""Labelled data, held in memory and served in normalised batches, or given item by item by a torch Dataset.

Start with :func:`load`, which reads a named set, an ``.npz`` file, a table or an image folder into
:class:`Splits`, and :class:`Batches`, which serves one part of it. Whatever is wrong with the data ends
in a :class:`DataError` of one line.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
