"""Removal is offered only where it is exact for every mask, and where the outputs show it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bmrs_pyro.experiments.honesty.networks import KINDS, measured
from bmrs_pyro.experiments.honesty.page import STUDY, missed, page
from bmrs_pyro.network import Structures, find_structures
from bmrs_pyro.network.discovery.random_inputs import RandomInputs
from bmrs_pyro.network.discovery.uneven_masks import STEPS, TRIALS, uneven_mask
from bmrs_pyro.network.discovery.verification import Verification
from bmrs_pyro.network.inputs import Call


def sizes(structures: Structures) -> dict[str, int]:
    return {family.name.removeprefix("theta."): family.size for family in structures}


def reasons(structures: Structures) -> dict[str, str]:
    return {name.removeprefix("theta."): reason for name, reason in structures.left_out}


class HalfScaled(nn.Module):
    """Half of the channels are scaled."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b, self.last = (
            nn.Conv2d(3, 2, 3),
            nn.Conv2d(2, 16, 3),
            nn.Conv2d(16, 6, 1),
            nn.Linear(6, 4),
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(self.stem(x).relu()).relu().clone()
        h[:, : h.shape[1] // 2] *= -0.5
        out: Tensor = self.last(self.b(h).relu().mean((2, 3)))
        return out


@pytest.mark.parametrize("seed", range(5))
def test_half_of_the_channels_scaled_is_left_out_and_takes_no_other_family_with_it(seed: int) -> None:
    torch.manual_seed(seed)
    found = find_structures(HalfScaled(), torch.zeros(1, 3, 8, 8))
    assert sizes(found) == {"stem": 2, "b": 6}
    assert "treated by their place" in reasons(found)["a"]


@pytest.mark.parametrize(
    "kind", [kind for kind, (group, *_) in KINDS.items() if group != "plain" and not kind.endswith("images")]
)
def test_networks_made_to_deceive_get_no_wrong_offer(kind: str) -> None:
    assert measured(kind, 0)["wrong"] == 0


class Signed(nn.Module):
    """A layer whose channels are treated by place only where values are negative."""

    def __init__(self, by_example: bool) -> None:
        super().__init__()
        self.by_example = by_example
        self.a, self.b, self.c, self.d = nn.Linear(5, 6), nn.Linear(6, 12), nn.Linear(12, 7), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.b(self.a(x).relu())
        half = h.shape[1] // 2
        if self.by_example:
            h = torch.where(h.sum(1, keepdim=True) > 0, h, h.roll(1, 1)).relu()
        else:
            h = torch.cat([h[:, :half].relu(), functional.leaky_relu(h[:, half:], 0.2)], 1)
        out: Tensor = self.d(self.c(h).relu())
        return out


@pytest.mark.parametrize("by_example", [False, True])
def test_what_shows_only_in_negative_values_is_left_out(by_example: bool) -> None:
    for seed in range(3):
        torch.manual_seed(seed)
        found = find_structures(Signed(by_example), torch.randn(4, 5))
        assert sizes(found) == {"a": 6, "c": 7}
        assert "treated by their place" in reasons(found)["b"]


@pytest.mark.parametrize(
    ("kind", "offered"),
    [("perceptron", 2), ("residual stream", 2), ("gated halves", 1), ("attention heads", 1), ("words", 2)],
)
def test_plain_networks_lose_no_offer(kind: str, offered: int) -> None:
    assert measured(kind, 0) == {"offered": offered, "wrong": 0}


def test_masks_are_uneven_and_every_family_gets_all_kinds() -> None:
    for size in (2, 3, 4, 16, 17, 64):
        for family in range(12):
            masks = [uneven_mask(size, trial, 0, family) for trial in range(TRIALS)]
            assert all(0 < int(mask.sum()) < size for mask in masks)
            assert size == 2 or all(2 * int(mask.sum()) != size for mask in masks)
            assert any(not mask[0] and mask[1:].all() for mask in masks)  # all but the first
            assert any(mask[0] and mask.int().diff().max() <= 0 for mask in masks)  # a run at the start
            again = [uneven_mask(size, trial, 0, family) for trial in range(TRIALS)]
            assert all(torch.equal(one, other) for one, other in zip(masks, again, strict=True))
    single = [uneven_mask(9, trial, STEPS - 1, 0) for trial in range(TRIALS)]
    assert sorted(int(mask.sum()) for mask in single) == [1, 8, 8]


def test_no_treatment_by_two_values_is_missed_by_the_masks() -> None:
    for size in (2, 3, 8, 16):
        assert missed(size, lambda pattern, width: pattern[:width]) == 0
        assert missed(size, lambda pattern, width: pattern[len(pattern) - width :]) == 0
    # a treatment of all channels alike is missed by all masks: the count can be something else than 0
    assert missed(8, lambda pattern, width: pattern[:1].expand(width)) == 100


def test_a_softmax_before_few_units_is_no_reason_to_offer_it() -> None:
    net = nn.Sequential(
        nn.Linear(10, 16), nn.ReLU(), nn.Softmax(1), nn.Linear(16, 2), nn.ReLU(), nn.Linear(2, 2)
    )
    for seed in range(10):
        torch.manual_seed(seed)
        for layer in net:
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()
        assert sizes(find_structures(net, torch.zeros(1, 10))) == {"3": 2}


def test_a_dead_last_layer_is_brought_to_life() -> None:
    dead = nn.Linear(6, 5)
    nn.init.constant_(dead.bias, -100.0)
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), dead, nn.ReLU(), nn.Linear(5, 2))
    assert sizes(find_structures(net, torch.zeros(1, 4))) == {"0": 6, "2": 5}


class Unheard(nn.Module):
    """One layer's channels are multiplied by zero."""

    def __init__(self) -> None:
        super().__init__()
        self.heard, self.unheard = nn.Linear(4, 6), nn.Linear(4, 5)
        self.first, self.second = nn.Linear(6, 3), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.first(self.heard(x).relu()) + 0 * self.second(self.unheard(x).relu())
        return out


def test_what_the_outputs_do_not_respond_to_is_refused_by_name() -> None:
    found = find_structures(Unheard(), torch.randn(2, 4))
    assert sizes(found) == {"heard": 6}
    assert "do not respond to the weights of 'unheard'" in reasons(found)["unheard"]
    assert "give example inputs on which they do" in reasons(found)["unheard"]


class Compared(nn.Module):
    """Adds what has the same width."""

    def __init__(self, features: int, first: int, second: int) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(features, first), nn.Linear(first, second)
        self.c, self.d = nn.Linear(second, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        one = self.a(x).relu()
        one = one + x if one.shape == x.shape else one
        two = self.b(one).relu()
        two = two + one if two.shape == one.shape else two
        out: Tensor = self.d(self.c(two).relu())
        return out


@pytest.mark.parametrize(
    ("features", "first", "second", "unfit"),
    [
        (5, 64, 128, {"a", "b"}),  # a may become as wide as the inputs, b as a
        (40, 64, 30, {"a"}),  # as wide as the inputs, or as b
        (40, 24, 20, {"a"}),  # as wide as b
    ],
)
def test_widths_that_become_equal_show_that_they_are_compared(
    features: int, first: int, second: int, unfit: set[str]
) -> None:
    for seed in range(3):
        torch.manual_seed(seed)
        offered = sizes(find_structures(Compared(features, first, second), torch.zeros(1, features)))
        assert offered["c"] == 6
        assert not unfit & offered.keys()


class Moded(nn.Module):
    """A layer whose width is written out in code that only training runs, or whose channels roll in batches."""

    def __init__(self, training: bool) -> None:
        super().__init__()
        self.only_training = training
        self.a, self.b, self.norm = nn.Linear(5, 12), nn.Linear(12, 7), nn.BatchNorm1d(7)
        self.c = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).relu()
        if self.only_training:
            h = h * torch.ones(12).to(h) if self.training else h
        elif len(h) > 1:
            h = h.roll(1, 1)
        out: Tensor = self.c(self.norm(self.b(h)).relu())
        return out


def test_a_smaller_network_must_run_in_training_too() -> None:
    found = find_structures(Moded(training=True), torch.zeros(2, 5))
    assert sizes(found) == {"b": 7}
    assert "does not run without some of them" in reasons(found)["a"]
    # with one example batch norm refuses to be trained at all, which is no reason to leave out anything
    assert sizes(find_structures(Moded(training=True), torch.zeros(1, 5))) == {"a": 12, "b": 7}


def test_a_batch_of_one_is_tried_as_a_larger_one_too() -> None:
    found = find_structures(Moded(training=False), torch.zeros(1, 5))
    assert sizes(found) == {"b": 7}


class Heads(nn.Module):
    """Attention over embedded words; heads can leave, where they are told."""

    def __init__(self, told: bool) -> None:
        super().__init__()
        self.count = (4,)  # no integer of the module
        if told:
            self.num_heads = 4
        self.words, self.norm = nn.Embedding(9, 6), nn.LayerNorm(6)
        self.q, self.k, self.v, self.o = (
            nn.Linear(6, 16),
            nn.Linear(6, 16),
            nn.Linear(6, 16),
            nn.Linear(16, 6),
        )
        self.last = nn.Linear(6, 3)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids)
        h, heads = self.norm(x), getattr(self, "num_heads", self.count[0])
        q, k, v = (layer(h).unflatten(-1, (heads, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        h = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        out: Tensor = self.last(x + self.o(h))
        return out


@pytest.mark.parametrize("shape", [(1, 16), (1, 1), (3, 2)])
def test_attention_is_tried_on_different_tokens_whatever_the_example(shape: tuple[int, int]) -> None:
    ids = torch.zeros(shape, dtype=torch.long)
    assert sizes(find_structures(Heads(told=True), ids)) == {"q": 4}
    assert not find_structures(Heads(told=False), ids)


def test_integers_come_from_the_range_of_the_table_that_they_are_looked_up_in() -> None:
    words, kinds = nn.Embedding(50, 3), torch.randn(4, 3)
    ids, types, mask = (torch.zeros(2, 30, dtype=torch.long) for _ in range(3))

    def works(call: Call) -> bool:
        one, two, _ = call.args
        return bool((words(one.view(-1).int()) + kinds[two.clone().view(-1)]).isfinite().all())

    inputs = RandomInputs(Call((ids, types, mask), {}), works)
    for seed in range(3):
        drawn = inputs.draw(0, torch.Generator().manual_seed(seed)).args
        assert [int(x.max()) for x in drawn[1:]] == [3, 0]
        assert 40 < int(drawn[0].max()) < 50
        assert drawn[0].shape == (2, 30)


@pytest.mark.parametrize("reads", [torch.log, torch.sqrt, torch.acos, lambda x: x**0.3])
def test_networks_that_are_not_defined_for_all_numbers(reads: Callable[[Tensor], Tensor]) -> None:
    class Within(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(reads(x))

    torch.manual_seed(0)
    net = Within(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 3))
    x = (torch.rand(6, 8) ** 6).clamp(1e-6, 1 - 1e-6)
    assert [family.name for family in find_structures(net, x)] == ["theta.0", "theta.2"]


@pytest.mark.parametrize(
    ("reads", "x"),
    [
        (torch.sqrt, torch.zeros(1, 4)),
        (torch.asin, torch.zeros(2, 4)),
        (torch.log1p, torch.zeros(1, 32)),
        (lambda x: torch.log(x + 1e-3), torch.zeros(1, 4)),
        (lambda x: torch.log(x - 1.999), torch.full((16, 4), 2.0)),
        (lambda x: torch.log(-x - 1.9), torch.full((16, 4), -2.0)),
        (lambda x: torch.log(x[:, 1:] - x[:, :-1]), torch.linspace(0.5, 9.5, 160).view(16, 10)),
    ],
)
def test_examples_at_the_edge_of_what_a_network_is_defined_for(
    reads: Callable[[Tensor], Tensor], x: Tensor
) -> None:
    class Edge(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(reads(x))

    torch.manual_seed(0)
    width = reads(x).shape[1]
    net = Edge(nn.Linear(width, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))
    assert [family.name for family in find_structures(net, x)] == ["theta.0", "theta.2"]


def test_inputs_that_need_it_are_drawn_within_the_examples() -> None:
    x = torch.tensor([[0.01, 2.0], [1.0, 0.5]])
    inputs = RandomInputs(Call((x,), {}), lambda call: bool((call.args[0] > 0).all()))
    drawn = torch.stack([inputs.draw(0, torch.Generator().manual_seed(seed)).args[0] for seed in range(200)])
    assert drawn.min() >= 0.01
    assert drawn.max() <= 2.0
    assert (drawn.std(0) > 0.03).all()  # noise of a tenth of 1.15


def test_the_outcome_of_a_family_does_not_depend_on_the_others_with_it() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 5, 1),
        nn.LocalResponseNorm(3, alpha=1.0),
        nn.Conv2d(5, 6, 1),
        nn.ReLU(),
        nn.Conv2d(6, 3, 1),
    )
    families = [
        *find_structures(net, torch.zeros(1, 2, 4, 4)),
        *find_structures(nn.Sequential(net[0], nn.ReLU(), *net[2:]), torch.zeros(1, 2, 4, 4)),
    ]
    offender, innocent = families[1], families[0]
    for order in ([offender, innocent], [innocent, offender], [offender]):
        left, failed = Verification(net, Call((torch.zeros(1, 2, 4, 4),), {})).sift(order)
        assert [family.name for family in left] == [f.name for f in order if f is innocent]
        assert [family for family, _ in failed] == [offender.name]


def test_the_page_counts_what_the_rows_say() -> None:
    rows = [
        {"code": code, "kind": kind, "networks": 2, "offered": 3, "wrong": wrong}
        for code, wrong in (("before", 1), ("now", 0))
        for kind in KINDS
    ]
    assert set(STUDY.keys) < rows[0].keys()
    text = page(rows)
    plain = sum(group == "plain" for group, *_ in KINDS.values())
    assert f"| plain | before | {2 * plain} | {3 * plain} | {plain} |" in text
    assert f"| plain | now | {2 * plain} | {3 * plain} | 0 |" in text
    assert "| perceptron | 3, 1 | 3, 0 |" in text


class Amplifying(nn.Module):
    """Its outputs move by far more than rounding; one channel is scaled by its place where ``excess`` is not 0."""

    def __init__(self, amplification: float, excess: float) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 32), nn.Linear(32, 24), nn.Linear(24, 4)
        self.amplification, self.excess = amplification, excess

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).relu()
        if self.excess:
            h = torch.cat([h[:, :1] * (1 + self.excess), h[:, 1:]], 1)
        return (self.amplification * self.c(self.b(h).relu())).sin()


@pytest.mark.parametrize(
    ("amplification", "excess", "offered"), [(1e8, 0.0, {"a": 32, "b": 24}), (1.0, 1e-8, {"b": 24})]
)
def test_errors_of_rounding_are_told_from_small_ones_of_place(
    amplification: float, excess: float, offered: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    net = Amplifying(amplification, excess)
    assert sizes(find_structures(net, torch.randn(2, 6))) == offered
    monkeypatch.setattr(Verification, "_sensitivity", lambda *_: 0.0)
    refused = sizes(find_structures(net, torch.randn(2, 6)))
    assert refused == (offered if excess else {})  # the sensitivity makes the difference, and only there
