"""All parameters of a fit: those of the model's modules, of its guide, and those that are only in Pyro's store."""

from __future__ import annotations

__all__ = ["Parts"]

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import pyro
import torch
from pyro.params.param_store import StateDict
from torch import Tensor, nn

from bmrs_pyro.distributed import broadcast_
from bmrs_pyro.inference.model import Inputs
from bmrs_pyro.network.generators import generators_kept


class Stored(Protocol):
    """A model that keeps the parameters that are only in Pyro's store."""

    stored: StateDict


class Parts:
    """The parameters and buffers of a fit, by part: one part for every module, and ``stored``.

    Args:
        model: the model; between fits its ``stored`` keeps the parameters that are only in Pyro's store.
        guide: its guide, which is a part if it is an nn.Module.
        parts: the model's parts by name; those that are not an nn.Module are ignored.
        predict: runs network and likelihood on inputs without changing them.

    Attributes:
        awaited: loaded values of parameters that are not in Pyro's store yet, by name.
    """

    def __init__(
        self,
        model: Stored,
        guide: Callable[..., Any],
        parts: Mapping[str, object],
        predict: Callable[[Any], object],
    ) -> None:
        self.model, self.guide, self.predict = model, guide, predict
        everything = {**parts, "guide": guide}
        self.modules = {name: part for name, part in everything.items() if isinstance(part, nn.Module)}
        self.awaited: dict[str, Tensor] = {}

    @property
    def stored(self) -> dict[str, Tensor]:
        """The parameters of a likelihood or a hand-written guide that are in Pyro's store but in no module."""
        held = {id(parameter) for module in self.modules.values() for parameter in module.parameters()}
        parameters = pyro.get_param_store().named_parameters()
        return {name: value for name, value in parameters if id(value) not in held}

    def copy(self) -> dict[str, dict[str, Tensor]]:
        """Return copies of all tensors."""
        parts = {name: module.state_dict() for name, module in self.modules.items()}
        return {
            part: {name: value.detach().clone() for name, value in tensors.items()}
            for part, tensors in (*parts.items(), ("stored", self.stored))
        }

    def load(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Load values from :meth:`copy`; :meth:`fill` loads those of parameters that are only in Pyro's store."""
        for name, module in self.modules.items():
            if name in tensors:  # checkpoints of earlier versions hold no likelihood
                module.load_state_dict(tensors[name])
        self.awaited = dict(tensors.get("stored", {}))

    def fill(self) -> None:
        """Load awaited values into Pyro's store; outside a run its parameters may be another model's."""
        for name, value in self.stored.items():
            if name in self.awaited:
                value.data.copy_(self.awaited.pop(name))

    def make(self, x: Inputs) -> None:
        """Run model and guide to make their parameters in Pyro's store, with the same values in every process."""
        with torch.no_grad(), pyro.poutine.block(), generators_kept():
            self.guide(x)
            self.predict(x)
        self.fill()
        broadcast_(value.data for value in self.stored.values())

    def align(self) -> None:
        """Start all processes from the first one's values."""
        for module in self.modules.values():
            broadcast_(module.state_dict().values())

    @contextmanager
    def own_store(self) -> Iterator[None]:
        """Use a separate parameter store, because another model may use the same names in the caller's store.

        At the end, and after errors, ``stored`` is copied to the caller's store and kept in the model for its next fit.
        """
        store, model = pyro.get_param_store(), self.model
        try:
            with store.scope():
                store.set_state(model.stored)
                self.fill()
                try:
                    yield
                finally:
                    names, state = self.stored, store.get_state()
                    model.stored = {
                        "params": {name: state["params"][name] for name in names},
                        "constraints": {name: state["constraints"][name] for name in names},
                    }
        finally:
            store.set_state(model.stored)
