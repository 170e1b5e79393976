"""Costs and norms against counts by hand and by brute force."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from bmrs_pyro.network import NoisyNetwork, compact, complexity, cost_model, cost_shares, producer_norms
from bmrs_pyro.network.counting import MacCount
from bmrs_pyro.network.products import macs_of_products
from tests.network.networks import CASES, lenet5, masks


def test_lenet5_by_hand() -> None:
    x = torch.zeros(2, 1, 32, 32)
    network = NoisyNetwork(lenet5(), x)
    weights = (6 * 25, 16 * 6 * 25, 400 * 120, 120 * 84, 84 * 10)
    places = (28 * 28, 10 * 10, 1, 1, 1)
    for cost in (complexity(network), complexity(network.net, x)):
        assert cost.parameters == sum(weights) + 6 + 16 + 120 + 84 + 10
        assert cost.bytes == 4 * cost.parameters
        assert cost.macs == sum(weight * place for weight, place in zip(weights, places, strict=True))


def test_counting_changes_nothing() -> None:
    net, inputs = CASES["residual"].make(), CASES["residual"].draw()
    net[0].train()
    modes, state = [module.training for module in net.modules()], torch.get_rng_state()
    statistics = {name: value.clone() for name, value in net.state_dict().items()}
    complexity(net, *inputs)
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(value, statistics[name]) for name, value in net.state_dict().items())
    with pytest.raises(TypeError, match="net is a int; give a network"):
        complexity(5, torch.zeros(1))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no example inputs"):
        complexity(net)
    with pytest.raises(ValueError, match="hold no example"):
        complexity(net, inputs[0][:0])


def test_layers_that_torch_fuses_are_counted() -> None:
    net: Any = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 4, 12, batch_first=True), 2)
    x, padding = torch.randn(2, 5, 8), torch.tensor([[False] * 5, [False, False, True, True, True]])
    products = 2 * (5 * 5 * 8) * 2  # of queries with keys, and of weights with values, in both layers
    for inputs in ((x,), (x, None, padding)):
        assert complexity(net, *inputs).macs == 5 * 2 * (4 * 8 * 8 + 2 * 8 * 12) + products
    assert torch.backends.mha.get_fastpath_enabled()
    assert complexity(NoisyNetwork(nn.Sequential(net, nn.Linear(8, 1)), x)).macs == 4480 + products + 5 * 8


class Attention(nn.Module):
    """Heads of q that share heads of k and v, by torch's function or by matrix products."""

    def __init__(self, kind: str, shared: int = 1) -> None:
        super().__init__()
        self.kind, self.shared = kind, shared
        self.q, self.o = nn.Linear(32, 32, bias=False), nn.Linear(32, 32, bias=False)
        self.k, self.v = (nn.Linear(32, 32 // shared, bias=False) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (layer(x).unflatten(-1, (-1, 8)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        if self.kind == "grouped":
            out = functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        elif self.kind == "products":
            out = (q @ k.transpose(-1, -2) / math.sqrt(8)).softmax(-1) @ v
        else:
            out = functional.scaled_dot_product_attention(q, k, v, is_causal=self.kind == "causal")
        return self.o(out.transpose(1, 2).flatten(2))


@pytest.mark.parametrize(("kind", "shared"), [("fused", 1), ("causal", 1), ("products", 1), ("grouped", 2)])
def test_products_of_attention_are_counted(kind: str, shared: int) -> None:
    net = Attention(kind, shared)
    layers, products = 64 * 32 * 32 * (2 + 2 // shared), 2 * 64 * 64 * 32
    assert complexity(net, torch.randn(3, 64, 32)).macs == layers + products


def test_operations_that_torch_does_not_count_are_counted() -> None:
    assert complexity(nn.Bilinear(3, 4, 5), torch.randn(2, 3), torch.randn(2, 4)).macs == 3 * 4 * 5


@pytest.mark.parametrize("kind", ["fused", "products"])
def test_the_products_of_attention_leave_with_its_heads(kind: str) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.last = Attention(kind), Attention(kind), nn.Linear(32, 2)
            self.hidden = nn.Sequential(nn.Linear(32, 24), nn.GELU(), nn.Linear(24, 32))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x + self.first(x)
            x = x + self.second(x)
            return self.last((x + self.hidden(x)).mean(1))

    network = NoisyNetwork(Block(), torch.randn(2, 64, 32))
    products = macs_of_products(network, MacCount.of(network.net, network.example_inputs))
    of_heads = {"theta.first.q": 2 * 64 * 64 * 32, "theta.second.q": 2 * 64 * 64 * 32}
    assert {name: value for name, value in products.items() if value} == of_heads
    model = cost_model(network, "macs")
    keep = masks(network.structures, 0.5)
    counts = {name: int(mask.sum()) for name, mask in keep.items()}
    assert counts["theta.first.q"] < 4
    small = compact(network, keep)
    assert model(counts) == pytest.approx(complexity(small, *network.example_inputs).macs, rel=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_macs_are_for_one_example_whatever_the_batch(name: str) -> None:
    case = CASES[name]
    batch = case.draw()
    one, many = (NoisyNetwork(case.make(), *inputs) for inputs in ([x[:1] for x in batch], batch))
    assert len(many.example_inputs[0]) > 1
    assert complexity(many).macs == complexity(one).macs
    of_one, of_many = (MacCount.of(noisy.net, noisy.example_inputs) for noisy in (one, many))
    assert of_many.per_weight() == pytest.approx(of_one.per_weight())
    assert macs_of_products(many, of_many) == pytest.approx(macs_of_products(one, of_one))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("cost", ["parameters", "macs"])
def test_shares_are_what_removing_a_structure_saves(name: str, cost: str) -> None:
    case = CASES[name]
    network = NoisyNetwork(case.make(), *case.draw())
    shares = cost_shares(network, cost)
    assert sum(shares.values()) == pytest.approx(1.0)
    if name in ("grouped", "transposed", "transformer", "two inputs"):
        return  # attention and grouped or repeated layers do not shrink in proportion
    whole, saved = getattr(complexity(network), cost), {}
    for family in network.structures:
        small = compact(network, {family.name: torch.arange(family.size) > 0})
        saved[family.name] = (whole - getattr(complexity(small, *network.example_inputs), cost)) * family.size
    for family_name, share in shares.items():
        assert share == pytest.approx(saved[family_name] / sum(saved.values()))


@pytest.mark.parametrize("name", ["residual", "words"])
@pytest.mark.parametrize("where", [torch.float32, torch.bfloat16, "meta"])
def test_a_network_that_has_moved_costs_what_it_did(name: str, where: torch.dtype | str) -> None:
    case = CASES[name]
    network = NoisyNetwork(case.make(), *case.draw())
    before, shares = complexity(network), cost_shares(network, "macs")
    after = complexity(network.to(where))
    assert (after.parameters, after.macs) == (before.parameters, before.macs)
    assert cost_shares(network, "macs") == shares
    assert network.example_inputs[0].device.type == "cpu"  # the inputs stay where they are


def test_unknown_cost_is_refused() -> None:
    with pytest.raises(ValueError, match="cost is 'flops'; use 'parameters' or 'macs'"):
        cost_shares(NoisyNetwork(CASES["mlp"].make(), *CASES["mlp"].draw()), "flops")


@pytest.mark.parametrize("name", CASES)
def test_norms_by_brute_force(name: str) -> None:
    network = NoisyNetwork(CASES[name].make(), *CASES[name].draw())
    state = network.net.state_dict()
    for family in network.structures:
        squares = torch.zeros(family.size, dtype=torch.float64)
        for member in family.members:
            if member.role == "produce":
                weight, dim = member.tensors[0]
                for position, structure in zip(member.positions, member.structures, strict=True):
                    squares[structure] += state[weight].select(dim, int(position)).square().sum()
        assert torch.allclose(producer_norms(network)[family.name], squares.sqrt(), rtol=1e-12)


def test_norms_of_a_residual_stream_by_hand() -> None:
    network: Any = NoisyNetwork(CASES["residual"].make(), *CASES["residual"].draw())
    stem, block = network.net[0].weight, network.net[3].body[3].weight
    expected = torch.cat([stem.flatten(1), block.flatten(1)], 1).norm(dim=1)
    assert torch.allclose(producer_norms(network)["theta.0"], expected)
    network.remove_(masks(network.structures))
    assert [len(norm) for norm in producer_norms(network).values()] == [f.size for f in network.structures]
    assert isinstance(network.net, nn.Sequential)


@pytest.mark.parametrize("x", [None, torch.zeros(1, 5), "image"])
def test_inputs_that_the_network_does_not_take_are_named(x: object) -> None:
    with pytest.raises(ValueError, match="does not run on the example inputs"):
        complexity(nn.Linear(4, 2), x)


class SelfAndCross(nn.Module):
    """Self-attention over all steps and cross-attention to three of them, in one module."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 16), nn.Linear(16, 3)
        self.q, self.k, self.v, self.o = (nn.Linear(16, 16) for _ in range(4))
        self.q2, self.k2, self.v2, self.o2 = (nn.Linear(16, 16) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        def attend(*layers: torch.Tensor) -> torch.Tensor:
            heads = (part.unflatten(-1, (-1, 4)).transpose(1, 2) for part in layers)
            return functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)

        h = self.first(x)
        h = h + self.o(attend(self.q(h), self.k(h), self.v(h)))
        memory = h[:, :3]
        h = h + self.o2(attend(self.q2(h), self.k2(memory), self.v2(memory)))
        out: torch.Tensor = self.last(h.mean(1))
        return out


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerDecoderLayer(16, 4, 24, dropout=0.0, batch_first=True)
        self.first, self.decoder, self.last = (
            nn.Linear(6, 16),
            nn.TransformerDecoder(layer, 2),
            nn.Linear(16, 3),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.first(x)
        out: torch.Tensor = self.last(self.decoder(h[:, :5], h).mean(1))
        return out


@pytest.mark.parametrize(("make", "calls"), [(SelfAndCross, 4), (Decoder, 2)])
def test_attentions_of_one_module_have_costs_of_their_own(
    make: type[nn.Module], calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = NoisyNetwork(make(), torch.randn(2, 40, 6))
    heads = [family.name for family in network.structures if family.kind == "heads"]
    counted, of = list[nn.Module](), MacCount.of

    def noted(net: nn.Module, inputs: tuple[Any, ...]) -> MacCount:
        counted.append(net)
        return of(net, inputs)

    monkeypatch.setattr(MacCount, "of", noted)
    model = cost_model(network, "macs")
    assert len(counted) == calls  # the network once, and then once for each family of a module with products
    for cut in [*([name] for name in heads), heads, [family.name for family in network.structures]]:
        keep = {f.name: torch.arange(f.size) < 2 for f in network.structures if f.name in cut}
        counts = {f.name: 2 if f.name in cut else f.size for f in network.structures}
        real = of(compact(network, keep), network.example_inputs).total
        assert model(counts) == pytest.approx(real, rel=1e-12)
    network.remove_({heads[0]: torch.arange(4) < 2})
    assert cost_model(network, "macs")(
        {family.name: family.size for family in network.structures}
    ) == pytest.approx(complexity(network).macs, rel=1e-12)


def test_views_of_parameters_may_be_read_by_layers() -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.positions, self.layer = nn.Parameter(torch.randn(1, 20, 8)), nn.Linear(8, 8)
            self.frozen = nn.Parameter(torch.randn(3), requires_grad=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.layer(self.positions[:, : x.shape[1]]) + x
            return out

    net = Positions()
    assert complexity(net, torch.randn(1, 6, 8, requires_grad=True)).macs == 6 * 8 * 8
    assert [weight.requires_grad for weight in net.parameters()] == [True, False, True, True]


class MapAttention(nn.Module):
    """Attention over the pixels of a map, whose queries, keys and values come from one convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.qkv, self.o = nn.Conv2d(2, 8, 1), nn.Conv2d(8, 24, 1), nn.Conv2d(8, 8, 1)
        self.hidden, self.last = nn.Linear(8, 12), nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.first(x)
        q, k, v = self.qkv(h).flatten(2).unflatten(1, (3, -1, 2)).unbind(1)
        out = ((q.mT @ k).softmax(-1) @ v.mT).mT.flatten(1, 2).unflatten(-1, x.shape[-2:])
        pooled = (h + self.o(out)).mean((2, 3))
        result: torch.Tensor = self.last(self.hidden(pooled).relu())
        return result


class PooledSteps(nn.Module):
    """The units of a recurrent layer, weighed by a product without weights."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent, self.weigh = nn.GRU(4, 6, batch_first=True), nn.Linear(6, 1)
        self.last = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.recurrent(x)[0]
        out: torch.Tensor = self.last((self.weigh(h).softmax(1).mT @ h).squeeze(1))
        return out


@pytest.mark.parametrize(
    ("net", "shape"), [(MapAttention(), (2, 5, 5)), (PooledSteps(), (9, 4))], ids=["map", "steps"]
)
def test_products_leave_with_structures_of_any_kind(net: nn.Module, shape: tuple[int, ...]) -> None:
    network = NoisyNetwork(net, torch.randn(2, *shape))
    model = cost_model(network, "macs")
    assert sum(network.products_of_one.values()) > 0
    for left in (1, 2):
        keep = {family.name: torch.arange(family.size) < left for family in network.structures}
        counts = {name: int(mask.sum()) for name, mask in keep.items()}
        real = complexity(compact(network, keep), *network.example_inputs).macs
        assert model(counts) == pytest.approx(real, rel=1e-12)


def test_example_inputs_may_require_gradients() -> None:
    x = torch.randn(4, 6, requires_grad=True)
    network = NoisyNetwork(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), x[:1])
    assert not copy.deepcopy(network).example_inputs[0].requires_grad
