"""A trial of a network with its examples in several orders, to see whether the rows at every gate follow them."""

from __future__ import annotations

__all__ = ["Inputs", "MixedRows", "RowTrial", "RowsUndecided", "first_line"]

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bmrs_pyro.network.generators import seed_generators
from bmrs_pyro.network.nested import map_leaves, tensors_in
from bmrs_pyro.network.reorderings import Reorderings

_SIZES = (5, 7, 11, 13, 17, 19, 23)  # batch sizes, to find one that is the length of no other dimension
_ORDERS = 2
_APART = 0.05  # share of the rows' spread; a row that changes by more is another row
_SPREAD = 1e-3  # share of the largest row; rows that differ by less are alike

Inputs = Any
_Rows = list[tuple[str, Tensor, float]]  # the layer, one number per row, its rounding error


class RowsUndecided(Exception):
    """The check is impossible: the network refuses the inputs, or the inputs or the weights are not finite."""


class MixedRows(Exception):
    """Rows are not the examples; the message says where."""


class RowTrial:
    """A trial on a copy of a network.

    Args:
        network: a NoisyNetwork, which is tried in training mode at the end.
        x: inputs of a batch, any nest of tensors.
        batch: its number of examples.

    Attributes:
        read: how many numbers of one example each gated layer reads.
    """

    def __init__(self, network: Any, x: Inputs, batch: int) -> None:
        self.network, self.x, self.batch = network, x, batch
        self.leaves: list[Any] = []
        map_leaves(self.leaves.append, x)
        self.batched = [isinstance(leaf, Tensor) and leaf.shape[:1] == (batch,) for leaf in self.leaves]
        self.random = torch.Generator().manual_seed(0)
        self.lengths: set[int] = set()  # lengths of the other dimensions of the gates' inputs
        self.alike: set[str] = {gate.consumer for gate in network.gates}  # layers whose rows never differed
        self.orders: dict[
            int, bool
        ] = {}  # of every sort or choice of the examples, whether it ever moved one
        self.weights: dict[int, Tensor] = {}
        self.rows: _Rows = []
        self.half: torch.dtype | None = None  # the dtype, if the layers compute in half precision
        self.read: dict[str, int] = {}  # of each consumer: numbers of one example

    def reason(self) -> str | None:
        """Say what is wrong with the rows, if anything is."""
        size = self._size()
        if size is None and self.batch == 1:
            return None
        if size is None and self.batch == 2:
            return "it runs only with two examples, which are too few to tell an order"
        lengths = self.lengths if size is not None else set()
        for count in sorted({self.batch, *(length for length in lengths if length < self.batch)} - {size, 1}):
            if (error := self._failure(count)) is not None:
                return self._refusal(count, error)
        if self._unproven():  # these examples differ too little; others may show more
            for again in (size, self.batch):
                if again is not None and again > 1:
                    self._failure(again, varied=True)
        return self._unproven() or self._shuffled(size or self.batch)

    def _size(self) -> int | None:
        """Find a batch size that is the length of no other dimension; None if the network runs at one size only."""
        for size in _SIZES:
            if self._failure(size) is not None:
                return None
            if size not in self.lengths:
                return size
        return _SIZES[-1]

    def _failure(self, size: int, *, varied: bool = False) -> Exception | None:
        """Compare orders of a batch; return the error if the network cannot be run on this size."""
        try:
            self._compare(size, varied)
        except (MixedRows, RowsUndecided):
            raise
        except Exception as error:
            return error
        return None

    def _refusal(self, size: int, error: Exception) -> str:
        how = f"with a batch of {size}"
        if size == self.batch:
            try:
                self.network.train()(self.x)
            except Exception:
                raise RowsUndecided from error  # training will say why
            how = "in evaluation mode with its examples in another order"
        return f"it cannot be run {how} ({first_line(error)})"

    def _compare(self, size: int, varied: bool) -> None:
        leaves = self._examples(size)
        if varied:
            leaves = self._each(self._varied, leaves)
        theta = {
            family.name: torch.rand(size, family.size, generator=self.random) + 0.5
            for family in self.network.structures
        }
        before = self._run(leaves, theta)
        for _ in range(_ORDERS):
            order = torch.randperm(size, generator=self.random)
            permuted = self._each(partial(_taken, order), leaves)
            after = self._run(permuted, {name: gain[order] for name, gain in theta.items()})
            self._judge(before, after, order)

    def _each(self, change: Callable[[Tensor], Tensor], leaves: list[Any]) -> list[Any]:
        """Change the tensors that hold examples, and leave the others."""
        return [change(leaf) if batched else leaf for leaf, batched in zip(leaves, self.batched, strict=True)]

    def _nested(self, leaves: list[Any]) -> Inputs:
        """Nest leaves in the way that the inputs are nested."""
        rest = iter(leaves)
        return map_leaves(lambda _: next(rest), self.x)

    def _examples(self, size: int) -> list[Any]:
        index = torch.arange(size) % self.batch
        if size < self.batch:
            index = torch.randperm(self.batch, generator=self.random)[:size]
        return self._each(partial(_taken, index), self.leaves)

    def _varied(self, leaf: Tensor) -> Tensor:
        if leaf.is_floating_point():
            scale = leaf.std() if leaf.numel() > 1 and leaf.std() > 0 else 1.0
            return leaf + scale * torch.randn(leaf.shape, generator=self.random).to(leaf)
        values = leaf.flatten()  # only values that occur: others may be out of an embedding's range
        return values[torch.randint(len(values), leaf.shape, generator=self.random).to(leaf.device)]

    def _judge(self, before: _Rows, after: _Rows, order: Tensor) -> None:
        if [name for name, *_ in before] != [name for name, *_ in after]:
            raise MixedRows("it calls other layers when the examples come in another order")
        for (name, rows, rounding), (_, permuted, _) in zip(before, after, strict=True):
            if not (rows.isfinite().all() and permuted.isfinite().all()):
                raise RowsUndecided
            largest, spread = rows.abs().max(), rows.std()
            tolerance = _APART * spread + 10 * rounding
            if (permuted - rows[order]).abs().max() > tolerance:
                raise MixedRows(f"the rows of {name} are not the examples in their order")
            if spread > _SPREAD * largest and spread > 4 * tolerance:
                self.alike.discard(name)

    def _run(self, leaves: list[Any], theta: Mapping[str, Tensor]) -> _Rows:
        like = next(self.network.parameters())
        size = len(next(iter(theta.values())))
        seed_generators(0)  # what is random in the network is the same in every run
        self.rows = []
        with self._watching(size), Reorderings(size, self.orders):
            outputs = self.network(
                self._nested(leaves), {name: gain.to(like) for name, gain in theta.items()}
            )
        for output in tensors_in(outputs):
            if output.is_floating_point() and output.shape[:1] == (size,):
                self._note("its output", output)
        return self.rows

    @contextmanager
    def _watching(self, size: int) -> Iterator[None]:
        """Record the inputs of the gated layers, before the gates multiply them."""
        handles = [
            self.network.net.get_submodule(gate.consumer).register_forward_pre_hook(
                partial(self._see, gate.consumer, size), prepend=True
            )
            for gate in self.network.gates
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _see(self, name: str, size: int, _: nn.Module, args: tuple[Any, ...]) -> None:
        x = args[0]
        if len(x) != size:
            raise MixedRows(f"layer {name!r} reads {len(x)} rows for a batch of {size}")
        self.lengths.update(x.shape[1:])
        self.read[name] = x.shape[1:].numel()
        self._note(name, x)

    def _note(self, name: str, x: Tensor) -> None:
        flat = x.flatten(1).float() if x.dim() > 1 else x.unsqueeze(1).float()
        length = flat.shape[1]
        if length not in self.weights:
            self.weights[length] = torch.randn(length, generator=self.random).to(x.device)
        if x.dtype in (torch.float16, torch.bfloat16):
            self.half = x.dtype
        precision = max(torch.finfo(kind).eps for kind in (x.dtype, flat.dtype))
        # one number tells rows apart; rows themselves would fill the memory
        weights = self.weights[length]
        rounding = precision * float((flat.abs() @ weights.abs()).max())
        self.rows.append((name, (flat @ weights).cpu(), rounding))

    def _unproven(self) -> str | None:
        if self.alike and self.half is not None:
            return (
                f"layer {min(self.alike)!r} reads examples that differ by little more than rounding in {self.half}, "
                "which does not show their order; keep the weights in float32, and give bfloat16=True to train in "
                "mixed precision"
            )
        if self.alike:
            return (
                f"layer {min(self.alike)!r} reads the same for all examples, which does not show their order"
            )
        if not all(self.orders.values()):
            return "it sorts or chooses examples, and no batch that was tried shows where they end up"
        return None

    def _shuffled(self, size: int) -> str | None:
        """Check whether training mode shuffles the examples; with dropout the rows themselves cannot be compared."""
        self.network.train()
        for module in self.network.modules():
            if isinstance(module, _BatchNorm):  # several processes would wait for one another
                module.eval()
        orders: dict[int, bool] = {}
        try:
            with self._watching(size), Reorderings(size, orders):
                self.network(self._nested(self._examples(size)))
        except MixedRows:
            raise
        except Exception:  # a network that wants more in training mode, such as targets, says so by itself
            return None
        return "it shuffles the examples in training" if len(orders) > len(self.orders) else None


def _taken(index: Tensor, leaf: Tensor) -> Tensor:
    return leaf[index.to(leaf.device)]


def first_line(error: Exception) -> str:
    """Return the first line of an error's message."""
    return str(error).strip().partition("\n")[0]
