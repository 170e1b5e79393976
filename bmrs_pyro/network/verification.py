"""Try on the network itself that structures can be removed without changing what it computes."""

from __future__ import annotations

__all__ = ["Verification"]

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from bmrs_pyro.network.folding import compact_
from bmrs_pyro.network.gates import Gates
from bmrs_pyro.network.inputs import Call
from bmrs_pyro.network.structures import LeftOut, StructureFamily
from bmrs_pyro.network.untouched import shared_copy, tensor_outputs

_PRECISIONS = ((torch.float64, 1e-9), (torch.float32, 1e-4))  # and the error allowed, relative to the output


class Verification:
    """Tries families on copies of a network.

    A family passes if, for each half of its structures, on a copy with values of its own:

    * the outputs do not move when the gains of that half are 0 and everything that writes it changes,
    * the outputs stay the same when that half is cut out, and the gains of the others are folded in.

    Args:
        net: the network; left as it is.
        call: how it is called; noise is added to its inputs, so zeros will do.

    Raises:
        ValueError: the network's outputs are not finite.
    """

    def __init__(self, net: nn.Module, call: Call) -> None:
        self.random = torch.Generator().manual_seed(0)
        self.net = net
        for self.dtype, self.tolerance in _PRECISIONS:
            self.call = call.map(lambda x: self._noisy(x.to(self.dtype)) if x.is_floating_point() else x)
            try:
                outputs = self._outputs(self._copy())
                break
            except (RuntimeError, TypeError):  # some networks make tensors of fixed precision
                if self.dtype is _PRECISIONS[-1][0]:
                    raise
        if not outputs or not all(output.isfinite().all() for output in outputs):
            raise ValueError("the network gives no finite outputs on the example inputs")

    def _copy(self) -> nn.Module:
        copy = shared_copy(self.net)
        for tensor in (*copy.parameters(), *copy.buffers()):
            if tensor.is_floating_point():
                tensor.data = tensor.data.to(self.dtype, copy=True)
        for parameter in copy.parameters():
            # fresh networks have zeros and ones in places where trained ones do not
            if parameter.dim() < 2 or bool((parameter == parameter.flatten()[:1]).all()):
                parameter.data = self._noisy(parameter.data)
        return copy

    def sift(self, families: Sequence[StructureFamily]) -> tuple[list[StructureFamily], list[LeftOut]]:
        """Separate the families that pass, all of them together, from those that do not.

        All are tried at once; only if that fails, halves are, so that f offenders among F families cost
        about f log F verifications.
        """
        failed: list[LeftOut] = []

        def extend(passed: list[StructureFamily], candidates: list[StructureFamily]) -> list[StructureFamily]:
            reason = self._failure([*passed, *candidates])
            if reason is None:
                return [*passed, *candidates]
            if len(candidates) == 1:
                failed.append(LeftOut(candidates[0].name, reason))
                return passed
            middle = len(candidates) // 2
            return extend(extend(passed, candidates[:middle]), candidates[middle:])

        return (extend([], list(families)) if families else []), failed

    def _failure(self, families: Sequence[StructureFamily]) -> str | None:
        """Say what goes wrong with some families; None if nothing does."""
        orders = [torch.randperm(family.size, generator=self.random) for family in families]
        for half in (False, True):
            keep = {
                family.name: (order < family.size // 2) ^ half
                for family, order in zip(families, orders, strict=True)
            }
            theta = {
                name: torch.empty(mask.shape).uniform_(0.1, 1.0, generator=self.random) * mask
                for name, mask in keep.items()
            }
            try:
                net = self._copy()
                expected, changed = self._masked(net, families, keep, theta)
                if not self._equal(expected, changed):
                    return "the outputs depend on channels whose gain is 0"
                compact_(net, families, keep, theta)
                small = self._outputs(net)
            except Exception as error:
                line = next(iter(str(error).splitlines()), "")
                return f"the network does not run without some of them ({type(error).__name__}: {line})"
            if not self._equal(changed, small):
                return "the outputs change when some of them are removed"
        return None

    def _masked(
        self,
        net: nn.Module,
        families: Sequence[StructureFamily],
        keep: Mapping[str, Tensor],
        theta: Mapping[str, Tensor],
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return the outputs with gains, before and after all that writes a channel of gain 0 changes."""
        device = next(net.parameters()).device
        gates = Gates(net, families)
        with gates.open({name: gain.to(device) for name, gain in theta.items()}):
            before = self._outputs(net)
            self._rewrite(net, families, keep)
            after = self._outputs(net)
        Gates.detach_(net)
        return before, after

    def _rewrite(
        self, net: nn.Module, families: Sequence[StructureFamily], keep: Mapping[str, Tensor]
    ) -> None:
        """Give new values to all that writes or carries the channels not kept."""
        state = net.state_dict()
        for family in families:
            for member in family.members:
                if member.role == "consume":
                    continue
                positions = member.positions[~keep[family.name][member.structures]]
                for name, dim in member.tensors:
                    tensor = state[name]
                    if not tensor.is_floating_point():
                        continue  # which inputs are read, where each is weighted too
                    shape = [*tensor.shape[:dim], len(positions), *tensor.shape[dim + 1 :]]
                    values = self._noise(tensor, shape)
                    if name.endswith("running_var"):  # small ones would blow the outputs up
                        values = values.abs().clamp(min=float(values.abs().mean()) / 4)
                    tensor.index_copy_(dim, positions.to(tensor.device), values)

    def _outputs(self, net: nn.Module) -> list[Tensor]:
        with torch.no_grad():
            torch.default_generator.manual_seed(0)
            return tensor_outputs(net, self.call)

    def _equal(self, expected: Sequence[Tensor], actual: Sequence[Tensor]) -> bool:
        return len(expected) == len(actual) and all(
            one.shape == other.shape and bool((one - other).abs().max() <= self.tolerance * one.abs().max())
            for one, other in zip(expected, actual, strict=True)
        )

    def _noise(self, like: Tensor, shape: Sequence[int]) -> Tensor:
        """Normal noise as large as the given values, or of size 0.1 if they are all zero."""
        size = float(like.norm()) / like.numel() ** 0.5 or 0.1
        return torch.randn(shape, generator=self.random).mul_(size).to(like)

    def _noisy(self, values: Tensor) -> Tensor:
        return values + 0.1 * self._noise(values, values.shape)
