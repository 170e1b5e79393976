"""Inference: the Pyro model, its guide, the optimiser and the training loop.

Start with :class:`SupervisedModel`, :class:`AutoTruncatedLogNormal` and :func:`fit`; :func:`posteriors` reads the
gains of any guide.
"""

from bmrs_pyro.inference.batch_norm import reestimate_batch_norm_ as reestimate_batch_norm_
from bmrs_pyro.inference.checkpoint import Checkpoint as Checkpoint
from bmrs_pyro.inference.checkpoint import CheckpointError as CheckpointError
from bmrs_pyro.inference.checkpoint import TrainingState as TrainingState
from bmrs_pyro.inference.compilation import CompileError as CompileError
from bmrs_pyro.inference.compilation import compile_network_ as compile_network_
from bmrs_pyro.inference.compilation import compile_steps_ as compile_steps_
from bmrs_pyro.inference.decision import Decision as Decision
from bmrs_pyro.inference.elbo import MeanFieldELBO as MeanFieldELBO
from bmrs_pyro.inference.elbo import NonFiniteLoss as NonFiniteLoss
from bmrs_pyro.inference.freezing import frozen as frozen
from bmrs_pyro.inference.guide import AutoTruncatedLogNormal as AutoTruncatedLogNormal
from bmrs_pyro.inference.history import Epoch as Epoch
from bmrs_pyro.inference.history import History as History
from bmrs_pyro.inference.joining import first_alone as first_alone
from bmrs_pyro.inference.joining import joined as joined
from bmrs_pyro.inference.kl_weight import KLWeight as KLWeight
from bmrs_pyro.inference.label_smoothing import SmoothedLikelihood as SmoothedLikelihood
from bmrs_pyro.inference.limits import Limits as Limits
from bmrs_pyro.inference.loading import load as load
from bmrs_pyro.inference.loading import save_portable as save_portable
from bmrs_pyro.inference.model import SupervisedModel as SupervisedModel
from bmrs_pyro.inference.optim import JointOptim as JointOptim
from bmrs_pyro.inference.posteriors import posteriors as posteriors
from bmrs_pyro.inference.pretrained import WeightsError as WeightsError
from bmrs_pyro.inference.pretrained import load_weights_ as load_weights_
from bmrs_pyro.inference.process_group import LostProcess as LostProcess
from bmrs_pyro.inference.process_group import rank as rank
from bmrs_pyro.inference.process_group import world_size as world_size
from bmrs_pyro.inference.pruning import remove_structures_ as remove_structures_
from bmrs_pyro.inference.run_directory import RunConfig as RunConfig
from bmrs_pyro.inference.run_directory import RunDirectory as RunDirectory
from bmrs_pyro.inference.run_directory import RunError as RunError
from bmrs_pyro.inference.sealed import WriteError as WriteError
from bmrs_pyro.inference.sealed import write_atomically as write_atomically
from bmrs_pyro.inference.source import NetworkSource as NetworkSource
from bmrs_pyro.inference.source import SourceError as SourceError
from bmrs_pyro.inference.step_graph import refuse_unrecordable as refuse_unrecordable
from bmrs_pyro.inference.training import fit as fit
from bmrs_pyro.inference.training import linear_decay as linear_decay
from bmrs_pyro.inference.training import refuse_schedule as refuse_schedule
