from .one_call import Pruned as Pruned
from .one_call import prune as prune
