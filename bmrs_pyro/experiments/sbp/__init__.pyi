from . import lenets as lenets
from . import random_labels as random_labels
from . import vgg as vgg
