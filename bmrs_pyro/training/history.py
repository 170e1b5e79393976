"""The records of a training run, epoch by epoch."""

from __future__ import annotations

__all__ = ["Epoch", "History", "Record"]

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from bmrs_pyro.reduction import KeepMask


class Record:
    """The fields that the records of all fits share."""

    epoch: int
    elbo: float
    accuracy: float | None
    log_likelihood: float | None
    rmse: float | None

    @property
    def score(self) -> float:
        """The score by which the best epoch is chosen: accuracy if there is one, else log-likelihood, else the ELBO."""
        if self.accuracy is not None:
            return self.accuracy
        return self.elbo if self.log_likelihood is None else self.log_likelihood

    @property
    def quality(self) -> str:
        """The validation RMSE or accuracy as text; empty if there is neither."""
        if self.rmse is not None:
            return f"  RMSE {self.rmse:.4g}"
        return "" if self.accuracy is None else f"  accuracy {self.accuracy:.2%}"

    @property
    def status(self) -> str:
        """The text of the progress bar."""
        raise NotImplementedError

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain JSON types."""
        return dict(vars(self))


@dataclass(frozen=True)
class Epoch(Record):
    """One epoch, measured after its pruning.

    Attributes:
        epoch: number, from 1.
        phase: ``"prune"`` or ``"fine-tune"``.
        elbo: mean over steps of the (weighted) evidence lower bound, nats for all N examples; the log-likelihood while
            a trained network is reduced, where all gains are 1.
        kl: Σ KL(q ‖ p) over all structures left, unweighted, nats; 0 while a trained network is reduced.
        accuracy: validation accuracy at E[θ], None without validation data or without classes.
        log_likelihood: mean validation log p(y | x, E[θ]), nats per example.
        removed: structures removed at the end of this epoch.
        structures: structures left, by family.
        learning_rate: learning rate of the weights in this epoch.
        seconds: wall-clock time of the training steps.
        examples: number of training examples of each process, by rank.
        rmse: root mean square of y − E[y | x, E[θ]] on the validation data, None for classes.
        accuracy_error, log_likelihood_error: standard errors of the two scores over the validation examples.
        parameters: weights left; None in records of early runs.
        rmse_error: standard error of the RMSE over the validation values.
    """

    epoch: int
    phase: str
    elbo: float
    kl: float
    accuracy: float | None
    log_likelihood: float | None
    removed: int
    structures: Mapping[str, int]
    learning_rate: float
    seconds: float
    examples: Sequence[int] = ()
    rmse: float | None = None
    accuracy_error: float | None = None
    log_likelihood_error: float | None = None
    parameters: int | None = None
    rmse_error: float | None = None

    @property
    def validation_score(self) -> float:
        """The validation log-likelihood, nats per example; −inf if there is none, or it is no number."""
        value = self.log_likelihood
        return -math.inf if value is None or math.isnan(value) else value

    @property
    def size(self) -> int:
        """Structures left in all families."""
        return sum(self.structures.values())

    @property
    def status(self) -> str:
        """The text of the progress bar."""
        left = "" if self.parameters is None else f"{self.parameters:,} parameters  "
        return f"{left}{self.size:,} structures{self.quality}  ELBO {self.elbo:.4g}  KL {self.kl:.4g}"


@dataclass(repr=False)
class History:
    """The epochs of a run, the remaining structures, and the epoch of the network's weights.

    Attributes:
        epochs: one record per epoch.
        keep: masks of the remaining structures of every family, numbered as in the original network.
        scores: the criterion's last score of every structure, ``(C_f,)`` in that numbering: for a removed structure
            when it was removed, for the others with the final posterior; empty without a criterion.
        best_epoch: the epoch whose weights the network has now; it has the best validation score among the epochs
            with the final structures.
    """

    keep: KeepMask
    epochs: list[Epoch] = field(default_factory=list)
    scores: dict[str, Tensor] = field(default_factory=dict)
    best_epoch: int | None = None
    _network: nn.Module | None = field(default=None, init=False, repr=False, compare=False)

    def __repr__(self) -> str:
        best = self.best()
        kept = (
            ""
            if best is None
            else f", best epoch {best.epoch}:{best.quality[1:] or f' ELBO {best.elbo:.4g}'}"
        )
        return (
            f"History of {len(self)} epochs, {self.keep.kept:,} of {self.keep.total:,} structures left{kept}"
        )

    @property
    def network(self) -> nn.Module:
        """The small network: a plain module in evaluation mode with the best weights and E[θ] folded into them.

        It is on the model's device, and shares no tensors with the model.

        Raises:
            RuntimeError: :func:`fit` has not finished, or it trained a hand-written guide.
        """
        if self._network is None:
            raise RuntimeError(
                "there is no small network before fit() has finished, or with a hand-written guide; make one with "
                "posteriors(), select() and compact()"
            )
        return self._network

    @network.setter
    def network(self, small: nn.Module) -> None:
        self._network = small

    def note_scores(self, scores: Mapping[str, Tensor]) -> None:
        """Record the scores of the remaining structures, ``(left,)`` per family."""
        for name, values in scores.items():
            left = self.keep[name]
            known = self.scores.setdefault(name, torch.full(left.shape, torch.nan, dtype=torch.float64))
            known[left] = values.double().cpu()

    def __len__(self) -> int:
        return len(self.epochs)

    def __iter__(self) -> Iterator[Epoch]:
        return iter(self.epochs)

    def __getitem__(self, index: int) -> Epoch:
        return self.epochs[index]

    def best(self) -> Epoch | None:
        """Return the record of the epoch whose weights were kept."""
        return next((epoch for epoch in self.epochs if epoch.epoch == self.best_epoch), None)
