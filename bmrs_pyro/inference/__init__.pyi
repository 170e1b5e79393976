from .elbo import MeanFieldELBO as MeanFieldELBO
from .elbo import NonFiniteLoss as NonFiniteLoss
from .guide import AutoTruncatedLogNormal as AutoTruncatedLogNormal
from .guide_posteriors import posteriors as posteriors
from .kl_weight import KLWeight as KLWeight
from .likelihoods import SmoothedLikelihood as SmoothedLikelihood
from .model import SupervisedModel as SupervisedModel
