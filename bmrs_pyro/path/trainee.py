"""The model before a path, and how it is trained: data, criterion and rates."""

from __future__ import annotations

__all__ = ["Refit", "Trainee", "score_of"]

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from bmrs_pyro.distributed import broadcast_
from bmrs_pyro.inference.guide import AutoTruncatedLogNormal
from bmrs_pyro.inference.inputs import pairs
from bmrs_pyro.inference.laplace import Curvature
from bmrs_pyro.inference.model import SupervisedModel
from bmrs_pyro.network import compact, complexity, cost_model
from bmrs_pyro.network.generators import generators_kept, seed_generators
from bmrs_pyro.network.untouched import deep_copy
from bmrs_pyro.path.pace import Pace, Passes
from bmrs_pyro.path.point import PathPoint, told
from bmrs_pyro.reduction import Criterion, KeepMask, ModelReduction
from bmrs_pyro.training.checkpoint import StateStore, TrainingState
from bmrs_pyro.training.fitting import fit
from bmrs_pyro.training.history import Epoch, History
from bmrs_pyro.training.likelihood_fit import fit_likelihood_
from bmrs_pyro.training.limits import Limits
from bmrs_pyro.training.loop import Batches
from bmrs_pyro.training.removal import remove_structures_
from bmrs_pyro.training.shuffling import set_epoch
from bmrs_pyro.training.travel import NothingLeft
from bmrs_pyro.training.validation import Score, checked_score

START = 0.01
"""Least first KL weight, nats per example for a nat of mean KL."""

SHARE = 0.1
"""Least first KL weight, as a share of the weight in the ELBO."""

MOST = 0.1
"""Largest first KL weight that follows from the information, nats per label for a nat of mean KL."""

INFORMED = 0.25
"""Share of the gains whose Laplace posteriors have a variance above 1 at ten times the first KL weight."""

BATCHES = 8
"""Number of training batches that the information is computed from."""


@dataclass(frozen=True)
class Refit:
    """A point of the path after its refit.

    Attributes:
        start: the point before the refit.
        point: the point after the refit.
        model: the model with the shrunk network.
        guide: the posteriors of its gains.
        history: the epochs of the path up to the point, and those of the refit.
    """

    start: PathPoint
    point: PathPoint
    model: SupervisedModel
    guide: AutoTruncatedLogNormal
    history: History

    def __repr__(self) -> str:
        return "\n  ".join(["Refit", *told({"before": self.start, "after": self.point})])


@dataclass(frozen=True, repr=False)
class Trainee:
    """A model before the path, and how it is trained.

    Attributes:
        model: the model with all its structures, and with the weights at the start of the path.
        loader: training batches of one pass.
        validation: batches on which networks are scored.
        criterion: criterion by which structures are removed.
        pace: the path's length and the posteriors' learning rate.
        options: options of :func:`fit`, with ``lr``.
    """

    model: SupervisedModel
    loader: Batches
    validation: Batches
    criterion: Criterion
    pace: Pace
    options: Mapping[str, Any]

    def start(self) -> float:
        """Return the first factor of the KL weight.

        With KL weight λ_c, Laplace's posterior of log θ_c has the variance λ_c/I_c, where I_c is the Fisher information
        of the N examples. The first weight is a tenth of the one at which this exceeds 1 for a quarter of the gains:
        smaller weights would remove nothing. But the sum of all λ_c is at most 0.1 nats per label: each λ_c adds
        λ_c/2 nats to the expected loss, and where a learned scale is small, the information is large only until that
        scale grows. The sum is at least 0.01 nats per example, and the mean of all λ_c at least 0.1, a tenth of what it
        is in the ELBO: with few data a large network overfits on a longer path.
        """
        sizes = {family.name: family.size for family in self.model.structures}
        scales = torch.cat([torch.full((sizes[name],), scale) for name, scale in self._scales(1.0).items()])
        set_epoch(self.loader, 0)
        with generators_kept():
            seed_generators(self.options.get("seed") or 0)
            information = Curvature.of(self.model, self.loader, BATCHES).information.cpu()
            y = next(pairs(self.loader))[1]
        informed = torch.quantile(information.double() / scales, INFORMED)
        broadcast_([informed])  # every process has read other examples
        count, whole = self.model.num_data, float(scales.sum())
        least = max(START * count, SHARE * len(scales)) / whole
        most = MOST * count * (y.numel() / max(len(y), 1)) / whole
        return max(least, min(informed.item() / 10, most))

    def press_(self, model: SupervisedModel, weight: float) -> None:
        """Set the factor of a model's KL weight; families are weighted by their size before the path."""
        model.kl_weight = replace(model.kl_weight, factor=weight)
        model.kl_scales = self._scales(weight)

    def train(
        self, model: SupervisedModel, guide: AutoTruncatedLogNormal, *, stage: str, **settings: Any
    ) -> History:
        """Run :func:`fit` at the path's rates; the progress bar names the stage."""
        settings = {"criterion": self.criterion, **self.options, **settings}
        settings["progress"] = settings.get("progress", True) and stage
        settings["posterior_lr_factor"] = self.pace.posterior_lr / settings["lr"]
        return fit(
            model, guide, Passes(self.loader, self.pace.passes), validation=self.validation, **settings
        )

    def dense(self, model: SupervisedModel, epochs: int, store: StateStore | None) -> PathPoint:
        """Train the network without gains, load its weights into a model, and return its costs and score.

        If the weights score better before this training, they are kept. With no epochs, the network is only scored.
        """
        if (device := self.options.get("device")) is not None:
            model.to(device)
        twin = deep_copy(model)
        fit_likelihood_(model.likelihood, model.network, self.loader)
        # gains of 1: the posteriors are very narrow and not trained
        guide = AutoTruncatedLogNormal(twin, init_log_scale=-12.0).requires_grad_(False)
        score = checked_score(model, self.validation)
        if epochs:
            history = self.train(
                twin,
                guide,
                stage="unpruned network",
                criterion=None,
                round_to=1,
                epochs=0,
                fine_tune_epochs=epochs,
                checkpoint=store,
            )
            trained = _score(history)
            if (trained.accuracy or trained.log_likelihood) >= (score.accuracy or score.log_likelihood):
                score = trained
                model.load_state_dict(twin.state_dict())
                model.stored = twin.stored
        keep = KeepMask({s.name: torch.ones(s.size, dtype=torch.bool) for s in model.structures})
        return self.point(model.network.state_dict(), keep, {}, score, 0, 0.0)

    def refit(self, store: StateStore, point: PathPoint, epochs: int, limits: Limits) -> Refit:
        """Continue from a state: half the epochs with pruning at the point's weight, half with rates falling to 0."""
        model = deep_copy(self.model)
        guide = AutoTruncatedLogNormal(model)
        self.press_(model, point.kl_weight)
        pruning, settling = epochs // 2, epochs - epochs // 2
        total = point.epoch + epochs
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NothingLeft)  # a point may have all structures still
            history = self.train(
                model,
                guide,
                stage=f"refit of {point.parameters:,} parameters",
                epochs=point.epoch + pruning,
                fine_tune_epochs=settling,
                # 1 while structures are removed, then down in equal steps
                schedule=lambda progress: min(1.0, (total - round(progress * total)) / (settling + 1)),
                checkpoint=store,
                max_macs=limits.max_macs,
                max_params=limits.max_parameters,
            )
        weights = model.network.state_dict()
        now = self.point(weights, history.keep, history.scores, _score(history), point.epoch, point.kl_weight)
        # counted, because the cost model is not exact for irregular networks
        return Refit(point, replace(now, macs=complexity(model.network).macs), model, guide, history)

    def network(self, state: TrainingState) -> nn.Module:
        """Return the small network of a state, plain and in evaluation mode."""
        model = deep_copy(self.model)
        guide = AutoTruncatedLogNormal(model)
        remove_structures_(model, guide, state.keep)
        model.network.load_state_dict(state.tensors["network"])
        guide.load_state_dict(state.tensors["guide"])
        return compact(model.network, {}, {name: q.mean for name, q in guide.posteriors().items()}).eval()

    def point(
        self,
        weights: Mapping[str, Tensor],
        keep: KeepMask,
        scores: Mapping[str, Tensor],
        score: Score,
        epoch: int,
        kl_weight: float,
    ) -> PathPoint:
        """Return a network's costs and score, from its weights, its masks and the scores of removed structures."""
        structures = {name: int(mask.sum()) for name, mask in keep.items()}
        whole = self.model.network
        evidence = None
        if isinstance(self.criterion, ModelReduction):
            gone = [values[~keep[name]] - self.criterion.log_prior_odds for name, values in scores.items()]
            evidence = sum(float(values.sum()) for values in gone)
        return PathPoint(
            epoch=epoch,
            kl_weight=kl_weight,
            structures=structures,
            parameters=sum(weights[f"net.{name}"].numel() for name, _ in whole.net.named_parameters()),
            macs=round(cost_model(whole, "macs")(structures)),
            bytes=sum(value.numel() * value.element_size() for value in weights.values()),
            delta_f=evidence,
            score=score,
        )

    def _scales(self, weight: float) -> dict[str, float]:
        factor = weight / self.model.kl_weight.factor
        return {name: factor * scale for name, scale in self.model.kl_scales.items()}


def _score(history: History) -> Score:
    """Return the score of the epoch whose weights were kept."""
    best = history.best()
    assert best is not None
    return score_of(best)


def score_of(record: Epoch) -> Score:
    """Return an epoch's validation score."""
    values: dict[str, Any] = {name: getattr(record, name) for name in Score._fields}
    return Score(**values)
