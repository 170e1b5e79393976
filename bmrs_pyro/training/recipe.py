"""The recipe: all options of training and pruning, and the hardware."""

from __future__ import annotations

__all__ = [
    "OF_MODEL_AND_LOADER",
    "ONE_WEIGHT",
    "REDUCTION",
    "Hardware",
    "Recipe",
    "with_options",
]

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from bmrs_pyro.inference.draws import parse_draws
from bmrs_pyro.inference.kl_weight import KLWeight
from bmrs_pyro.training.options import refuse_no_flags, refuse_no_number, refuse_no_seed, refuse_unknown

ONE_WEIGHT = (
    *("kl_weight", "fine_tune_epochs", "prune_every", "posterior_lr_factor", "schedule"),
    *("gains_only", "round_to"),
)
"""Fields of a recipe that a run along the path ignores."""

OF_MODEL_AND_LOADER = frozenset(
    ("kl_weight", "likelihood", "label_smoothing", "draws", "bfloat16", "batch_size", "augment")
)
"""Fields of a recipe that model and loader are made from, before :func:`fit` gets them."""

REDUCTION = (
    *("criterion", "epochs", "batch_size", "lr", "likelihood", "label_smoothing", "augment", "bfloat16"),
    *("round_to", "seed"),
)
"""Fields of a recipe that the reduction of a trained network uses."""

_LIKELIHOOD = re.compile(
    r"(categorical|next-token)(:[\d.]+)?|bernoulli|poisson|(normal|student-t)(:[\w.+-]+)?"
)
_CRITERION = re.compile(r"bmrs-n|bmrs-u-\d+|snr|none")


@dataclass(frozen=True)
class Recipe:
    """How a network is trained and pruned; the defaults are the best values known.

    In Python ``criterion`` may also be any criterion of :mod:`bmrs_pyro.reduction` (or None), and ``schedule`` any
    function from the share of the epochs already done, in [0, 1), to a factor of the learning rates.

    Attributes:
        criterion: Pruning criterion: bmrs-n, bmrs-u-BITS, snr, or none.
        kl_weight: elbo, mean:FACTOR, cost:FACTOR or cost-macs:FACTOR; a larger factor prunes more.
        epochs: Epochs with pruning.
        fine_tune_epochs: Epochs without pruning, after those with pruning.
        prune_every: Epochs between pruning events.
        min_keep: Least number of structures that every family keeps.
        batch_size: Examples per step.
        lr: Adam's learning rate for the weights; for a trained network (--weights) the peak rate of its optimizer.
        posterior_lr_factor: The posteriors' learning rate, relative to the weights'.
        schedule: linear-decay (rates fall to 0 over the second half) or constant.
        draws: Draws of the gains per batch: 'auto', one per 'example', one per 'batch', or a number.
        gains_only: Freeze the weights during the epochs with pruning.
        likelihood: Likelihood of the labels given the outputs: categorical, next-token, bernoulli, poisson,
            normal[:SCALE] or student-t[:SCALE], where SCALE is a number, learned or predicted.
        label_smoothing: Probability spread evenly over all classes.
        augment: Shift training images by up to 4 pixels, mirror half of them.
        bfloat16: Train in mixed precision (faster on processors with bfloat16 instructions).
        round_to: Keep multiples of this number of channels.
        max_macs: Most multiply-accumulates for one example of the small network.
        max_params: Most parameters of the small network.
        seed: Seed of the split, the weights and every epoch.

    Raises:
        ValueError: a value is out of range.
    """

    criterion: Any = "bmrs-n"
    kl_weight: str = "cost:0.22"
    epochs: int = 20
    fine_tune_epochs: int = 12
    prune_every: int = 1
    min_keep: int = 1
    batch_size: int = 128
    lr: float = 1.5e-3
    posterior_lr_factor: float = 13.0
    schedule: Any = "linear-decay"
    draws: str = "auto"
    gains_only: bool = False
    likelihood: str = "categorical"
    label_smoothing: float = 0.02
    augment: bool = False
    bfloat16: bool = False
    round_to: int = 1
    max_macs: int | None = None
    max_params: int | None = None
    seed: int | None = 0

    def __post_init__(self) -> None:
        self._refuse_numbers()
        self._refuse_unknown_names()
        refuse_no_flags(self, ("gains_only", "augment", "bfloat16"))
        if self.epochs + self.fine_tune_epochs < 1:
            raise ValueError("epochs and fine_tune_epochs are both 0; there must be at least one epoch")

    @property
    def prunes(self) -> bool:
        """Whether there is a criterion."""
        return self.criterion not in (None, "none")

    def _refuse_unknown_names(self) -> None:
        if isinstance(self.criterion, str) and not _CRITERION.fullmatch(self.criterion):
            raise ValueError(
                f"criterion {self.criterion!r} is unknown; use bmrs-n, bmrs-u-4, bmrs-u-8, snr or none"
            )
        if isinstance(self.schedule, str) and self.schedule not in ("linear-decay", "constant"):
            raise ValueError(f"schedule {self.schedule!r} is unknown; use 'linear-decay' or 'constant'")
        if not _LIKELIHOOD.fullmatch(self.likelihood):
            raise ValueError(
                f"likelihood {self.likelihood!r} is unknown; use categorical, next-token, bernoulli, poisson, "
                "normal[:SCALE] or student-t[:SCALE]"
            )
        parse_draws(self.draws)
        KLWeight.parse(self.kl_weight)

    def _refuse_numbers(self) -> None:
        for name in ("epochs", "fine_tune_epochs"):
            refuse_no_number(name, getattr(self, name), least=0, whole=True)
        for name in ("prune_every", "min_keep", "batch_size", "round_to"):
            refuse_no_number(name, getattr(self, name), least=1, whole=True)
        for name in ("lr", "posterior_lr_factor", "label_smoothing"):
            refuse_no_number(name, getattr(self, name), least=0)
        for name in ("max_macs", "max_params"):
            refuse_no_number(name, getattr(self, name), least=1, optional=True)
        refuse_no_seed(self.seed)
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing is {self.label_smoothing}; it must lie in [0, 1)")


@dataclass(frozen=True)
class Hardware:
    """The hardware for training; it changes the duration but not the result.

    Attributes:
        device: cpu, cuda, cuda:1, ...; by default the network's device.
        compile: Use torch.compile for draws and KL, and for the network after the last removal; needs a C++ compiler.
        cuda_graphs: Record steps as CUDA graphs, again in every epoch.
        channels_last: Use the memory format channels_last, which is faster for convolutions on GPUs.
    """

    device: str | None = None
    compile: bool = False
    cuda_graphs: bool = False
    channels_last: bool = False

    def __post_init__(self) -> None:
        refuse_no_flags(self, ("compile", "cuda_graphs", "channels_last"))


def with_options(recipe: Recipe, hardware: Hardware, options: Mapping[str, Any]) -> tuple[Recipe, Hardware]:
    """Return a recipe and hardware with some fields changed.

    Args:
        recipe: the recipe to change.
        hardware: the hardware to change.
        options: new values, by field names of :class:`Recipe` or :class:`Hardware`.

    Raises:
        TypeError: neither class has a field of that name, or recipe or hardware is something else.
    """
    for value, kind in ((recipe, Recipe), (hardware, Hardware)):
        if not isinstance(value, kind):
            raise TypeError(f"expected a {kind.__name__}, got a {type(value).__name__}")
    ours = {field.name for field in fields(Recipe)}
    machine = {field.name for field in fields(Hardware)}
    refuse_unknown(options, ours | machine, "a recipe")
    return (
        replace(recipe, **{name: value for name, value in options.items() if name in ours}),
        replace(hardware, **{name: value for name, value in options.items() if name in machine}),
    )
