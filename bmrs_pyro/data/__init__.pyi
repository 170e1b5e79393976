from .augmentation import Augmentation as Augmentation
from .batches import Batches as Batches
from .dataset import DataError as DataError
from .dataset import Dataset as Dataset
from .dataset import Splits as Splits
from .loading import load as load
from .source import DataSource as DataSource
from .splitting import stratified_split as stratified_split
