"""Which structures are found, which are left out, and that looking for them changes nothing."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bmrs_pyro.network import NoisyNetwork, Structures, compact, find_structures
from tests.network.networks import CASES, chain, lenet5, residual

IMAGE = torch.randn(2, 2, 8, 8)


def sizes(structures: Structures) -> dict[str, int]:
    return {family.name.removeprefix("theta."): family.size for family in structures}


def reasons(structures: Structures) -> dict[str, str]:
    return {name.removeprefix("theta."): reason for name, reason in structures.left_out}


@pytest.mark.parametrize("name", CASES)
def test_families_and_sizes(name: str) -> None:
    case = CASES[name]
    assert sizes(find_structures(case.make(), *case.draw())) == case.families


def test_writers_readers_and_index_maps() -> None:
    structures = find_structures(lenet5(), torch.zeros(1, 1, 32, 32))
    second = structures[1]
    assert (second.name, second.producers) == ("theta.3", ("3",))
    (consumer,) = second.consumers
    assert (consumer.module, consumer.size) == ("7", 400)
    assert torch.equal(
        consumer.structures, torch.arange(16).repeat_interleave(25)
    )  # a channel has 5 × 5 features
    stream = find_structures(residual(), IMAGE)[0]
    assert stream.producers == ("0", "3.body.3")
    assert [consumer.module for consumer in stream.consumers] == ["3.body.0", "4.body.0", "4.shortcut"]


class Planted(nn.Module):
    """A convolution whose channels go through something, and a linear layer."""

    def __init__(self, between: Callable[[Tensor], Tensor], features: int) -> None:
        super().__init__()
        self.conv, self.last, self.between = nn.Conv2d(2, 6, 3, padding=1), nn.Linear(features, 3), between

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.between(self.conv(x)))
        return out


@pytest.mark.parametrize(
    ("between", "features"),
    [
        (lambda x: x.softmax(1).mean((2, 3)), 6),
        (lambda x: functional.layer_norm(x.mean((2, 3)), (6,)), 6),
        (lambda x: functional.pixel_shuffle(x[:, :4], 2).mean((2, 3)), 1),
        (lambda x: x.mean((2, 3)) - x.mean((1, 2, 3)).unsqueeze(1), 6),
        (lambda x: x.mean((2, 3)).sort(1).values, 6),
        (lambda x: x.mean((2, 3)).roll(1, 1), 6),
    ],
    ids=["softmax", "layer norm", "pixel shuffle", "minus mean", "sort", "roll"],
)
def test_what_mixes_channels_unseen_is_left_out(between: Callable[[Tensor], Tensor], features: int) -> None:
    structures = find_structures(Planted(between, features), IMAGE)
    assert not structures
    assert set(reasons(structures)) == {"conv", "last"}


@pytest.mark.parametrize(
    ("between", "features"),
    [
        (lambda x: x.permute(0, 2, 3, 1).flatten(1), 384),
        (lambda x: torch.cat([x, -x], 1).relu().mean((2, 3)), 12),
        (lambda x: functional.pixel_unshuffle(x, 2).mean((2, 3)), 24),
        (lambda x: x.mean((2, 3)).repeat_interleave(3, 1), 18),
    ],
    ids=["permute-flatten", "concatenated relu", "pixel unshuffle", "repeated"],
)
def test_what_reorders_or_repeats_channels_is_followed(
    between: Callable[[Tensor], Tensor], features: int
) -> None:
    structures = find_structures(Planted(between, features), IMAGE)
    assert sizes(structures) == {"conv": 6}
    (consumer,) = structures[0].consumers
    assert consumer.structures.bincount().tolist() == [features // 6] * 6


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.GroupNorm(1, 5), "GroupNorm '2' normalises over them"),
        (nn.RMSNorm([5, 8, 8]), "RMSNorm '2' normalises over them"),
        (nn.LocalResponseNorm(3), "the outputs change when some of them are removed"),
        (nn.utils.parametrizations.orthogonal(nn.Conv2d(5, 5, 1)), "computed from other parameters"),
    ],
)
def test_reasons_name_the_layer(layer: nn.Module, reason: str) -> None:
    structures = find_structures(chain(layer, nn.Conv2d(5, 6, 1)), IMAGE)
    assert reason in reasons(structures)["0"]
    assert sizes(structures) == {"3": 6}  # the offender takes no other family with it


class TwoEnded(nn.Module):
    """The inner layer's output is an output of the network too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(4, 5), nn.Linear(5, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        inner = self.first(x)
        return self.third(self.second(inner.relu()).relu()), inner * 2


def test_inner_outputs_are_outputs() -> None:
    structures = find_structures(TwoEnded(), torch.randn(2, 4))
    assert sizes(structures) == {"second": 6}
    assert reasons(structures)["first"] == "they are outputs of the network"


class Gated(nn.Module):
    """Channel i of one half multiplies channel i of the other: the two are one structure."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(2, 8, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.first(x).chunk(2, 1)
        out: Tensor = self.last((value * gate.sigmoid()).mean((2, 3)))
        return out


def test_tied_channels_are_one_structure() -> None:
    structures = find_structures(Gated(), IMAGE)
    assert sizes(structures) == {"first": 4}
    member = structures[0].members[0]
    assert torch.equal(member.structures, torch.arange(4).repeat(2))


class TiedWeights(nn.Module):
    """Two layers with one weight, of which the second must keep its outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 5), nn.Linear(5, 5)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(self.first(x).relu())
        return out


def test_tied_weights_are_left_out() -> None:
    structures = find_structures(TiedWeights(), torch.randn(2, 5))
    assert not structures
    assert "first.weight and second.weight are one weight" in " ".join(reasons(structures).values())


class Summed(nn.Module):
    """The network's input is added to a layer's output: its channels cannot leave."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(5, 5), nn.Linear(5, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.second(x + self.first(x)).relu())
        return out


def test_inputs_are_no_structures() -> None:
    structures = find_structures(Summed(), torch.randn(2, 5))
    assert sizes(structures) == {"second": 4}
    assert "does not run without" in reasons(structures)["first"]


class Auxiliary(nn.Module):
    """An auxiliary classifier that only training runs, on a stream that shrinks."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 3)
        self.auxiliary = nn.Sequential(nn.Linear(6, 5), nn.Dropout(), nn.Linear(5, 3))

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = self.first(x).relu()
        return (self.second(x), self.auxiliary(x)) if self.training else self.second(x)


def test_layers_that_only_training_runs_are_seen() -> None:
    structures = find_structures(Auxiliary(), torch.randn(2, 4))
    assert sizes(structures) == {"first": 6, "auxiliary.0": 5}
    assert {consumer.module for consumer in structures[0].consumers} == {"second", "auxiliary.0"}


class Routed(nn.Module):
    """What the inputs are decides which of two layers reads the hidden ones."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.low, self.high = nn.Linear(4, 8), nn.Linear(8, 2), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).relu()
        out: Tensor = self.low(h) if x.mean() < 10 else self.high(h)
        return out


class Both(Routed):
    """Each example goes its own way."""

    def forward(self, x: Tensor) -> Tensor:
        h, far = self.first(x).relu(), (x.mean(1) > 10).unsqueeze(1)
        return torch.where(far, self.high(h), self.low(h))


def test_layers_that_the_example_inputs_do_not_reach_are_named_once() -> None:
    net, x = Routed(), torch.randn(2, 4)
    with pytest.warns(
        UserWarning, match=r"do not reach 'high': .*; give example inputs that reach"
    ) as caught:
        structures = find_structures(net, x)
    assert len(caught) == 1
    assert [consumer.module for consumer in structures[0].consumers] == ["low"]
    with pytest.warns(UserWarning, match="do not reach 'low'"):
        find_structures(net, x + 20)
    assert not find_structures(net, x, exclude="first")  # nothing is offered, so there is nothing to warn of
    assert len(find_structures(Both(), x)[0].consumers) == 2


class Experts(nn.Module):
    """Rows go to one of two layers by the sign of their first number; a layer that is not chosen gets no rows."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.ups = nn.Linear(4, 6), nn.ModuleList(nn.Linear(6, 8) for _ in range(2))
        self.downs = nn.ModuleList(nn.Linear(8, 3) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        h, out = self.trunk(x).relu(), x.new_zeros(len(x), 3)
        for rows, up, down in zip((x[:, 0] > 0, x[:, 0] <= 0), self.ups, self.downs, strict=True):
            out[rows] = down(up(h[rows]).relu())
        return out


def test_a_layer_without_rows_is_not_reached() -> None:
    net = Experts()
    assert [family.name for family in find_structures(net, torch.tensor([[1.0], [-1.0]]).expand(2, 4))] == [
        "theta.trunk",
        "theta.ups.0",
        "theta.ups.1",
    ]
    with pytest.warns(UserWarning, match=r"do not reach 'ups\.1', 'downs\.1'"):
        structures = find_structures(net, torch.ones(2, 4))
    assert [family.name for family in structures] == ["theta.ups.0"]  # the other layer reads the trunk too


def test_example_inputs_without_an_example_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(\(0, 4\)\) hold no example; give one or two"):
        find_structures(Idle(nn.Linear(4, 4), nn.Linear(4, 4)), torch.zeros(0, 4))


class Idle(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return self[1](self[0](x).relu())


def test_many_idle_layers_are_counted() -> None:
    net = Idle(*(nn.Linear(4, 4) for _ in range(7)))
    with pytest.warns(UserWarning, match="do not reach '2', '3', '4' and 2 more: "):
        find_structures(net, torch.randn(2, 4))


class Borrowed(nn.Module):
    """Layers whose own forward is never called: their weights are taken by an operation, or by attention."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.taken, self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 6), nn.Linear(6, 2)
        self.scales = nn.ParameterList([torch.ones(4)])

    def forward(self, x: Tensor) -> Tensor:
        x = functional.linear(self.attention(x, x, x)[0] * self.scales[0], self.taken.weight, self.taken.bias)
        out: Tensor = self.last(self.first(x).relu()).mean(1)
        return out


def test_weights_that_another_module_computes_with_are_reached() -> None:
    found = sizes(find_structures(Borrowed(), torch.randn(2, 3, 4)))  # warnings are errors here
    assert found == {"attention.q_proj": 2, "first": 6}


def test_include_and_exclude() -> None:
    x = torch.zeros(1, 1, 32, 32)
    assert sizes(find_structures(lenet5(), x, include=["3", "7"])) == {"3": 16, "7": 120}
    assert sizes(find_structures(lenet5(), x, exclude=lambda name: name == "3")) == {
        "0": 6,
        "7": 120,
        "9": 84,
    }
    found = find_structures(residual(), IMAGE, exclude="3")
    assert sizes(found) == {"4.body.0": 8, "4.body.3": 8, "5.body.0": 8}
    assert reasons(found)["0"] == "excluded"  # 3.body.3 writes the stream that begins in 0
    with pytest.raises(ValueError, match=r"exclude names modules the network does not have: conv9"):
        find_structures(lenet5(), x, exclude=["conv9"])


def test_looking_changes_nothing() -> None:
    net: Any = residual()
    net[3].train(False)
    net[0].weight.requires_grad_(False)
    before, modes = copy.deepcopy(net.state_dict()), [module.training for module in net.modules()]
    state, random_state = torch.get_rng_state(), random.getstate()
    found = find_structures(net, IMAGE)
    assert sizes(found) == CASES["residual"].families  # the frozen layer's too
    assert torch.equal(torch.get_rng_state(), state)
    assert random.getstate() == random_state
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert [parameter.requires_grad for parameter in net.parameters()].count(False) == 1
    assert all(parameter.grad is None for parameter in net.parameters())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in net.modules())


def test_the_summary_names_everything() -> None:
    text = str(find_structures(lenet5(), torch.zeros(1, 1, 32, 32)))
    assert text.splitlines()[0] == "226 structures in 4 families"
    assert "7, 120 neurons (theta.7): 7 -> 9" in text
    assert "3, 16 channels (theta.3): 3 -> 7" in text
    assert "theta.11 left out: they are outputs of the network" in text


def test_wrong_inputs_are_named() -> None:
    with pytest.raises(
        ValueError, match=r"does not run on the example inputs \(\(1, 3, 32, 32\)\): Conv2d '0' was"
    ):
        find_structures(lenet5(), torch.zeros(1, 3, 32, 32))
    with pytest.raises(
        ValueError, match=r"Linear '7' was given \(1, 256\); RuntimeError: .*; give inputs as the"
    ):
        find_structures(lenet5(), torch.zeros(1, 1, 28, 28))
    with pytest.raises(ValueError, match="no finite outputs"):
        find_structures(lenet5(), torch.full((1, 1, 32, 32), torch.nan))


def test_single_precision_inside_is_tolerated() -> None:
    class Single(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return self[1](self[0](x.float()).relu())

    assert sizes(find_structures(Single(nn.Linear(4, 5), nn.Linear(5, 2)), torch.randn(2, 4))) == {"0": 5}


@pytest.mark.parametrize("side", [14, 5])
def test_channels_that_pooling_repeats_are_followed_into_many_features(side: int) -> None:
    pool = nn.MaxPool2d(3, 2) if side == 14 else nn.AdaptiveAvgPool2d(6)  # windows overlap, or are enlarged
    net = nn.Sequential(nn.Conv2d(1, 120, 3), nn.ReLU(), pool, nn.Flatten(), nn.Linear(4320, 3))
    assert sizes(find_structures(net, torch.randn(2, 1, side + 2, side + 2))) == {"0": 120}


class OneGate(nn.Module):
    """All channels are multiplied by one gate, which is computed from them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.gate = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 1, 1)
        self.second, self.last = nn.Conv2d(6, 5, 3, padding=1), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        a = self.first(x).relu()
        b: Tensor = self.second(a * self.gate(a).sigmoid()).relu()
        out: Tensor = self.last(b.mean((2, 3)))
        return out


class WeighedSteps(nn.Module):
    """A recurrent layer's outputs, averaged with learned weights."""

    def __init__(self, kind: type[nn.GRU] | type[nn.LSTM]) -> None:
        super().__init__()
        self.recurrent = kind(4, 6, batch_first=True)
        self.query, self.weigh, self.last = nn.Linear(6, 5), nn.Linear(5, 1), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.recurrent(x)[0]
        out: Tensor = self.last((self.weigh(self.query(h).tanh()).softmax(1) * h).sum(1))
        return out


class UnreadSum(nn.Module):
    """The last residual layer is called, but nothing reads its sum."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 6), nn.Linear(5, 2)
        self.residual = nn.ModuleList([nn.Linear(6, 6) for _ in range(2)])
        self.skip = nn.ModuleList([nn.Linear(6, 5) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        total = torch.zeros(())
        for layer, skip in zip(self.residual, self.skip, strict=True):
            total = total + skip(x.tanh())
            x = x + layer(x.tanh())
        out: Tensor = self.last(total.relu())
        return out


@pytest.mark.parametrize(
    ("net", "shape", "found"),
    [
        (OneGate(), (1, 8, 8), {"theta.first": 6, "theta.second": 5}),
        (WeighedSteps(nn.GRU), (7, 4), {"theta.recurrent": 6, "theta.query": 5}),
        (WeighedSteps(nn.LSTM), (7, 4), {"theta.recurrent": 6, "theta.query": 5}),
        (UnreadSum(), (3,), {"theta.first": 6, "theta.skip.0": 5}),
    ],
    ids=["gate", "gru", "lstm", "dangling"],
)
def test_a_single_gate_or_an_unread_layer_does_not_hold_a_family(
    net: nn.Module, shape: tuple[int, ...], found: dict[str, int]
) -> None:
    x = torch.randn(4, *shape)
    network = NoisyNetwork(net.eval(), x)
    assert {family.name: family.size for family in network.structures} == found
    keep = {name: torch.arange(size) % 2 == 0 for name, size in found.items()}
    gains = {name: mask.float() for name, mask in keep.items()}
    torch.testing.assert_close(compact(network, keep)(x), network(x, gains))


def test_a_gate_of_all_channels_is_named() -> None:
    left_out = reasons(find_structures(OneGate(), torch.randn(2, 1, 8, 8)))
    assert left_out["gate"] == "several channels that 'second' reads depend on this single one"


@pytest.mark.parametrize("shape", [(4, 1, 1), (4,)])
def test_a_number_per_head_leaves_with_its_head(shape: tuple[int, ...]) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v, self.o = (nn.Linear(8, 8) for _ in range(4))
            self.scale, self.last = nn.Parameter(torch.rand(shape) + 0.5), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (layer(x).unflatten(-1, (-1, 2)).transpose(1, 2) for layer in (self.q, self.k, self.v))
            z = (q @ k.mT).softmax(-1) @ v
            z = (
                z * self.scale
                if len(shape) == 3
                else z.transpose(1, 3).mul(self.scale[:, None].mT).transpose(1, 3)
            )
            out: Tensor = self.last(self.o(z.transpose(1, 2).flatten(2)).tanh().mean(1))
            return out

    x = torch.randn(3, 5, 8)
    network = NoisyNetwork(Scaled().eval(), x)
    heads = next(family for family in network.structures if family.name == "theta.q")
    assert heads.size == 4
    keep = torch.tensor([True, False, True, False])
    small = compact(network, {"theta.q": keep})
    assert small.scale.numel() == 2
    torch.testing.assert_close(small(x), network(x, {"theta.q": keep.float()}))


def test_a_network_that_cannot_be_differentiated_is_refused_in_one_line() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.last = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = self.first(x).relu()
            h.add_(self.second(h))
            out: Tensor = self.last(h)
            return out

    with pytest.raises(ValueError, match="cannot be differentiated: it changes a tensor in place that"):
        find_structures(InPlace(), torch.randn(2, 4))


def test_channels_that_leave_together_are_labelled_groups() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=2), nn.Conv2d(8, 4, 1), nn.Flatten(), nn.Linear(16, 2)
    )
    found = find_structures(net, torch.zeros(1, 3, 6, 6))
    assert [family.label for family in found] == ["0, 2 groups", "2, 4 channels"]
    assert found[0].label_of(1) == "0, group 1"


def test_noise_that_evaluation_mode_does_not_end_is_told_of() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.last = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.second(nn.functional.dropout(self.first(x).relu(), 0.1)).relu()
            return self.last(nn.functional.dropout(x, 0.1))

    found = reasons(find_structures(Noisy(), torch.randn(4, 6)))
    for name in ("first", "second"):
        assert "draws random numbers in evaluation mode" in found[name]
    assert "random numbers" not in found["last"]
