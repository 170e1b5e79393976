"""Data from torch Datasets and DataLoaders."""

from __future__ import annotations

__all__ = ["Items", "split_items"]

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import DataLoader, Subset, default_collate
from torch.utils.data import Dataset as TorchDataset

from bmrs_pyro.data.dataset import DataError, Splits, values_each
from bmrs_pyro.data.splitting import TEST_SHARE

LABELS = "labels"
_PARTS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class Items:
    """One part of the data, from a torch Dataset or a DataLoader; it is not normalised here.

    Args:
        source: a map-style Dataset of items ``(x, y)``, or of dicts of inputs and ``"labels"``; or a DataLoader.
        num_classes: number of outputs that a network needs: K classes, or values per example.
        name: name of the data in messages and reports.
        mean: 0, because the inputs are served unchanged.
        std: 1, for the same reason.
        columns: empty.
    """

    source: Any = field(repr=False)
    num_classes: int
    name: str = "data"
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        whole = self.source.dataset if isinstance(self.source, DataLoader) else self.source
        if hasattr(whole, "__len__"):
            return len(whole)
        return sum(len(_inputs_and_labels(batch, self.name)[1]) for batch in self.source)

    def batch(self, rows: Tensor) -> Any:
        """Return the items of some rows as one batch; without rows the batch has no examples."""
        batch = _joined([self.source[row] for row in rows.tolist() or [0]], self.name)
        return batch if len(rows) else tree_map(lambda leaf: leaf[:0], batch)

    @property
    def example(self) -> Any:
        """Return the inputs of one example, ``(1, …)`` each."""
        loaded = isinstance(self.source, DataLoader)
        batch = next(iter(self.source)) if loaded else self.batch(torch.tensor([0]))
        inputs = tree_map(lambda leaf: leaf[:1], _inputs_and_labels(batch, self.name)[0])
        return tuple(inputs) if isinstance(inputs, list) else inputs

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the first input of one example."""
        return tuple(_first_tensor(self.example).shape[1:])

    def labels(self) -> Iterator[Tensor]:
        """Yield the labels, item by item, or batch by batch from a DataLoader, ``(B, …)``.

        Raises:
            DataError: a label is NaN or infinite.
        """
        for _, y in _pairs(self.source, self.name):
            if not y.isfinite().all():
                raise DataError(f"{self.name}: a value to predict is NaN or infinite; leave its item out")
            yield y

    def refuse_unfit(self, part: str, *, classes: bool) -> None:
        """Refuse inputs that are NaN or infinite, and classes that the training part does not have.

        Args:
            part: name of this part in the message.
            classes: whether the labels are classes.

        Raises:
            DataError: there is such an example.
        """
        count = 0
        for x, y in _pairs(self.source, self.name):
            if not all(leaf.isfinite().all() for leaf in tree_leaves(x) if isinstance(leaf, Tensor)):
                where = (
                    f"one of the examples {count} to {count + len(y) - 1}"
                    if len(y) > 1
                    else f"example {count}"
                )
                raise DataError(
                    f"{self.name}: {where} (counted from 0) of the {part} part holds NaN or infinity"
                )
            if not y.isfinite().all():
                raise DataError(
                    f"{self.name}: a label of the {part} part is NaN or infinite; leave its item out"
                )
            if classes and y.numel() and (last := int(y.max())) >= self.num_classes:
                raise DataError(
                    f"{self.name}: the {part} part has the label {last}, but those of the training part go to "
                    f"{self.num_classes - 1}; give the data set the attribute num_classes, or leave the example out"
                )
            count += len(y)


def split_items(
    given: Any, name: str, validation: float, seed: int, *, values: bool | None = None
) -> Splits[Items]:
    """Return training, validation and test part of a user's data; missing parts are held out at random.

    Args:
        given: a torch Dataset; or two Datasets, for training and test; or three Datasets or DataLoaders, for training,
            validation and test; or a dict with the keys ``train``, ``validation`` and ``test``.
        name: name of the data in messages.
        validation: share of the training part to hold out, in (0, 1).
        seed: seed of the validation split; the test split is always the same.
        values: whether the labels are values and not numbers of classes; by default values are floating-point numbers.

    Raises:
        DataError: ``given`` is none of these, an item is not a pair, items differ in shape, the labels are not classes,
            or a part of a DataLoader must be held out.
    """
    parts = _named(given, name)
    if "test" not in parts:
        parts["train"], parts["test"] = _held_out(parts["train"], TEST_SHARE, 0, name)
    if "validation" not in parts:
        parts["train"], parts["validation"] = _held_out(parts["train"], validation, seed, name)
    for part, source in parts.items():
        if hasattr(source, "__len__") and not len(source):
            raise DataError(f"{name}: the {part} part has no examples")
    outputs = _outputs(parts["train"], name, values)
    return Splits(**{part: Items(source, outputs, name) for part, source in parts.items()})


def _named(given: Any, name: str) -> dict[str, Any]:
    if isinstance(given, tuple | list) and len(given) > 3 and isinstance(given[0], DataLoader | TorchDataset):
        raise DataError(f"{name} gave {len(given)} parts; expected one, two or three")
    if isinstance(given, tuple | list) and len(given) in (2, 3):
        given = dict(zip(("train", "test") if len(given) == 2 else _PARTS, given, strict=True))
    elif not isinstance(given, Mapping) and hasattr(given, "__getitem__"):
        given = {"train": given}
    if not isinstance(given, Mapping) or "train" not in given or set(given) - set(_PARTS):
        found = list(given) if isinstance(given, Mapping) else f"a {type(given).__name__}"
        raise DataError(
            f"{name} gave {found}; expected a torch Dataset, or Datasets as (train, test), or Datasets or "
            "DataLoaders as (train, validation, test), or a dict with these keys"
        )
    for part, source in given.items():
        if not isinstance(source, DataLoader) and not (
            hasattr(source, "__getitem__") and hasattr(source, "__len__")
        ):
            raise DataError(
                f"{name}: the {part} part is a {type(source).__name__}; expected a torch Dataset with __getitem__ and "
                "__len__, or a DataLoader"
            )
    return {part: _in_float32(source) for part, source in given.items()}


def _in_float32(source: Any) -> Any:
    """Return a DataLoader whose batches have float32 instead of float64; a Dataset is returned as it is."""
    if not isinstance(source, DataLoader):
        return source
    loader = copy.copy(source)
    loader.collate_fn = _Collate(source.collate_fn)
    return loader


@dataclass(frozen=True)
class _Collate:
    """Joins items as another function does, with float32 instead of float64."""

    join: Callable[[list[Any]], Any]

    def __call__(self, items: list[Any]) -> Any:
        return _single_precision(self.join(items))


def _held_out(source: Any, share: float, seed: int, name: str) -> tuple[Any, Any]:
    if isinstance(source, DataLoader):
        raise DataError(
            f"{name}: no part of a DataLoader can be held out; give three, for train, validation and test"
        )
    if not 0 < share < 1:
        raise DataError(f"the share to hold out is {share}; it must lie between 0 and 1, both excluded")
    held = round(share * len(source))
    if not 0 < held < len(source):
        raise DataError(f"{name}: {held} of {len(source)} examples would be held out; give more data")
    order = torch.randperm(len(source), generator=torch.Generator().manual_seed(seed))
    return Subset(source, order[held:].sort().values.tolist()), Subset(
        source, order[:held].sort().values.tolist()
    )


def _outputs(source: Any, name: str, values: bool | None) -> int:
    """Return the number of outputs: ``num_classes`` or ``classes`` of the data set, else counted from the labels."""
    holder = source
    while holder is not None:
        if type(number := getattr(holder, "num_classes", None)) is int:
            return number
        if isinstance(classes := getattr(holder, "classes", None), tuple | list):
            return len(classes)
        holder = getattr(holder, "dataset", None)
    most = 0
    for x, y in _pairs(source, name):
        if values or (values is None and y.is_floating_point()):
            return values_each(y, _first_tensor(x))
        if not (y == (whole := y.double().round())).all():  # NaN is no class either
            shown = y[y != whole][0].item()
            raise DataError(
                f"{name}: labels such as {shown:g} are no classes, which are integers 0 … K-1; for real values choose "
                "a likelihood, such as --likelihood normal"
            )
        most = max(most, int(y.max()))
    return most + 1


def _pairs(source: Any, name: str) -> Iterator[tuple[Any, Tensor]]:
    """Yield inputs and labels of a Dataset, item by item, or of a DataLoader, batch by batch, ``(B, …)`` each."""
    rows = (
        source
        if isinstance(source, DataLoader)
        else (_joined([source[row]], name) for row in range(len(source)))
    )
    for batch in rows:
        x, y = _inputs_and_labels(batch, name)
        if not isinstance(y, Tensor):
            raise DataError(f"{name}: labels are a {type(y).__name__}; expected numbers or a tensor of them")
        yield x, y


def _first_tensor(x: Any) -> Tensor:
    return next(leaf for leaf in tree_leaves(x) if isinstance(leaf, Tensor))


def _joined(items: list[Any], name: str) -> Any:
    """Return items as one batch, with float32 instead of float64, as all data."""
    try:
        return _single_precision(default_collate(items))
    except (RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"{name}: items cannot be joined to a batch ({reason}); give each the same shape, such as by padding, or "
            "give DataLoaders that join them"
        ) from None


def _single_precision(batch: Any) -> Any:
    return tree_map(lambda x: x.float() if isinstance(x, Tensor) and x.dtype == torch.float64 else x, batch)


def _inputs_and_labels(batch: Any, name: str) -> tuple[Any, Any]:
    if isinstance(batch, Mapping) and LABELS in batch:
        return {key: value for key, value in batch.items() if key != LABELS}, batch[LABELS]
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        found = list(batch) if isinstance(batch, Mapping) else f"a {type(batch).__name__}"
        raise DataError(f"{name}: an item is {found}; expected (x, y), or a dict of inputs and {LABELS!r}")
    return batch[0], batch[1]
