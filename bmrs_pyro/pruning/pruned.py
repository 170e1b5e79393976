"""The result of pruning: a small network, and how it was found."""

from __future__ import annotations

__all__ = ["Pruned"]

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path as FilePath
from typing import Any

import pyro
from pyro.distributions import TorchDistribution
from torch import nn

from bmrs_pyro.distributions import TruncatedLogNormal
from bmrs_pyro.files import refuse_unwritable, write_atomically
from bmrs_pyro.inference import SupervisedModel
from bmrs_pyro.inference.likelihoods import Likelihood
from bmrs_pyro.path import Choice, Path, PathPoint, Target, TrainedPath, choose
from bmrs_pyro.path.point import told
from bmrs_pyro.reporting import path_report
from bmrs_pyro.runs import save_choice
from bmrs_pyro.training.options import refuse_unknown


@dataclass(frozen=True)
class Pruned:
    """A small network, and how it was found.

    Attributes:
        path: all networks on the path.
        choice: the chosen network, the target, and whether the network meets it.
    """

    path: Path
    choice: Choice

    @classmethod
    def of(cls, path: Path, target: Target) -> Pruned:
        """Choose a network of a path by a target; a trained network is reduced to it.

        Raises:
            TargetMissed: no network can meet the budgets, or none of the path is fast enough.
        """
        if isinstance(path, TrainedPath):
            return cls(*path.chosen(target))
        return cls(path, choose(path, target))

    def __repr__(self) -> str:
        met = "meets its target" if self.met else "misses its target, the best that was found"
        lines = told({"unpruned": self.path.dense, "pruned": self.point})
        caution = [f"caution: {self.caution}"] if self.caution else []
        return "\n  ".join([f"Pruned network; it {met}", *lines, *caution])

    @property
    def network(self) -> nn.Module:
        """The small network, plain and in evaluation mode."""
        return self.choice.refit.history.network

    @property
    def point(self) -> PathPoint:
        """The costs of the small network and its scores on the validation data."""
        return self.choice.refit.point

    @property
    def posteriors(self) -> Mapping[str, TruncatedLogNormal]:
        """Posteriors of the remaining gains, by site name.

        Their means are folded into the network's weights. With ``trained=True`` they are not: there all gains are 1.
        """
        return self.choice.refit.guide.posteriors()

    @property
    def likelihood(self) -> Likelihood:
        """The likelihood of y given the network's outputs, with its trained parameters, such as a learned scale."""
        return _likelihood_of(self.choice.refit.model)

    @property
    def dense_likelihood(self) -> Likelihood:
        """The likelihood with the parameters that belong to the unpruned network, to score it with."""
        return _likelihood_of(self.path.trainee.model)

    @property
    def target(self) -> Target:
        """The target of the choice."""
        return self.choice.target

    @property
    def met(self) -> bool:
        """Whether the network meets the target; if not, it is the best network found."""
        return self.choice.met

    @property
    def notes(self) -> tuple[str, ...]:
        """One sentence about each network that missed the target."""
        return self.choice.notes

    @property
    def caution(self) -> str | None:
        """Says that the network meets the target but is much worse than the unpruned one; None if it is not."""
        return self.choice.caution

    def choose(self, **target: Any) -> Pruned:
        """Choose another network of the same path; only its refit is trained.

        Args:
            **target: fields of :class:`Target`, such as ``max_macs="30%"``.
        """
        refuse_unknown(target, [field.name for field in fields(Target)], "choose()")
        return Pruned.of(self.path, Target(**target))

    def save(self, directory: str | FilePath) -> None:
        """Write the small network, its posteriors and the path's record into a directory.

        ``bmrs_pyro.load(directory, net)`` returns the small network; ``net`` is the dense network with any weights.

        ==========================  ===========================================================
        ``small.safetensors``       the small network, as :func:`bmrs_pyro.save` writes it
        ``posteriors.safetensors``  ``loc::SITE`` and ``scale::SITE`` of log θ; low and high of θ
        ``reduction.json``          criterion, keep masks, score of every structure
        ``path.json``               costs and scores of every network on the path, and the choice
        ==========================  ===========================================================

        Args:
            directory: the directory, which is created if missing; files of an earlier result are replaced.

        Raises:
            WriteError: a file cannot be written.
        """
        save_choice(FilePath(directory), self.path, self.choice)

    def report(self, file: str | FilePath) -> None:
        """Write a self-contained HTML page about the path and the network.

        Args:
            file: the page, such as ``"report.html"``.

        Raises:
            WriteError: the file cannot be written.
        """
        refuse_unwritable(FilePath(file))
        page = path_report(self.path, self.choice, self.likelihood)
        write_atomically(FilePath(file), lambda partial: partial.write_text(page, encoding="utf-8"))


def _likelihood_of(model: SupervisedModel) -> Likelihood:
    """Return the likelihood of a model, with the parameters that belong to its network."""
    if not model.stored["params"]:
        return model.likelihood

    def with_its_parameters(outputs: Any) -> TorchDistribution:
        # Pyro's store holds those of the network that was chosen last
        with pyro.get_param_store().scope(model.stored):
            return model.likelihood(outputs)

    return with_its_parameters
