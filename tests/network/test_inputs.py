"""Networks called with keywords, dicts, tuples, None and numbers: what is found, computed and counted."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bmrs_pyro.network import NoisyNetwork, compact, complexity, find_structures
from bmrs_pyro.network.inputs import Call
from tests.network.networks import gains

Batch = dict[str, Tensor]


@dataclass
class Output:
    logits: Tensor
    hidden: Tensor | None = None
    name: str = "tagger"


class Tagger(nn.Module):
    """A network called as a language model is: all by name, most of it optional, an object put out."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.kinds = nn.Embedding(20, 6), nn.Embedding(2, 6)
        self.hidden, self.last = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        scale: float = 1.0,
        layers: tuple[int, ...] = (),
    ) -> Output:
        x = self.words(input_ids) * scale
        x = x if token_type_ids is None else x + self.kinds(token_type_ids)
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        x = (x * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)
        return Output(self.last(self.hidden(x).relu()))


def batch(examples: int = 3, length: int = 5) -> Batch:
    mask = torch.ones(examples, length, dtype=torch.long)
    mask[0, 3:] = 0
    return {
        "input_ids": torch.randint(20, (examples, length)),
        "attention_mask": mask,
        "token_type_ids": torch.randint(2, (examples, length)),
    }


FORMS: dict[str, Callable[[Batch], tuple[Any, ...]]] = {
    "dict": lambda x: (x,),
    "tokenizer's": lambda x: (UserDict(x),),
    "by position": lambda x: tuple(x.values()),
    "both": lambda x: (x["input_ids"], {name: x[name] for name in ("token_type_ids", "attention_mask")}),
    "None and numbers": lambda x: ({**x, "scale": 1, "layers": (1, 2)},),
    "all by position": lambda x: (*x.values(), 1.0, ()),
}


@pytest.mark.parametrize("form", FORMS)
def test_gains_and_removal_in_every_form(form: str) -> None:
    example = batch()
    inputs = FORMS[form](example)
    network = NoisyNetwork(Tagger().double(), *inputs)
    assert {family.name: family.size for family in network.structures} == {
        "theta.words": 6,
        "theta.hidden": 8,
    }
    theta = gains(network.structures, 3)
    together = network(inputs, theta).logits
    if len(inputs) == 1:
        assert torch.equal(network(inputs[0], theta).logits, together)
    for i in range(3):
        one = {name: gain[i] for name, gain in theta.items()}
        keep = {name: torch.arange(len(gain)) % 3 > 0 for name, gain in one.items()}
        masked = {name: gain * keep[name] for name, gain in one.items()}
        small = compact(network, keep, one)
        torch.testing.assert_close(
            small(**example).logits, network(inputs, masked).logits, rtol=0, atol=1e-12
        )
        torch.testing.assert_close(together[i], network(inputs, one).logits[i], rtol=0, atol=1e-12)


def test_costs_do_not_depend_on_the_form() -> None:
    net = Tagger()
    x = batch()
    assert complexity(net, x) == complexity(net, *x.values()) == complexity(NoisyNetwork(net, x))
    assert complexity(net.to("meta"), {**x, "scale": 2}).macs == complexity(NoisyNetwork(Tagger(), x)).macs


def test_a_dict_is_named_as_the_example_was() -> None:
    x = batch()
    network = NoisyNetwork(Tagger(), x)
    with pytest.raises(TypeError, match="unexpected keyword argument 'idx'"):
        network({**x, "idx": torch.arange(3)})
    by_position = NoisyNetwork(Tagger(), *x.values())
    assert torch.equal(by_position(x).logits, by_position(tuple(x.values())).logits)


class Bag(nn.Module):
    """Takes one dict, or one of another kind of nested value."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, batch: Any, scale: float | None = None) -> dict[str, Tensor]:
        x = batch["x"] if isinstance(batch, dict) else batch.logits if isinstance(batch, Output) else batch[0]
        return {"y": self.last(self.first(x if scale is None else x * scale).relu())}


@pytest.mark.parametrize(
    "wrap", [lambda x: {"x": x, "z": None}, lambda x: [x, x], Output], ids=["dict", "list", "dataclass"]
)
def test_one_nested_input(wrap: Any) -> None:
    net, x = Bag(), torch.randn(5, 4)
    network = NoisyNetwork(net, wrap(torch.zeros(2, 4)))
    assert [family.size for family in network.structures] == [6]
    theta = {"theta.first": torch.rand(5, 6)}
    one = NoisyNetwork(Bag(), [x[:1]])
    one.load_state_dict(network.state_dict())
    y = network(wrap(x), theta)["y"]
    for i in range(5):
        alone = one([x[i : i + 1]], {"theta.first": theta["theta.first"][i]})
        torch.testing.assert_close(y[i : i + 1], alone["y"])
    assert torch.equal(network((wrap(x), None))["y"], network(wrap(x))["y"])
    assert complexity(net, wrap(x)) == complexity(net, wrap(x), 2.0)


def test_wrong_gains_and_inputs_are_named() -> None:
    x = batch()
    network = NoisyNetwork(Tagger(), x)
    with pytest.raises(
        ValueError, match=r"have shape \(4, 8\); expected \(8,\) or \(3, 8\), the batch first"
    ):
        network(x, {"theta.hidden": torch.ones(4, 8)})
    with pytest.raises(
        ValueError, match=r"\(\{'input_ids': \(3, 5\), 'b': None\}\): .* \(forward has no 'b'\)"
    ):
        find_structures(Tagger(), {"input_ids": x["input_ids"], "b": None})
    with pytest.raises(ValueError, match=r"input_ids=\(3, 5\), layers=\(1,\), scale='a'\): TypeError"):
        find_structures(Tagger(), {"input_ids": x["input_ids"], "layers": (1,), "scale": "a"})
    with pytest.raises(ValueError, match=r"does not run on the example inputs \(None, 3\)"):
        find_structures(Tagger(), None, 3)


class Greedy(nn.Module):
    """Takes its input out of the dict, and changes it in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, batch: Batch) -> Tensor:
        out: Tensor = self.last(self.first(batch.pop("x").mul_(2)).relu())
        return out


def test_the_example_stays_as_it_is() -> None:
    x = torch.randn(2, 4)
    example = {"x": x.clone()}
    network = NoisyNetwork(Greedy(), example)
    assert [family.size for family in network.structures] == [6]
    assert complexity(network).macs > 0
    assert torch.equal(example["x"], x)


def test_inputs_go_to_the_device_of_the_network() -> None:
    call = Call((torch.zeros(1, 3), None), {"mask": torch.ones(1)})
    moved = call.on(nn.Linear(3, 2, device="meta"))
    assert moved.args[0].device.type == moved.kwargs["mask"].device.type == "meta"
    assert call.on(nn.Identity()) is call
    lengths = Call((torch.zeros(1, 3, device="meta"), torch.ones(1)), {})
    assert lengths.on(nn.Linear(3, 2, device="meta")) is lengths
