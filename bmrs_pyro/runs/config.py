"""The configuration of a run, as written to ``config.json``."""

from __future__ import annotations

__all__ = ["RunConfig", "with_unit"]

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from bmrs_pyro.data import DataSource
from bmrs_pyro.files import from_record
from bmrs_pyro.path import Target
from bmrs_pyro.training import ONE_WEIGHT, REDUCTION, Cycle, Recipe

# names that fields had in runs of earlier versions
_RENAMED = {"variational_rate": "posterior_lr_factor"}


@dataclass(frozen=True)
class RunConfig:
    """All settings of a run; they suffice to repeat it.

    Attributes:
        model: network source, see :class:`NetworkSource`.
        data: the data set.
        recipe: how the network is trained.
        input_shape: shape of one example.
        num_classes: number of the network's outputs.
        mean, std: per-channel normalisation of the inputs.
        target_mean, target_std: mean and standard deviation of real-valued labels, in their units; the network predicts
            standardised values. One per value of an example, or one for all.
        columns: for a table, the categories of each column by its name, the target last; empty for a column of
            numbers.
        target: what the network may cost, for a run along the path; None for a run at one KL weight.
        dense_epochs: epochs without gains before the path.
        cycle: how the weights of a trained network are trained while it is reduced; None for other runs.
        weights: file of the dense network's initial weights, which the run has a copy of; None for random ones.
        source_sha256: digest of the run's copy of the network's file, None for other sources.
        data_digest: digest of the labels, and of the inputs if they are used as they are; None for data from code.
        versions: versions of bmrs_pyro, torch, pyro and Python.
    """

    model: str
    data: DataSource
    recipe: Recipe
    input_shape: tuple[int, ...]
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    target_mean: tuple[float, ...] = (0.0,)
    target_std: tuple[float, ...] = (1.0,)
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    target: Target | None = None
    dense_epochs: int = 0
    cycle: Cycle | None = None
    weights: str | None = None
    source_sha256: str | None = None
    data_digest: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return a record for JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> RunConfig:
        """Read a configuration from a record of this version, or of the earlier version with flat records.

        Raises:
            ValueError: fields are missing or unknown, or a value has the wrong type or is out of range.
        """
        values = {_RENAMED.get(name, name): value for name, value in record.items()}
        if not isinstance(values.get("recipe"), Mapping):
            for name, kind in (("recipe", Recipe), ("data", DataSource)):
                part = {one.name: values.pop(one.name) for one in fields(kind) if one.name in values}
                values[name] = part
        return from_record(cls, {**values, "target": with_unit(values.get("target"))})

    def options(self) -> dict[str, Any]:
        """Return the run's options of ``bmrs fit`` by name; None for options that have no effect on it."""
        recipe, target = asdict(self.recipe), self.target_options()
        batch = target.pop("latency_batch_size")
        cycle = dict.fromkeys(one.name for one in fields(Cycle) if one.name not in recipe)
        own: dict[str, Any] = {**target, **recipe, "latency_batch_size": None, "dense_epochs": None, **cycle}
        if self.cycle is not None:
            used = {name: recipe[name] for name in REDUCTION}
            own = {**dict.fromkeys(own), **target, **used, **asdict(self.cycle)}
        elif self.target is not None:
            own |= {**dict.fromkeys(ONE_WEIGHT), **target, "dense_epochs": self.dense_epochs}
        if self.target is not None:
            own["latency_batch_size"] = batch
        record = {"model": self.model, **asdict(self.data), **own, "weights": self.weights}
        return {name: value for name, value in record.items() if name != "download"}

    def target_options(self) -> dict[str, Any]:
        """Return the options that name the target."""
        target = asdict(self.target or Target())
        batch = target.pop("batch_size")
        return {**target, "latency_batch_size": None if target["max_latency"] is None else batch}


def with_unit(target: Any) -> Any:
    """Return the record of a target, with seconds as a number; earlier versions wrote the text of the option."""
    try:
        return {**target, "max_latency": float(target["max_latency"])}
    except (KeyError, TypeError, ValueError):
        return target
