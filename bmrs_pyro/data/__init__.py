"""Image classification data, held in memory and served in normalised batches.

Start with :func:`load`, which reads a named set, an ``.npz`` file or an image folder into
:class:`Splits`, and :class:`Batches`, which serves one part of it. Whatever is wrong with the data ends
in a :class:`DataError` of one line.
"""

from bmrs_pyro.data.augmentation import Augmentation as Augmentation
from bmrs_pyro.data.batches import Batches as Batches
from bmrs_pyro.data.dataset import DataError as DataError
from bmrs_pyro.data.dataset import Dataset as Dataset
from bmrs_pyro.data.dataset import Splits as Splits
from bmrs_pyro.data.loading import load as load
from bmrs_pyro.data.splitting import stratified_split as stratified_split
