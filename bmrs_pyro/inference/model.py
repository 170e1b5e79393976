"""A network with random gains as a Pyro model of labelled data."""

from __future__ import annotations

__all__ = ["SupervisedModel"]

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.ops.provenance import detach_provenance
from pyro.params.param_store import StateDict
from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.messenger import Messenger
from pyro.poutine.replay_messenger import ReplayMessenger
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor, nn

from bmrs_pyro.distributed import GlobalBatch
from bmrs_pyro.distributions import LogUniform
from bmrs_pyro.inference.draws import FEW_READ, SHARED, Draws, draws_of, parse_draws
from bmrs_pyro.inference.function_parameters import with_parameters
from bmrs_pyro.inference.kl_weight import KLWeight
from bmrs_pyro.inference.likelihoods import Likelihood, as_likelihood, given_each
from bmrs_pyro.inference.observations import log_likelihoods, observed
from bmrs_pyro.inference.packing import FamilyPrior
from bmrs_pyro.network import NoisyNetwork
from bmrs_pyro.network.inputs import batch_size
from bmrs_pyro.network.nested import map_leaves
from bmrs_pyro.network.noisy import refuse_several_draws
from bmrs_pyro.network.row_check import MOST_UNDECIDED, tried_rows
from bmrs_pyro.network.row_trial import RowsUndecided

Inputs = Any  # what a NoisyNetwork is called with: a tensor, a tuple or dict of inputs


class _Rows(Messenger):
    """A plate over the rows of a batch that scales every site by its own factor.

    :class:`pyro.plate` does the same, but also samples a site for the indices and broadcasts distributions that
    already have the batch's shape. That takes a tenth of a step of a small network.

    Args:
        name: name of the plate.
        size: number of rows; None for no plate, only the factors.
        factors: factor of the log-probability (and KL) of each site, by site name.
    """

    def __init__(self, name: str, size: int | None, factors: Mapping[str, float]) -> None:
        super().__init__()
        self.frames = () if size is None else (CondIndepStackFrame(name, -1, size, 0),)
        self.factors = factors

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        msg["scale"] = msg["scale"] * self.factors[msg["name"]]
        msg["cond_indep_stack"] = self.frames + msg["cond_indep_stack"]


class _Draws(_Rows):
    """The rows of the gains' draws; warns of a guide whose sites have another scale than the model's."""

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        name = msg["name"]
        if name != next(iter(self.factors)):  # one site tells
            return
        for handler in _PYRO_STACK:
            guide = handler.trace if isinstance(handler, ReplayMessenger) else None
            if guide is None or name not in guide:
                continue
            ratio = float(guide.nodes[name]["scale"]) / float(msg["scale"])
            if not math.isclose(ratio, 1, rel_tol=1e-3):
                warnings.warn(
                    f"the guide counts site {name!r} {ratio:.3g} times as often as the model does, so that its "
                    "posterior is not the model's. A guide by hand samples gains in `with "
                    "model.latent(model.draw_shape(x)):`; for other guides give SupervisedModel(..., draws='batch', "
                    "kl_weight='elbo')",
                    stacklevel=2,
                )


class SupervisedModel(nn.Module):
    """p(y | x, θ) p(θ): every structure's gain has the prior, the network's output feeds the likelihood.

    θ_f ~ prior for every family f, independently for each of its C_f structures, and
    y_i ~ likelihood(network(x_i, θ_i)). With ``draws="example"`` every example of a batch has its own draw of θ, and
    with ``"batch"`` all examples share one. With ``draws=16`` they share 16 draws, or a few more if 16 does not divide
    the batch; example i uses draw i mod 16. The expected loss is the same, but the gradient variance differs.

    Args:
        network: the network with its gains as arguments.
        likelihood: a name, see :func:`as_likelihood`, or a function or module that maps the network's outputs to a
            distribution with batch shape ``(batch,)``, such as ``lambda logits: dist.Categorical(logits=logits)``, or
            ``lambda out: dist.Categorical(logits=out.logits)``. Its parameters, those of an nn.Module, of
            ``pyro.param`` or of modules that a function refers to (by its closure, ``functools.partial`` or as a
            bound method), are trained too.
        num_data: N, the number of training examples; a batch of B examples counts N/B times.
        prior: prior of every gain.
        draws: ``"example"``, ``"batch"``, a number of draws per batch, or ``"auto"``. The last means 16 if the network
            reads fewer than 4 numbers per gain and example, as an MLP does, because draws per example would cost as
            much as the network; else ``"example"``. The first batch decides this. It also shows whether every example
            keeps its row of the batch wherever a gain is multiplied; if not, draws become ``"batch"``, with a warning.
            With recurrent layers or fused experts draws are always ``"batch"``, because gains multiply weights.
            Only ``"batch"`` with the KL weight ``"elbo"`` is a joint distribution of gains and labels: MCMC, importance
            sampling and Pyro's own guides need it.
        kl_weight: see :class:`KLWeight`; ``"elbo"`` is the evidence lower bound.
        mixed_precision: run the network's matrix products and convolutions in bfloat16; weights, outputs and gains
            keep their precision.

    Attributes:
        register_weights: whether a call registers the network's weights in Pyro's parameter store. True works with any
            Pyro optimiser. :class:`JointOptim` holds the weights itself and does not need it, which saves 25 µs per
            weight tensor and step.
        compiled: the network's forward, compiled by torch.compile, for training steps; None if it is not compiled.
        stored: parameters that :func:`fit` left in Pyro's store and that no module holds, such as a likelihood's.
        global_batch: says which rows of a batch this process has, while :func:`fit` trains in several processes.

    Raises:
        ValueError: ``num_data`` is not positive, ``draws`` or ``kl_weight`` is unknown, or there are several priors; at
            a call, the likelihood's batch shape is not ``(batch,)`` or its values have another shape than ``y``.
        TypeError: ``network`` is not a NoisyNetwork, or ``prior`` is not a LogUniform.
    """

    def __init__(
        self,
        network: NoisyNetwork,
        likelihood: str | Likelihood,
        num_data: int,
        *,
        prior: LogUniform | None = None,
        draws: Draws | str = "auto",
        kl_weight: KLWeight | str | float | tuple[str, float] = "elbo",
        mixed_precision: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(network, NoisyNetwork):
            raise TypeError(
                f"network is a {type(network).__name__}; wrap it first: NoisyNetwork(net, example_input)"
            )
        prior = LogUniform(math.exp(-20.0), 1.0) if prior is None else prior
        if not isinstance(prior, LogUniform):
            raise TypeError(f"prior is a {type(prior).__name__}; a gain's prior is a LogUniform(low, high)")
        if prior.batch_shape:
            raise ValueError(
                f"prior is {prior}, of shape {tuple(prior.batch_shape)}; all gains have one prior, so give two numbers"
            )
        if isinstance(num_data, bool) or not hasattr(num_data, "__index__") or num_data < 1:
            raise ValueError(f"num_data is {num_data!r}; it is the number of training examples, at least 1")
        self.network = network
        self.likelihood = with_parameters(as_likelihood(likelihood), network)
        self.num_data = num_data
        self.prior = prior
        self.draws: Draws = "batch" if network.recurs else parse_draws(draws)
        self.kl_weight = KLWeight.parse(kl_weight)
        self.kl_scales = dict(self.kl_weight.scales(network, num_data))
        self.mixed_precision = mixed_precision
        self.register_weights = True
        self.compiled: Callable[[Inputs, Mapping[str, Tensor]], Any] | None = None
        self.global_batch: GlobalBatch | None = None
        self.stored: StateDict = {"params": {}, "constraints": {}}
        self._rows_checked = False
        self._near = prior, prior
        self._priors: dict[tuple[str, int, torch.Size], FamilyPrior] = {}

    def draw_shape(self, x: Inputs) -> torch.Size:
        """Return the shape of this process's independent θ draws for a batch: ``(draws,)`` or ``()``."""
        count, whole = self.draw_count(x), self.global_batch
        if count is None:
            return torch.Size()
        return torch.Size([count if whole is None else whole.local_draws(count)])

    def draw_count(self, x: Inputs) -> int | None:
        """Return the number of θ draws for a batch, over all processes; None if all examples share one."""
        if self.draws != "batch" and not self._rows_checked:
            refuse_several_draws()
            self._check_rows(x, _examples(x))
        if self.draws == "batch":
            return None
        return draws_of(_examples(x) if self.global_batch is None else self.global_batch.total, self.draws)

    def latent(self, draws: torch.Size) -> AbstractContextManager[object]:
        """Return the plate of the draws with the KL weights; model *and* guide sample θ inside it.

        Mean-field ELBOs read the weight of a KL from the guide's site, and the size of a batch may change. So plate
        and weights are made again at every call.
        """
        count = draws.numel()
        factors = {name: scale / count for name, scale in self.kl_scales.items()}
        return _Draws("draws", count if draws else None, factors)

    def forward(self, x: Inputs, y: Tensor | None = None) -> Tensor:
        """Sample θ and y, or score the observed ``y`` of shape ``(batch, ...)``."""
        self._register()
        draws = self.draw_shape(x)
        with self.latent(draws):
            theta = {s.name: pyro.sample(s.name, self._prior(s.name, s.size, draws)) for s in self.structures}
        distribution = self._distribution(x, theta)
        if y is not None:
            y = observed(distribution, y)
        with _Rows("data", distribution.batch_shape[0], {"y": self._repeats(distribution)}):
            return pyro.sample("y", distribution, obs=y)

    def log_likelihood(self, x: Inputs, y: Tensor, theta: Mapping[str, Tensor]) -> Tensor:
        """Return a batch's estimate of Σ log p(y | x, θ) over all N examples, in nats, without Pyro sites."""
        self._register()
        distribution = self._distribution(x, theta)
        return self._repeats(distribution) * log_likelihoods(distribution, y).sum()

    def prior_on(self, device: torch.device) -> LogUniform:
        """Return the prior with its bounds on a device; the same object until prior or device changes."""
        prior, near = self._near
        if prior is not self.prior or near.low.device != device:
            near = LogUniform(self.prior.low.to(device), self.prior.high.to(device))
            self._near = self.prior, self.prior if self.prior.low.device == device else near
        return self._near[1]

    @property
    def structures(self) -> Sequence[Any]:
        """The structure families whose gains are random."""
        return self.network.structures

    def _distribution(self, x: Inputs, theta: Mapping[str, Tensor]) -> dist.TorchDistribution:
        run = self.compiled or self.network
        if self.mixed_precision:
            device = next(self.network.parameters()).device
            with torch.autocast(device.type, torch.bfloat16):
                outputs = map_leaves(_single, run(x, theta))
        else:
            outputs = run(x, theta)
        return self.likelihood_of(outputs)

    def likelihood_of(self, outputs: Any) -> dist.TorchDistribution:
        """Return the distribution of y, with batch shape ``(batch,)``, given the network's outputs."""
        return given_each(self.likelihood, outputs)

    def _repeats(self, distribution: dist.TorchDistribution) -> float:
        """Return the number of training examples that each example of a batch stands for."""
        return self.num_data / distribution.batch_shape[0]

    def _prior(self, name: str, size: int, draws: torch.Size) -> FamilyPrior:
        key, prior = (name, size, draws), self.prior_on(next(self.network.parameters()).device)
        if key not in self._priors or self._priors[key].distribution is not prior:
            self._priors[key] = FamilyPrior(prior, draws, size)
        return self._priors[key]

    def _check_rows(self, x: Inputs, batch: int) -> None:
        try:
            with pyro.poutine.block():
                doubt, read = tried_rows(self.network, x, batch)
        except RowsUndecided:  # the call of the network on these inputs may raise the reason
            self.network.rows_undecided += 1
            self._rows_checked = self.network.rows_tried = self.network.rows_undecided >= MOST_UNDECIDED
            return
        self._rows_checked = self.network.rows_tried = True
        if self.draws == "auto":
            few = 0 < read < FEW_READ * sum(family.size for family in self.structures)
            self.draws = SHARED if few else "example"
        if doubt is not None:
            self.draws = "batch"
            warnings.warn(
                f"the network does not keep every example in its row ({doubt.reason}): the gradients of a trained "
                "network are computed for one example at a time, which is slow, and in training from scratch all "
                "examples of a batch share one draw of the gains (draws='batch')",
                stacklevel=3,
            )

    def _register(self) -> None:
        # pyro.module does the same, but warns of every frozen weight. It is silent if the store holds another tensor
        # under a weight's name, and then the network's own weight is never trained
        modules: dict[str, nn.Module] = {"network": self.network} if self.register_weights else {}
        if isinstance(self.likelihood, nn.Module):
            modules["likelihood"] = self.likelihood
        for part, module in modules.items():
            for name, parameter in module.named_parameters():
                stored = f"{part}$$${name}"
                if not parameter.requires_grad:
                    continue
                # pyro.render_model wraps the parameters that it tracks
                if detach_provenance(pyro.param(stored, parameter)) is not parameter:
                    raise RuntimeError(
                        f"Pyro's parameter store holds another tensor as {stored!r}: a second model in one "
                        "process, or a loaded store. Call pyro.clear_param_store(), or "
                        f"pyro.module('{part}', model.{part}, update_module_params=True) to take the stored weights"
                    )


def _examples(x: Inputs) -> int:
    batch = batch_size(x)
    if batch is None:
        raise ValueError("no tensor among the inputs begins with the batch; use draws='batch'")
    return batch


def _single(output: Any) -> Any:
    return output.float() if isinstance(output, Tensor) and output.is_floating_point() else output
