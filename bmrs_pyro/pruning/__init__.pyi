from .one_call import prune as prune
from .pruned import Pruned as Pruned
