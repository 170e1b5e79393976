"""Test on copies of the network that structures can be removed without changing what it computes."""

from __future__ import annotations

__all__ = ["Verification"]

from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from itertools import count

import torch
from torch import Tensor, nn

from bmrs_pyro.network.discovery.random_inputs import RandomInputs
from bmrs_pyro.network.discovery.random_weights import Recipe, livened, randomise_
from bmrs_pyro.network.discovery.reasons import (
    CHANGED,
    failure,
    naming_tensors,
    not_differentiable,
    unmoved,
)
from bmrs_pyro.network.discovery.responses import Responses, responses, silent
from bmrs_pyro.network.discovery.uneven_masks import STEPS, TRIALS, masks_and_gains, widths_of
from bmrs_pyro.network.folding import compact_
from bmrs_pyro.network.gates import Gates
from bmrs_pyro.network.inputs import Call
from bmrs_pyro.network.layer_norms import is_torchs
from bmrs_pyro.network.outputs import all_finite, output_error
from bmrs_pyro.network.structures import LeftOut, StructureFamily
from bmrs_pyro.network.untouched import failure_in_training, shared_copy, tensor_outputs

# precision, the largest error and the smallest response allowed, relative to the largest output
_PRECISIONS = ((torch.float64, 1e-9, 1e-6), (torch.float32, 1e-4, 1e-3))
_RECIPES: tuple[Recipe, ...] = ("lively", "lively", "own", "given")  # lively more often: it finds most
_ATTEMPTS = 3 * len(_RECIPES)
_BOTH_SIGNS = 900  # number of the first trial on the network's own weights
_LARGE = 10_000_000  # parameters; with more, weights take long to draw
_MOST, _LEAST = 0.95, 0.25  # share of kept structures that move the outputs: the aim, the least allowed


class Verification:
    """Tries families on copies of a network.

    A trial draws random weights and inputs, masks that keep few, most or a run of the structures, and gains for the
    kept ones. The outputs must not change when the others are cut out and the gains folded in. Then the same is done
    to the remaining network with fresh weights. A trial is repeated, with other weights and longer inputs, until the
    outputs have responded to the kept structures of every family, in each of its producers.

    All families are tried at once. If that fails, each half is tried with the same masks and weights, so that only
    the families differ. All accepted families pass the last trial together.

    Weights to which the outputs respond leave few values negative. So one more trial uses the network's own weights,
    where values have both signs, and in networks that are not large six more use weights like them and longer inputs.
    The outputs need not respond. Families are cut to the same width, in case the network compares widths. If the
    network runs in training mode, the smaller one must too.

    Args:
        net: the network; it is not changed.
        call: how it is called; noise is added to its inputs, so zeros will do.
        small: whether the network accepts a quarter of large images too; all trials but the first use it.
        unread: layers whose outputs nothing reads, so that the network's outputs need not respond to them.
    """

    def __init__(
        self, net: nn.Module, call: Call, *, small: bool = False, unread: Collection[str] = ()
    ) -> None:
        self.net, self.example, self.small, self.unread = net, call, small, unread
        self.numbers, self.cut = dict[str, int](), set[str]()
        self.widths = widths_of(net, call)
        self._begin(*_PRECISIONS[0])

    def _begin(self, dtype: torch.dtype, tolerance: float, least: float) -> None:
        self.dtype, self.tolerance, self.least = dtype, tolerance, least
        self.left_out: list[LeftOut] = []
        self.given = self.example.map(lambda x: x.detach().to(dtype) if x.is_floating_point() else x)
        self.inputs = RandomInputs(self.given, self._works, small=self.small)

    def sift(self, families: Sequence[StructureFamily]) -> tuple[list[StructureFamily], list[LeftOut]]:
        """Separate the families that pass every trial from those that do not, with the reason.

        Raises:
            ValueError: the network's outputs are not finite, or it cannot be differentiated.
        """
        self.numbers = {family.name: number for number, family in enumerate(families)}
        self.cut = {name for family in families for member in family.members for name, _ in member.tensors}
        norms = [self.net.get_submodule(one.module) for family in families for one in family.norms]
        if not all(map(is_torchs, norms)):
            self._begin(*_PRECISIONS[1])  # other code may compute in single precision
        try:
            passed = self._passing_all(families)
        except _UnfitPrecisionError:  # some networks make tensors of fixed precision
            self._begin(*_PRECISIONS[1])
            passed = self._passing_all(families)
        return passed, naming_tensors(self.net, families, self.left_out)

    def _passing_all(self, families: Sequence[StructureFamily]) -> list[StructureFamily]:
        """Return the families that pass every trial, the last of them together."""
        left = list(families)
        for trial in count():
            before = len(left)
            left = self._passing(trial, left) if left else []
            if not left or (trial + 1 >= TRIALS and len(left) == before):
                break
        large = sum(parameter.numel() for parameter in self.net.parameters()) > _LARGE
        own: list[Recipe] = ["own"]
        recipes: list[Recipe] = ["given", *own * (0 if large else 2 * TRIALS)]
        for trial, recipe in enumerate(recipes, _BOTH_SIGNS):
            left = self._fit(trial, _RECIPES.index(recipe), left)[0] if left else []
        return left

    def _passing(self, trial: int, families: list[StructureFamily]) -> list[StructureFamily]:
        """Return the families that pass a trial."""
        moved: Responses = {family.name: {} for family in families}
        passed, waiting = set[str](), families
        for attempt in range(_ATTEMPTS):
            waiting, found = self._fit(trial, attempt, waiting)
            for name, layers in found.items():
                moved[name] = {
                    layer: moving | moved[name].get(layer, moving)
                    for layer, moving in layers.items()
                    if layer not in self.unread
                }
            passed |= {family.name for family in waiting if silent(moved[family.name], _MOST) is None}
            waiting = [family for family in waiting if family.name not in passed]
            if not waiting:
                break
        for family in waiting:
            layer = silent(moved[family.name], _LEAST)
            if layer is None:
                passed.add(family.name)
            else:
                self.left_out.append(LeftOut(family.name, unmoved(layer)))
        return [family for family in families if family.name in passed]

    def _fit(
        self, trial: int, attempt: int, group: list[StructureFamily]
    ) -> tuple[list[StructureFamily], Responses]:
        """Return the families of a group that pass together, and what the outputs respond to."""
        reason, found = self._outcome(trial, attempt, group)
        if reason is None:
            return group, found
        if len(group) == 1:
            self.left_out.append(LeftOut(group[0].name, reason))
            return [], {}
        middle = len(group) // 2
        left, found = self._fit(trial, attempt, group[:middle])
        right, others = self._fit(trial, attempt, group[middle:])
        if not left or not right:
            return left + right, found | others
        if len(left) + len(right) < len(group):
            return self._fit(trial, attempt, left + right)
        innocent = [family for family in group if not self._fails_alone(trial, family)]
        if len(innocent) < len(group):
            return self._fit(trial, attempt, innocent) if innocent else ([], {})
        for family in right:  # it passes alone, but perhaps not together with the families before it
            reason, together = self._outcome(trial, attempt, [*left, family])
            if reason is None:
                left, found = [*left, family], together
            else:
                self.left_out.append(LeftOut(family.name, reason))
        return left, found

    def _fails_alone(self, trial: int, family: StructureFamily) -> bool:
        """Try a family alone with all weights and inputs, and leave it out if one of these shows that it fails."""
        for attempt in range(_ATTEMPTS):
            reason, _ = self._outcome(trial, attempt, [family])
            if reason is not None:
                self.left_out.append(LeftOut(family.name, reason))
                return True
        return False

    def _outcome(
        self, trial: int, attempt: int, families: Sequence[StructureFamily]
    ) -> tuple[str | None, Responses]:
        """Remove structures of some families from a random copy, twice.

        Returns:
            What goes wrong, or None; and which of the structures left by the first removal the outputs respond to.
        """
        recipe = _RECIPES[attempt % len(_RECIPES)]
        random = torch.Generator().manual_seed(1000 * trial + attempt)
        net = self._copy(recipe, random)
        longer = attempt // len(_RECIPES) if trial < _BOTH_SIGNS else trial - _BOTH_SIGNS
        call = self.inputs.draw(longer, random, small=trial > 0)
        found: Responses = {}
        for step in range(STEPS):
            if step and recipe != "given":
                randomise_(net, recipe, self.dtype, random, self.cut)
            width = self.widths[(trial - _BOTH_SIGNS) % len(self.widths)] if trial >= _BOTH_SIGNS else None
            keep, theta = masks_and_gains(families, self.numbers, (trial, attempt, step), width)
            try:
                with torch.no_grad(), livened(net) if recipe == "lively" else nullcontext():
                    expected = self._gated(net, families, theta, call)
            except Exception as error:
                if self._works(call, net):
                    return failure(error), {}
                expected = []
            if not all_finite(expected):
                self._require_outputs()
                return None, {}
            try:
                families = compact_(net, families, keep, theta)
                with torch.set_grad_enabled(step == 0 and trial < _BOTH_SIGNS):
                    actual = self._outputs(net, call)
            except Exception as error:
                return failure(error), {}
            off = output_error(expected, actual)
            if not off <= self.tolerance:
                with torch.no_grad():
                    if not off <= min(self.least, self._sensitivity(net, families, call, actual)):
                        return CHANGED, {}
            if step == 0 and trial < _BOTH_SIGNS:
                found = self._responses(net, families, call, actual, random)
            del actual  # its graph holds the old weights
        return self._training_failure(net, call) if trial == _BOTH_SIGNS else None, found

    def _training_failure(self, net: nn.Module, call: Call) -> str | None:
        """Say why a smaller network does not run in training mode, if the whole network does."""
        error = failure_in_training(net, call)
        whole = self._copy("given") if error else net
        return failure(error) if error and not failure_in_training(whole, call) else None

    def _responses(
        self,
        net: nn.Module,
        families: Sequence[StructureFamily],
        call: Call,
        outputs: Sequence[Tensor],
        random: torch.Generator,
    ) -> Responses:
        try:
            return responses(net, families, outputs, self.least, random)
        except RuntimeError:  # layers that change their input in place can be differentiated only with gains
            ones = {family.name: torch.ones(family.size) for family in families}
        try:
            return responses(net, families, self._gated(net, families, ones, call), self.least, random)
        except RuntimeError as error:
            raise not_differentiable(error) from error

    def _copy(self, recipe: Recipe, random: torch.Generator | None = None) -> nn.Module:
        copy = shared_copy(self.net)
        randomise_(copy, recipe, self.dtype, random or torch.Generator().manual_seed(0), self.cut)
        for parameter in copy.parameters():
            parameter.requires_grad_(parameter.is_floating_point() or parameter.is_complex())
        return copy

    def _gated(
        self, net: nn.Module, families: Sequence[StructureFamily], theta: Mapping[str, Tensor], call: Call
    ) -> list[Tensor]:
        device = next(net.parameters()).device
        gates = Gates(net, families)
        try:
            with gates.open({name: gain.to(device) for name, gain in theta.items()}):
                return self._outputs(net, call)
        finally:
            Gates.detach_(net)

    def _require_outputs(self) -> None:
        """Raise an error if the network's own weights and the example inputs give no finite outputs either."""
        try:
            outputs = self._outputs(self._copy("given"), self.given)
        except Exception as error:
            if self.dtype is _PRECISIONS[-1][0]:
                raise
            raise _UnfitPrecisionError from error
        if not all_finite(outputs):
            raise ValueError("the network gives no finite outputs on the example inputs")

    def _works(self, call: Call, net: nn.Module | None = None) -> bool:
        try:
            with torch.no_grad():
                return all_finite(self._outputs(net or self._copy("given"), call))
        except Exception:
            return False

    def _outputs(self, net: nn.Module, call: Call) -> list[Tensor]:
        torch.default_generator.manual_seed(0)
        return tensor_outputs(net, call)

    def _sensitivity(
        self, net: nn.Module, families: Sequence[StructureFamily], call: Call, outputs: Sequence[Tensor]
    ) -> float:
        """Return how far gains other by a thousandth of the tolerance move the outputs: some networks are chaotic."""
        one = torch.tensor(1 + 1e-3 * self.tolerance, dtype=torch.float64)
        theta = {family.name: one.expand(family.size) for family in families}
        return output_error(outputs, self._gated(net, families, theta, call))


class _UnfitPrecisionError(Exception):
    """The network does not run in the precision that it is tried in."""
