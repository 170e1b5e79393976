"""Networks whose structures have gains: from :func:`find_structures` to :func:`compact`."""

from bmrs_pyro.network.compaction import compact as compact
from bmrs_pyro.network.complexity import Complexity as Complexity
from bmrs_pyro.network.complexity import complexity as complexity
from bmrs_pyro.network.complexity import cost_shares as cost_shares
from bmrs_pyro.network.cost_model import CostModel as CostModel
from bmrs_pyro.network.cost_model import cost_model as cost_model
from bmrs_pyro.network.discovery import find_structures as find_structures
from bmrs_pyro.network.feature_selection import FeatureSelection as FeatureSelection
from bmrs_pyro.network.noisy import NoisyNetwork as NoisyNetwork
from bmrs_pyro.network.norms import writer_norms as writer_norms
from bmrs_pyro.network.reach import reachable as reachable
from bmrs_pyro.network.removal import Removal as Removal
from bmrs_pyro.network.structures import LeftOut as LeftOut
from bmrs_pyro.network.structures import Member as Member
from bmrs_pyro.network.structures import Structure as Structure
from bmrs_pyro.network.structures import Structures as Structures
