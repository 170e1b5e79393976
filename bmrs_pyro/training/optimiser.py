"""One fused torch optimiser for weights and variational parameters, in Pyro's interface."""

from __future__ import annotations

__all__ = ["JointOptim"]

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro.optim import PyroOptim
from torch import Tensor, nn

from bmrs_pyro.distributed import GlobalBatch, average_gradients_, world_size
from bmrs_pyro.training.options import refuse_no_number

_SCALE_FACTOR = 10.0  # learning rate of a likelihood's scale, relative to the weights'


class JointOptim(PyroOptim):
    """A Pyro optimiser that steps all parameters with one torch optimiser in parameter groups.

    Pyro's own wrapper makes one torch optimiser per parameter. Here a network's weights form one group, and the
    variational parameters that SVI passes form a second group with its own rate. If the likelihood is an nn.Module,
    its matrices have the network's rate. Its scalars and vectors, such as a learned scale, have ten times that rate,
    because Adam moves the logarithm of a scale by at most its rate in a step. If torch.distributed runs several
    processes, gradients are averaged over them before the step.

    Args:
        torch_optim_class: optimiser class such as ``torch.optim.Adam``.
        defaults: its keyword arguments with at least ``lr``, such as ``{"lr": 1e-3, "fused": True}``.
        network: the module whose weights are trained, even if the model does not register them with Pyro.
        posterior_lr_factor: learning rate of the variational parameters, relative to the weights'.

    Attributes:
        global_batch: gives this process's share of a batch while :func:`fit` trains in several processes; without it
            all processes have equal weight.

    Raises:
        ValueError: a rate is negative, infinite or NaN.
        RuntimeError: Pyro passes a parameter that has the name of a network's weight but is another tensor. This
            happens with a second model in one parameter store, or with a loaded store.
    """

    def __init__(
        self,
        torch_optim_class: type[torch.optim.Optimizer],
        defaults: Mapping[str, Any],
        *,
        network: nn.Module | None = None,
        posterior_lr_factor: float = 10.0,
    ) -> None:
        for name, rate in (("lr", defaults["lr"]), ("posterior_lr_factor", posterior_lr_factor)):
            refuse_no_number(name, rate, least=0)
        super().__init__(torch_optim_class, dict(defaults))
        self.torch_optim_class = torch_optim_class
        self.defaults = dict(defaults)
        self.lr: float = defaults["lr"]
        self.network = network
        self.posterior_lr_factor = posterior_lr_factor
        self.optimizer: torch.optim.Optimizer | None = None
        self.global_batch: GlobalBatch | None = None
        self._factor = 1.0
        self._names: dict[int, str] = {}
        self._waiting: dict[str, dict[str, Tensor]] = {}

    def __call__(self, params: Iterable[Tensor], *args: Any, **kwargs: Any) -> None:
        """Step the network's weights and ``params``, then set all gradients to None, so Pyro need not zero them."""
        new = [parameter for parameter in params if id(parameter) not in self._names]
        if new or self.optimizer is None:
            self._adopt(new)
        if world_size() > 1:
            weight = self.global_batch.weight if self.global_batch is not None else 1 / world_size()
            average_gradients_(self.parameters.values(), weight)
        self.optimizer.step(*args, **kwargs)  # type: ignore[union-attr]
        self.optimizer.zero_grad(set_to_none=True)  # type: ignore[union-attr]

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The parameters seen so far, by name."""
        groups = self.optimizer.param_groups if self.optimizer else []
        return {self._names[id(p)]: p for group in groups for p in group["params"]}

    def scale_rates(self, factor: float) -> None:
        """Set every learning rate to ``factor`` times its initial value."""
        self._factor = factor
        for group in self.optimizer.param_groups if self.optimizer else []:
            group["lr"] = factor * group["base_lr"]

    def capturable_(self) -> None:
        """Make the coming steps capturable by a CUDA graph.

        Raises:
            ValueError: the optimiser counts its steps on the CPU.
        """
        if not any(self.defaults.get(kind) for kind in ("fused", "capturable")):
            raise ValueError(
                f"steps of this {self.torch_optim_class.__name__} cannot be recorded as a CUDA graph; make it with "
                "fused=True or capturable=True"
            )
        for group in self.optimizer.param_groups if self.optimizer else []:
            if "capturable" in group:
                group["capturable"] = True

    def cut_(self, parameter: Tensor, index: Tensor) -> None:
        """Cut a parameter's moments in the same way as its values: ``moment.flatten()[index]``.

        Args:
            parameter: the parameter, whose ``data`` already has the new shape.
            index: flat indices into the old values, in the new shape.

        Raises:
            RuntimeError: the index does not have the parameter's shape. A fused optimiser would not notice.
        """
        if index.shape != parameter.shape:
            raise RuntimeError(
                f"moments cut to {tuple(index.shape)} for a parameter of {tuple(parameter.shape)}"
            )
        state = self.optimizer.state.get(parameter, {}) if self.optimizer else {}
        for key, value in state.items():
            if isinstance(value, Tensor) and value.dim() > 0:
                state[key] = _like(parameter, value.flatten()[index.to(value.device)])

    def get_state(self) -> dict[str, dict[str, Tensor]]:
        """Return the optimiser's tensors by parameter name (moments, step counts)."""
        if self.optimizer is None:
            return dict(self._waiting)
        state = self.optimizer.state
        return {
            name: {key: torch.as_tensor(value).clone() for key, value in state[parameter].items()}
            for name, parameter in self.parameters.items()
            if parameter in state
        }

    def set_state(self, state_dict: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Load a state from :meth:`get_state`, now or when its parameters are first seen.

        Raises:
            RuntimeError: a tensor and its parameter differ in shape, which a fused optimiser would not notice. It is
                raised when the parameter is first seen; the network's parameters are seen at once.
        """
        self._waiting = {name: dict(state) for name, state in state_dict.items()}
        self._consume()

    def save(self, filename: str | Path) -> None:
        """Write the state of :meth:`get_state` to a file."""
        torch.save(self.get_state(), filename)

    def load(self, filename: str | Path, map_location: Any = None) -> None:
        """Load a state written by ``save``, as :meth:`set_state` does; tensors only, nothing is unpickled."""
        self.set_state(torch.load(filename, map_location=map_location, weights_only=True))

    def _adopt(self, params: list[Tensor]) -> None:
        """Put parameters not seen before into their groups."""
        weights = dict(self.network.named_parameters()) if self.network is not None else {}
        mine = {id(weight) for weight in weights.values()}
        store = pyro.get_param_store()
        # SVI passes a set; sorted by name, the order is the same in every process
        named = sorted(
            (str(store.param_name(parameter)), parameter) for parameter in params if id(parameter) not in mine
        )
        for name, parameter in named:
            if self.network is not None and "$$$" in name and not name.startswith("likelihood$$$"):
                raise RuntimeError(
                    f"parameter {name!r} of shape {tuple(parameter.shape)} is not a tensor of the optimiser's network: "
                    "a second model in one parameter store, or a loaded store? Call pyro.clear_param_store(), or "
                    "pyro.module(name, network, update_module_params=True) before making the optimiser"
                )
        groups: list[tuple[list[tuple[str, Tensor]], float]] = []
        if self.optimizer is None and weights:
            # includes frozen weights: the optimiser skips them while they have no gradient
            groups.append((list(weights.items()), 1.0))
            self._names.update({id(weight): name for name, weight in weights.items()})
        likelihood = [pair for pair in named if pair[0].startswith("likelihood$$$")]
        posteriors = [pair for pair in named if not pair[0].startswith("likelihood$$$")]
        groups.append(([pair for pair in likelihood if pair[1].dim() > 1], 1.0))
        groups.append(([pair for pair in likelihood if pair[1].dim() < 2], _SCALE_FACTOR))
        groups.append((posteriors, self.posterior_lr_factor if self.network is not None else 1.0))
        self._names.update({id(parameter): name for name, parameter in named})
        for members, rate in groups:
            if not members:
                continue
            base_lr = rate * self.lr
            group = {
                "params": [p for _, p in members],
                "base_lr": base_lr,
                "lr": self._factor * base_lr,
            }
            if self.optimizer is None:
                self.optimizer = self.torch_optim_class([group], **self.defaults)
            else:
                self.optimizer.add_param_group(group)
        self._consume()

    def _consume(self) -> None:
        on_device = any(self.defaults.get(kind) for kind in ("fused", "capturable"))
        weights = dict(self.network.named_parameters()) if self.network is not None else {}
        for name, parameter in (weights | self.parameters).items():
            for key, value in self._waiting.get(name, {}).items():
                if value.dim() and value.shape != parameter.shape:
                    raise RuntimeError(
                        f"the optimiser's state has {key!r} of shape {tuple(value.shape)} for parameter {name!r} of "
                        f"{tuple(parameter.shape)}; load the state of a run of this network, with as many structures"
                    )
        for name, parameter in self.parameters.items():
            state = self._waiting.pop(name, None)
            if state is not None:
                # a fused or capturable optimiser needs its step count on the parameter's device, others on the CPU
                self.optimizer.state[parameter] = {  # type: ignore[union-attr]
                    key: _like(parameter, value)
                    if value.dim()
                    else value.clone().to(parameter.device if on_device else "cpu")
                    for key, value in state.items()
                }


def _like(parameter: Tensor, value: Tensor) -> Tensor:
    """Return a moment on its parameter's device and in its memory format, as a fused optimiser requires."""
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)
