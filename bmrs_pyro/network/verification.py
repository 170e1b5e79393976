"""Try on the network itself that structures can be removed without changing what it computes."""

from __future__ import annotations

__all__ = ["Verification"]

from collections.abc import Mapping, Sequence
from itertools import count

import torch
from torch import Tensor, nn

from bmrs_pyro.network.folding import compact_
from bmrs_pyro.network.gates import Gates
from bmrs_pyro.network.inputs import Call
from bmrs_pyro.network.random_inputs import RandomInputs
from bmrs_pyro.network.random_weights import Recipe, randomise_
from bmrs_pyro.network.responses import silent_layers
from bmrs_pyro.network.structures import LeftOut, StructureFamily
from bmrs_pyro.network.uneven_masks import STEPS, TRIALS, uneven_mask
from bmrs_pyro.network.untouched import shared_copy, tensor_outputs

# precision, the error allowed and the response asked for, relative to the largest output
_PRECISIONS = ((torch.float64, 1e-9, 1e-6), (torch.float32, 1e-4, 1e-3))
_RECIPES: tuple[Recipe, ...] = ("lively", "lively", "own", "given")  # lively more often: it finds most
_ATTEMPTS = 3 * len(_RECIPES)

_CHANGED = "the outputs change when some of them are removed (they are mixed, or treated by their place)"
_SILENT = (
    "the outputs do not respond to the weights of {!r} on random weights and call, so nothing shows that it can lose "
    "channels; give example inputs on which they do"
)


class Verification:
    """Tries families on copies of a network.

    A trial gives the copy random weights and call, masks that keep few, most or a run of the structures, and gains
    to those kept. The outputs must stay the same when the others are cut out and the gains folded in; then once more
    with fresh weights, from what is left. A trial counts for a family if the outputs respond to what is kept of it in
    every layer that writes or reads it; else it is repeated, with other weights and longer inputs.

    All families are tried at once. When that fails, halves are, with the same masks and weights, so that nothing but
    the families decides. The last trial is one that all accepted families pass together.

    Args:
        net: the network; left as it is.
        call: how it is called; noise is added to its call, so zeros will do.
    """

    def __init__(self, net: nn.Module, call: Call) -> None:
        self.net, self.example = net, call
        self.numbers: dict[str, int] = {}
        self._begin(*_PRECISIONS[0])

    def _begin(self, dtype: torch.dtype, tolerance: float, least: float) -> None:
        self.dtype, self.tolerance, self.least = dtype, tolerance, least
        self.left_out: list[LeftOut] = []
        self.given = self.example.map(lambda x: x.detach().to(dtype) if x.is_floating_point() else x)
        self.inputs = RandomInputs(self.given, self._works)

    def sift(self, families: Sequence[StructureFamily]) -> tuple[list[StructureFamily], list[LeftOut]]:
        """Separate the families that pass every trial from those that do not, with the reason.

        Raises:
            ValueError: the network's outputs are not finite.
        """
        self.numbers = {family.name: number for number, family in enumerate(families)}
        try:
            return self._through_all(families), self.left_out
        except _UnfitPrecisionError:  # some networks make tensors of fixed precision
            self._begin(*_PRECISIONS[1])
            return self._through_all(families), self.left_out

    def _through_all(self, families: Sequence[StructureFamily]) -> list[StructureFamily]:
        """Return the families that pass every trial, the last of them together."""
        left = list(families)
        for trial in count():
            before = len(left)
            left = self._through(trial, left)
            if not left or (trial + 1 >= TRIALS and len(left) == before):
                break
        return left

    def _through(self, trial: int, families: list[StructureFamily]) -> list[StructureFamily]:
        """Return the families that pass a trial."""
        passed, waiting = set[str](), families
        silent: dict[str, str] = {}
        for attempt in range(_ATTEMPTS):
            fit, silent = self._fit(trial, attempt, waiting)
            passed |= {family.name for family in fit} - silent.keys()
            waiting = [family for family in fit if family.name in silent]
            if not waiting:
                break
        self.left_out += [LeftOut(family.name, silent[family.name]) for family in waiting]
        return [family for family in families if family.name in passed]

    def _fit(
        self, trial: int, attempt: int, group: list[StructureFamily]
    ) -> tuple[list[StructureFamily], dict[str, str]]:
        """Return the families of a group that pass together, and why some of them have shown nothing."""
        reason, silent = self._outcome(trial, attempt, group)
        if reason is None:
            return group, silent
        if len(group) == 1:
            self.left_out.append(LeftOut(group[0].name, reason))
            return [], {}
        middle = len(group) // 2
        left, silent = self._fit(trial, attempt, group[:middle])
        right, others = self._fit(trial, attempt, group[middle:])
        if not left or not right:
            return left + right, silent | others
        if len(left) + len(right) < len(group):
            reason, together = self._outcome(trial, attempt, left + right)
            if reason is None:
                return left + right, together
        for family in right:  # what passes alone does not with what stands before it
            reason, together = self._outcome(trial, attempt, [*left, family])
            if reason is None:
                left, silent = [*left, family], together
            else:
                self.left_out.append(LeftOut(family.name, reason))
        return left, silent

    def _outcome(
        self, trial: int, attempt: int, families: Sequence[StructureFamily]
    ) -> tuple[str | None, dict[str, str]]:
        """Remove structures of some families from a random copy, twice.

        Returns:
            What goes wrong, None if nothing does; and why families have shown nothing, by name.
        """
        recipe = _RECIPES[attempt % len(_RECIPES)]
        random = torch.Generator().manual_seed(1000 * trial + attempt)
        net = self._copy(recipe, random)
        call = self.inputs.draw(attempt // len(_RECIPES), random)
        silent: dict[str, str] = {}
        for step in range(STEPS):
            if step and recipe != "given":
                randomise_(net, recipe, self.dtype, random)
            keep, theta = self._masks(families, trial, step, random)
            try:
                with torch.no_grad():
                    expected = self._gated(net, families, theta, call)
            except Exception as error:
                if self._works(call, net):
                    return _failure(error), {}
                expected = []
            if not _finite(expected):
                self._require_outputs()
                return None, dict.fromkeys(
                    self.numbers, "the network gives no finite outputs on random weights"
                )
            try:
                families = compact_(net, families, keep, theta)
                with torch.set_grad_enabled(step == 0):
                    actual = self._outputs(net, call)
            except Exception as error:
                return _failure(error), {}
            if not self._equal(expected, actual):
                return _CHANGED, {}
            if step == 0:
                silent = self._silent(net, families, call, actual, random)
            del actual  # its graph holds the old weights
        return None, silent

    def _silent(
        self,
        net: nn.Module,
        families: Sequence[StructureFamily],
        call: Call,
        outputs: Sequence[Tensor],
        random: torch.Generator,
    ) -> dict[str, str]:
        """Say which families the outputs of a small network do not respond to, and why."""
        try:
            layers = silent_layers(net, families, outputs, self.least, random)
        except RuntimeError:  # layers that change their input in place can be trained with gains alone
            ones = {family.name: torch.ones(family.size) for family in families}
            layers = silent_layers(net, families, self._gated(net, families, ones, call), self.least, random)
        return {family: _SILENT.format(layer) for family, layer in layers.items()}

    def _copy(self, recipe: Recipe, random: torch.Generator) -> nn.Module:
        copy = shared_copy(self.net)
        randomise_(copy, recipe, self.dtype, random)
        for parameter in copy.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        return copy

    def _masks(
        self, families: Sequence[StructureFamily], trial: int, step: int, random: torch.Generator
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Draw masks, and gains that leave the consumers' inputs as large as they were."""
        keep = {
            family.name: uneven_mask(family.size, trial, step, self.numbers[family.name])
            for family in families
        }
        theta = {
            name: torch.empty(mask.shape).uniform_(0.5, 1.5, generator=random)
            * mask
            / mask.float().mean().sqrt()
            for name, mask in keep.items()
        }
        return keep, theta

    def _gated(
        self,
        net: nn.Module,
        families: Sequence[StructureFamily],
        theta: Mapping[str, Tensor],
        call: Call,
    ) -> list[Tensor]:
        device = next(net.parameters()).device
        gates = Gates(net, families)
        try:
            with gates.open({name: gain.to(device) for name, gain in theta.items()}):
                return self._outputs(net, call)
        finally:
            Gates.detach_(net)

    def _require_outputs(self) -> None:
        """Raise if it is not due to the random weights and inputs that there are no finite outputs."""
        try:
            outputs = self._outputs(self._copy("given", torch.Generator().manual_seed(0)), self.given)
        except Exception as error:
            raise _UnfitPrecisionError from error
        if not _finite(outputs):
            raise ValueError("the network gives no finite outputs on the example inputs")

    def _works(self, call: Call, net: nn.Module | None = None) -> bool:
        try:
            with torch.no_grad():
                return _finite(
                    self._outputs(net or self._copy("given", torch.Generator().manual_seed(0)), call)
                )
        except Exception:
            return False

    def _outputs(self, net: nn.Module, call: Call) -> list[Tensor]:
        torch.default_generator.manual_seed(0)
        return tensor_outputs(net, call)

    def _equal(self, expected: Sequence[Tensor], actual: Sequence[Tensor]) -> bool:
        return len(expected) == len(actual) and all(
            one.shape == other.shape and bool((one - other).abs().max() <= self.tolerance * one.abs().max())
            for one, other in zip(expected, actual, strict=True)
        )


class _UnfitPrecisionError(Exception):
    """The network does not run in the precision that it is tried in."""


def _finite(outputs: Sequence[Tensor]) -> bool:
    return bool(outputs) and all(bool(output.isfinite().all()) for output in outputs)


def _failure(error: Exception) -> str:
    line = next(iter(str(error).splitlines()), "")
    return f"the network does not run without some of them ({type(error).__name__}: {line})"
