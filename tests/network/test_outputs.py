"""What a network puts out is seen, in whatever it lies, and what cannot be seen into is refused."""

from __future__ import annotations

from collections import OrderedDict, UserDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import register_pytree_node

from bmrs_pyro.network import find_structures


@dataclass(frozen=True)
class Out:
    hidden: Tensor
    more: Any = None


class ModelOutput(OrderedDict[str, Any]):
    """Not registered as a pytree."""


class Registered:
    def __init__(self, hidden: Tensor) -> None:
        self.hidden = hidden


register_pytree_node(Registered, lambda one: ([one.hidden], None), lambda items, _: Registered(*items))
Pair = namedtuple("Pair", "logits hidden")


class Net(nn.Module):
    """Two hidden layers, of which the outputs may hold the first."""

    def __init__(self, outputs: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 2)
        self.outputs = outputs

    def forward(self, x: Tensor) -> Any:
        h = self.first(x).relu()
        return self.outputs(self.last(self.second(h).relu()), h)


def offered(outputs: Callable[[Tensor, Tensor], Any]) -> list[str]:
    return [family.name for family in find_structures(Net(outputs), torch.randn(2, 4))]


@pytest.mark.parametrize(
    "outputs",
    [
        lambda y, h: (y, Out(h)),
        lambda y, h: {"y": y, "more": [Out(y, {"deep": Out(h)})]},
        lambda y, h: ModelOutput(y=y, h=h),
        lambda y, h: UserDict(y=y, h=h),
        lambda y, h: Pair(y, h),
        lambda y, h: (y, Registered(h)),
        lambda y, h: (y, nn.utils.rnn.pack_sequence([h])),
        lambda y, h: (y, torch.view_as_complex(h.view(-1, 3, 2))),
        lambda y, h: (y, torch.fft.rfft(h)),
        lambda y, h: (y, (1000 * h).long()),
        lambda y, h: (y, h > 0.1),
        lambda y, h: (y, h.detach()),
        lambda y, h: (y, h.to_sparse()),
        lambda y, h: (y, h.sum().item()),
    ],
    ids=[
        *(
            "dataclass",
            "nested",
            "OrderedDict",
            "UserDict",
            "NamedTuple",
            "pytree",
            "packed",
            "complex",
            "Fourier",
        ),
        *("integer", "boolean", "detached", "sparse", "number"),
    ],
)
def test_a_layer_in_the_outputs_stays_whole(outputs: Callable[[Tensor, Tensor], Any]) -> None:
    assert offered(outputs) == ["theta.second"]


@pytest.mark.parametrize(
    "outputs",
    [
        lambda y, h: (y, None, "name", 3, y.dtype, y.shape),
        lambda y, h: Out(y, y.argmax(1)),
        lambda y, h: torch.complex(y, -y),
    ],
    ids=["no tensors", "classes", "complex"],
)
def test_outputs_that_hold_no_hidden_layer_hinder_nothing(outputs: Callable[[Tensor, Tensor], Any]) -> None:
    assert offered(outputs) == ["theta.first", "theta.second"]


@pytest.mark.parametrize(
    ("outputs", "kind"),
    [
        (lambda y, h: (y, SimpleNamespace(h=h)), "SimpleNamespace"),
        (lambda y, h: Out(y, torch.distributions.Normal(h, 1.0)), "Normal"),
        (lambda y, h: (y, h.detach().numpy()), np.ndarray.__name__),
        (lambda y, h: (y, {h}), "set"),
        (lambda y, h: (y, lambda: h), "function"),
    ],
)
def test_what_cannot_be_searched_is_refused_by_type(
    outputs: Callable[[Tensor, Tensor], Any], kind: str
) -> None:
    with pytest.raises(
        TypeError, match=rf"puts out an object of type '{kind}', which cannot be searched"
    ) as error:
        offered(outputs)
    assert "\n" not in str(error.value)


class Cache:
    """As transformers.cache_utils has one, which need not be installed."""

    __module__ = "transformers.cache_utils"


class DynamicCache(Cache):
    def __init__(self, keys: Tensor) -> None:
        self.keys = keys


def test_what_a_language_model_keeps_for_its_next_call_is_no_output() -> None:
    assert offered(lambda y, h: ModelOutput(logits=y, past_key_values=DynamicCache(h))) == [
        "theta.first",
        "theta.second",
    ]
    register_pytree_node(DynamicCache, lambda one: ([one.keys], None), lambda items, _: DynamicCache(*items))
    assert offered(lambda y, h: Out(y, (DynamicCache(h), 1))) == ["theta.first", "theta.second"]
