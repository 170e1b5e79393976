"""Training without gains: steps of SGD or AdamW in one cycle of the learning rate that ends at 0."""

from __future__ import annotations

__all__ = ["PlainSteps"]

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from bmrs_pyro.distributions import unwrapped
from bmrs_pyro.inference.elbo import NonFiniteLoss
from bmrs_pyro.inference.inputs import gaps, inputs_on, is_finite, not_running, outputs_of, pairs
from bmrs_pyro.inference.likelihoods import Likelihood
from bmrs_pyro.inference.observations import log_likelihoods, observed, unfit_parameters, validated
from bmrs_pyro.inference.outcomes import Outcome, labels_counted
from bmrs_pyro.network.nested import map_leaves
from bmrs_pyro.network.removal import Removal
from bmrs_pyro.network.untouched import deep_copy
from bmrs_pyro.training.batch_norm import lone_example
from bmrs_pyro.training.cycle import Cycle
from bmrs_pyro.training.loop import Batches
from bmrs_pyro.training.shuffling import set_epoch


class PlainSteps:
    """The steps of one cycle; structures may be removed from the network between steps.

    Args:
        net: the network.
        likelihood: likelihood of y given the outputs; trained too if it is a module.
        loader: training batches of one pass.
        total: number of steps in the cycle.
        cycle: optimiser and learning rates.
        watch: called with every step's loss.
        teacher: network for distillation, with half the weight of the loss; None for no distillation.

    Raises:
        ValueError: there are steps, but no weights to train.
    """

    def __init__(
        self,
        net: nn.Module,
        likelihood: Likelihood,
        loader: Batches,
        total: int,
        cycle: Cycle,
        watch: Callable[[float], object] = lambda loss: None,
        teacher: nn.Module | None = None,
    ) -> None:
        self.net, self.likelihood, self.total, self.cycle = net, likelihood, total, cycle
        self.watch, self.done = watch, 0
        self.loader, self.batches, self.rate = loader, _endless(loader, 0), 0.0
        self.names = {weight: name for name, weight in net.named_parameters() if weight.requires_grad}
        extra = likelihood.parameters() if isinstance(likelihood, nn.Module) else ()
        weights = [{"params": [*self.names, *extra]}]  # a group, which may be empty
        if total and not weights[0]["params"]:
            raise ValueError(
                "all weights are frozen (requires_grad=False): unfreeze some, or make the cuts alone with epochs=0"
            )
        self.optimizer: torch.optim.Optimizer = (
            torch.optim.AdamW(weights, cycle.peak, weight_decay=cycle.weight_decay)
            if cycle.optimizer == "adamw"
            else torch.optim.SGD(
                weights, cycle.peak, momentum=0.9, nesterov=True, weight_decay=cycle.weight_decay
            )
        )
        self.teacher = None if teacher is None else deep_copy(teacher)  # the caller may go on training it
        if self.teacher is not None:
            self.teacher.to(next(net.parameters()).device).eval().requires_grad_(False)

    def make(self, until: int) -> None:
        """Make steps until ``until`` steps of the cycle are done.

        Raises:
            NonFiniteLoss: the loss is NaN or infinite.
            ValueError: the loader gives no batches.
        """
        self.net.train()
        device = next(self.net.parameters()).device
        while self.done < until:
            x, y = next(self.batches)
            where = f"step {self.done + 1} of {self.total}"
            self.rate = self.cycle.rate((self.done + 1) / (self.total + 1))
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate
            self.optimizer.zero_grad()
            try:
                loss, labels = self._loss(inputs_on(device, x), y.to(device))
                value = loss.item()
            except RuntimeError as error:
                raise ValueError(f"{where}: {not_running(x, error)}") from error
            except ValueError as error:  # a distribution may refuse the outputs of weights that diverged
                if lone := lone_example(error):
                    raise ValueError(f"{where}: {lone}") from None
                if not unfit_parameters(error):
                    raise
                value = math.nan
            if not math.isfinite(value):
                if not is_finite((x, y)):
                    raise NonFiniteLoss(f"{where}: {gaps('training data')}")
                raise NonFiniteLoss(
                    f"{where}: the loss is {value}; lower the learning rate ({self.cycle.peak}), or "
                    "clip the gradient"
                )
            (loss / labels).backward()
            if self.cycle.clip is not None:
                nn.utils.clip_grad_norm_(list(self.names), self.cycle.clip)
            self.optimizer.step()
            self.done += 1
            self.watch(value)

    def cut_(self, removal: Removal) -> None:
        """Drop the optimiser's moments of the removed structures."""
        for weight, name in self.names.items():
            if name in removal.cuts:
                state = self.optimizer.state.get(weight, {})
                for key, value in state.items():
                    if isinstance(value, Tensor) and value.dim():
                        state[key] = removal.cut(name, value)

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Return the optimiser's moments, by the number of the parameter."""
        state = self.optimizer.state_dict()["state"]
        return {
            str(number): {name: value for name, value in moments.items() if value is not None}
            for number, moments in state.items()
        }

    def resume_(self, done: int, epoch: int, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Continue after a number of steps and epochs, with the optimiser's moments of that time."""
        self.done, self.batches = done, _endless(self.loader, epoch)
        moments = {int(number): dict(values) for number, values in state.items()}
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})

    @validated()
    def _loss(self, x: Any, y: Tensor) -> tuple[Tensor, float]:
        """Return the mean of −log p(y | x), nats per example, and the mean number of labels per example.

        With a teacher, the first is averaged with the distillation loss. A learning rate fits the mean over labels,
        whether an example has one label or one for each pixel.
        """
        learned = self._predicted(self.net, x)
        loss = -log_likelihoods(learned, y).mean()
        labels = max(labels_counted(learned, y), 1) / len(y)
        if self.teacher is None:
            return loss, labels
        return (loss + _cross_entropy(self._taught(self.teacher, x), learned, y)) / 2, labels

    def _taught(self, teacher: nn.Module, x: Any) -> TorchDistribution:
        """Return the teacher's predictions.

        Raises:
            ValueError: it does not run on the batch, or its outputs are NaN or do not fit the likelihood.
        """
        try:
            with torch.no_grad():
                taught = self._predicted(teacher, x)
                outcome = Outcome.of(taught)
        except Exception as error:  # a teacher is any code
            why = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
            raise ValueError(
                f"the teacher does not predict the training batches ({why}); give a network with the same inputs and "
                "outputs, in the same precision"
            ) from error
        if any(part is not None and part.isnan().any() for part in (outcome.log_p, outcome.mean)):
            raise ValueError(
                "the teacher predicts NaN for a training batch; check its weights and its outputs"
            )
        return taught

    def _predicted(self, net: nn.Module, x: Any) -> TorchDistribution:
        device = next(self.net.parameters()).device
        with torch.autocast(device.type, torch.bfloat16, enabled=self.cycle.bfloat16):
            outputs = outputs_of(net, x)
        return self.likelihood(map_leaves(_to_float32, outputs) if self.cycle.bfloat16 else outputs)


def _to_float32(output: Any) -> Any:
    return output.float() if isinstance(output, Tensor) and output.is_floating_point() else output


def _cross_entropy(taught: TorchDistribution, learned: TorchDistribution, y: Tensor) -> Tensor:
    """Return the mean over examples of −E log p(y) under the teacher's classes, or of −log p(the teacher's mean).

    Labels that do not count, such as those at padding, do not count here either.
    """
    one, other = Outcome.of(taught), Outcome.of(learned)
    for its, ours in ((one.log_p, other.log_p), (one.mean, other.mean)):
        if its is not None and ours is not None and its.shape != ours.shape:
            raise ValueError(
                f"the teacher predicts values of shape {tuple(its.shape)} for a batch, and the network of "
                f"{tuple(ours.shape)}; give a teacher with the same outputs"
            )
    if one.log_p is not None and other.log_p is not None:
        each = -(one.log_p.exp() * other.log_p).sum(-1)
        return each[other.counted(other.labels(observed(learned, y)))].sum() / len(each)
    if one.mean is None:
        raise ValueError(f"a {type(taught).__name__} has neither classes nor a mean to teach")
    unwrapped(learned).base._validate_args = False  # the mean of counts is no count
    return -learned.log_prob(one.mean).mean()


def _endless(loader: Batches, first: int) -> Iterator[tuple[Any, Tensor]]:
    for epoch in itertools.count(first):
        set_epoch(loader, epoch)
        found = False
        for found_x, y in pairs(loader):
            if len(y):
                found = True
                yield found_x, y
        if not found:
            raise ValueError(
                "the loader gives no batches; can it be read only once, or is there less than a batch, with drop_last?"
            )
