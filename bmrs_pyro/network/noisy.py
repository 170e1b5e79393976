"""A network whose structures have gains, given as an argument."""

from __future__ import annotations

__all__ = ["NoisyNetwork", "refuse_several_draws"]

import sys
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bmrs_pyro.network.discovery.finding import find_structures
from bmrs_pyro.network.explicit_attention import make_explicit_
from bmrs_pyro.network.gates import Gates, refuse_no_gains
from bmrs_pyro.network.inputs import Call, batch_size
from bmrs_pyro.network.kinds import refuse_unfit
from bmrs_pyro.network.nested import map_leaves
from bmrs_pyro.network.recurrent import lay_out_
from bmrs_pyro.network.removal import Removal, remove_
from bmrs_pyro.network.row_check import MOST_UNDECIDED, tried_rows
from bmrs_pyro.network.row_trial import RowsUndecided
from bmrs_pyro.network.structures import StructureFamily, Structures

_SEVERAL_DRAWS = ("num_particles_vectorized", "_num_predictive_samples")
"""Names of Pyro's plates around a model that is called once for several draws."""


class NoisyNetwork(nn.Module):
    """A network with a gain θ_c for every structure c, at the inputs of the layers that read it.

    A consumer with weights W computes W (θ ⊙ x) instead of W x. Layers between producer and consumer (batch norm,
    activation, pooling) see no gain. All consumers of a residual stream share its gains. A structure with gain 0 can
    be cut out of all layers that hold it.

    The network is wrapped, not copied: it keeps its parameters, and works as before outside of this module. No state
    of a call is kept. Three things change. An ``nn.MultiheadAttention`` whose heads are structures is replaced by a
    layer that computes the same by four linear layers with new parameters. A layer with weight norm is replaced by a
    plain one with the weight that it computes. Create optimisers afterwards. An
    ``nn.TransformerEncoder`` with structures puts out the same at padding in evaluation mode as in training mode, where
    torch's own may put out zeros in evaluation mode.

    Args:
        net: the network; its consumers get a hook each.
        *example_inputs: the arguments of a call, kept to count multiply-accumulates. If the last one is a dict whose
            keys are parameters of ``forward``, its items are passed by name, as in ``net(**batch)``.
        structures: families found before with :func:`find_structures`, or some of them; None finds them.
        trained: find the structures for the reduction of a trained network, see :func:`find_structures`.

    Raises:
        ValueError: no structure can be offered, or :func:`find_structures` refuses the network.
        TypeError: it is no module, or its outputs hold an object that cannot be searched for tensors.
    """

    structures: Structures
    rows_tried = False
    rows_undecided = 0
    """Whether it was checked that the rows of every consumer's input are the examples of the batch."""

    def __init__(
        self,
        net: nn.Module,
        *example_inputs: Any,
        structures: Iterable[StructureFamily] | None = None,
        trained: bool = False,
    ) -> None:
        super().__init__()
        refuse_unfit(net)
        found = structures
        if found is None:
            found = find_structures(net, *example_inputs, trained=trained)
        self.structures = found if isinstance(found, Structures) else Structures(found)
        if not self.structures:
            left_out = self.structures.left_out
            why = "; ".join(f"{name}: {reason}" for name, reason in left_out[:3])
            if len(left_out) > 3:
                why += f"; and {len(left_out) - 3} more, in find_structures(net, x).left_out"
            remedy = "give a network with hidden channels, neurons or heads that only plain layers read"
            norms = [one for _, one in left_out if "normalises over them" in one and "GroupNorm" not in one]
            if norms and not trained:
                remedy += ", or trained weights and trained=True (bmrs fit --weights), where norms may lose channels"
            raise ValueError(
                f"none of the network's {len(left_out)} structure families can be removed "
                f"({why or 'it has no layer that is known'}); {remedy}"
            )
        make_explicit_(net, {member.module for family in self.structures for member in family.members})
        self.net = net
        self.example_inputs = map_leaves(lambda x: x.detach() if isinstance(x, Tensor) else x, example_inputs)
        self._by_name = bool(Call.of(net, example_inputs).kwargs)
        self.gates = Gates(net, self.structures)
        self._sizes = {family.name: family.size for family in self.structures}
        # multiply-accumulates of products without weights, per structure; measured when a cost model needs them first
        self.products_of_one: dict[str, float] = {}

    def forward(self, x: Any, theta: Mapping[str, Tensor] | None = None) -> Any:
        """Run the network.

        Args:
            x: its input; a tuple for several inputs. A dict, alone or as the last input, is passed like the example
                inputs: by name, or as one input. Dimension 0 of the first tensor is the batch.
            theta: gains by family, ``(C,)``, or ``(n, C)`` where n divides the batch: example i has the gains of row
                i mod n, so that ``(batch, C)`` are gains for each example. Families not named have gain
                1. The first call with gains ``(n, C)`` checks that the network keeps every example in its row.

        Raises:
            ValueError: a name is unknown, a shape does not fit, or gains per example would multiply other examples.
            TypeError: theta holds no tensors by name.
            NotImplementedError: Pyro makes several draws in one call.
        """
        call = Call.of(self.net, x, by_name=self._by_name)
        if theta is None or (isinstance(theta, Mapping) and not theta):
            return call(self.net)
        batch = self._batch(x, theta)
        with self.gates.open(theta, batch):
            outputs = call(self.net)
        if batch is not None and not self.rows_tried:
            self._try_rows(x, batch)
        return outputs

    def _batch(self, x: Any, theta: Mapping[str, Tensor]) -> int | None:
        """Check the gains' shapes; return the number of examples where they do not all have the same gains."""
        batch = count = None
        refuse_no_gains(theta)
        refuse_several_draws()
        for name, gain in theta.items():
            size = self._sizes.get(name)
            if size is None:
                raise ValueError(
                    f"theta has gains for {name!r}; the network's families are {list(self._sizes)}"
                )
            if gain.shape == (size,):
                continue
            batch = batch_size(x) if batch is None else batch
            count = len(gain) if count is None and gain.dim() == 2 else count
            if not batch or gain.shape != (count, size) or not count or batch % count:
                raise ValueError(
                    f"the gains of {name!r} have shape {tuple(gain.shape)}; expected ({size},) or ({batch}, {size}), "
                    "the batch first, or fewer rows that divide the batch, as many for all families"
                )
        return batch

    def _try_rows(self, x: Any, batch: int) -> None:
        try:
            doubt = tried_rows(self, x, batch).doubt
        except RowsUndecided:  # the call itself may say why; other examples may decide
            self.rows_undecided += 1
            self.rows_tried = self.rows_undecided >= MOST_UNDECIDED
            return
        if doubt is not None and doubt.proven:
            raise ValueError(
                f"the examples of a batch cannot have gains of their own: {doubt.reason}; give gains (C,) for all"
            )
        self.rows_tried = True

    @property
    def norms(self) -> list[str]:
        """Names of the layer norms whose statistics are weighed by gains."""
        return [member.module for family in self.structures for member in family.norms]

    @property
    def unadaptable(self) -> frozenset[str]:
        """Families whose gains no trained weight can hold: a norm weighs them, or a frozen layer reads them."""
        return frozenset(
            name for gate in self.gates if not gate.held_by_trained(self.net) for name, _ in gate.families
        )

    def fold_(self, theta: Mapping[str, Tensor]) -> None:
        """Multiply gains, ``(C,)`` each, into the weights of the layers that read the structures."""
        self.gates.fold_(self.net, theta)

    @property
    def recurs(self) -> bool:
        """Whether a recurrent layer reads structures of its own, which need one gain each for a whole batch."""
        return any(member.role == "recur" for family in self.structures for member in family.members)

    def remove_(self, keep: Mapping[str, Tensor]) -> Removal:
        """Cut structures out of the network, in place, during training or after.

        Parameters and buffers stay the same objects, so optimisers keep them. Those that lose entries get new
        ``.data`` and no gradient. :meth:`Removal.cut` cuts an optimiser's moments in the same way.

        Args:
            keep: mask ``(C,)`` per family, True for what stays; families not named stay whole.

        Raises:
            ValueError: a mask is of an unknown family, has another length or keeps nothing.
            TypeError: a mask is not boolean.
        """
        removal, left = remove_(self.net, self.structures, keep)
        self.structures = Structures(left, self.structures.left_out)
        self._sizes = {family.name: family.size for family in self.structures}
        Gates.detach_(self.net)
        self.gates = Gates(self.net, self.structures)
        lay_out_(self.net)
        return removal


def refuse_several_draws() -> None:
    """Raise NotImplementedError inside the plate by which Pyro makes several draws at once.

    Its rows of gains look like those of groups of examples, and its weights have a dimension too many.
    """
    if torch.compiler.is_compiling():
        return
    runtime = sys.modules.get("pyro.poutine.runtime")  # this package does not import Pyro
    handlers = [] if runtime is None else runtime._PYRO_STACK
    if any(getattr(handler, "name", None) in _SEVERAL_DRAWS for handler in handlers):
        raise NotImplementedError(
            "the gains or weights have one dimension more than the model gave them, because of "
            "vectorize_particles=True (the default of ReweightedWakeSleep and EnergyDistance) or Predictive(..., "
            "parallel=True); a network takes one set of draws per call: give vectorize_particles=False, and "
            "parallel=False"
        )
