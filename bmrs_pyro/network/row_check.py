"""Whether each row that a gate multiplies is an example of the batch, so that examples can have separate gains."""

from __future__ import annotations

__all__ = ["MOST_UNDECIDED", "Doubt", "Rows", "RowsUndecided", "tried_rows"]

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bmrs_pyro.network.generators import generators_kept, seed_generators
from bmrs_pyro.network.inputs import Call, in_single_
from bmrs_pyro.network.nested import map_leaves, tensors_in
from bmrs_pyro.network.reorderings import Reorderings
from bmrs_pyro.network.untouched import shared_copy

_SIZES = (5, 7, 11, 13, 17, 19, 23)  # batch sizes, to find one that is the length of no other dimension
_ORDERS = 2
_APART = 0.05  # share of the rows' spread; a row that changes by more is another row
_SPREAD = 1e-3  # share of the largest row; rows that differ by less are alike

Inputs = Any
_Rows = list[tuple[str, Tensor, float]]  # the layer, one number per row, its rounding error


MOST_UNDECIDED = 3
"""Calls with inputs that decide nothing, after which rows are not tried any more."""


class RowsUndecided(Exception):
    """The check is impossible: the network refuses the inputs, or the inputs or the weights are not finite."""


class Doubt(NamedTuple):
    """Why the examples of a batch cannot have separate gains."""

    reason: str
    proven: bool
    """True if a row was found that is not its example; False if the check could not find the examples."""


class Rows(NamedTuple):
    """What a trial of a network's rows found."""

    doubt: Doubt | None
    """Why the examples of a batch cannot have gains of their own; None where they can."""
    read: int
    """How many numbers of one example gates multiply; 0 where that was not seen."""


class _Mixed(Exception):
    """Rows are not the examples; the message says where."""


def tried_rows(network: Any, x: Inputs, batch: int) -> Rows:
    """Check whether the examples of a batch can have separate gains.

    A gate multiplies row i of a layer's input by the gains of example i. That is right if a permutation P of the
    examples and their gains permutes the rows at every gate, and the output, in the same way: f(P x, P θ) = P f(x, θ).
    A copy in evaluation mode is tested with a batch size that no other dimension of a gate's input has, with every
    size below ``batch`` that another dimension has, and with ``batch`` itself. Networks whose examples interact, by
    batch statistics or attention over the batch, pass as long as the order does not matter.

    Args:
        network: a NoisyNetwork; neither it nor any random state is changed.
        x: inputs of a batch, any nest of tensors.
        batch: its number of examples. Tensors of this length are cut and permuted, others stay whole.

    Raises:
        RowsUndecided: the network cannot be run on these inputs, or gives no finite numbers.
    """
    with generators_kept(), torch.no_grad():
        try:
            copy = shared_copy(network).eval()
        except RuntimeError as error:  # of deepcopy
            return Rows(Doubt(f"it cannot be copied to try it ({_first_line(error)})", False), 0)
        copy.rows_tried = True
        single = shared_copy(copy)
        (own,) = in_single_(single, Call((x,), {})).args
        if own is not x:  # rounding of half precision would hide which row is which
            with suppress(RowsUndecided):
                found = _tried(single, own, batch)
                if found.doubt is None:
                    return found
        return _tried(copy, x, batch)


def _tried(network: Any, x: Inputs, batch: int) -> Rows:
    trial = _Trial(network, x, batch)
    try:
        reason = trial.reason()
    except _Mixed as found:
        return Rows(Doubt(f"{found}{_batch_second(network)}", True), 0)
    return Rows(None if reason is None else Doubt(reason, False), sum(trial.read.values()))


def _batch_second(network: nn.Module) -> str:
    """Name a layer that takes the batch in the second dimension, and could take it in the first."""
    for name, layer in network.named_modules():
        if getattr(layer, "batch_first", True) is False:
            return f"; layer {name.removeprefix('net.')!r} can take the batch first, with batch_first=True"
    return ""


class _Trial:
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
        except (_Mixed, RowsUndecided):
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
        return f"it cannot be run {how} ({_first_line(error)})"

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
            raise _Mixed("it calls other layers when the examples come in another order")
        for (name, rows, rounding), (_, permuted, _) in zip(before, after, strict=True):
            if not (rows.isfinite().all() and permuted.isfinite().all()):
                raise RowsUndecided
            largest, spread = rows.abs().max(), rows.std()
            tolerance = _APART * spread + 10 * rounding
            if (permuted - rows[order]).abs().max() > tolerance:
                raise _Mixed(f"the rows of {name} are not the examples in their order")
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
            raise _Mixed(f"layer {name!r} reads {len(x)} rows for a batch of {size}")
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
        except _Mixed:
            raise
        except Exception:  # a network that wants more in training mode, such as targets, says so by itself
            return None
        return "it shuffles the examples in training" if len(orders) > len(self.orders) else None


def _taken(index: Tensor, leaf: Tensor) -> Tensor:
    return leaf[index.to(leaf.device)]


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
