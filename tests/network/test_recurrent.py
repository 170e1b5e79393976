"""Hidden units of LSTM, GRU and plain recurrent layers: found, gained, cut, counted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from bmrs_pyro.inference import AutoTruncatedLogNormal, SupervisedModel
from bmrs_pyro.network import NoisyNetwork, compact, complexity, cost_model, find_structures, reachable
from bmrs_pyro.reporting.architectures import removal_error
from bmrs_pyro.training import fit

KINDS = [nn.LSTM, nn.GRU, nn.RNN]


class Classifier(nn.Module):
    """Embedding, recurrent layers and the last state, or the mean of all."""

    def __init__(self, kind: Any = nn.LSTM, mean: bool = False, **options: Any) -> None:
        super().__init__()
        self.embedding, self.rnn = nn.Embedding(30, 7), kind(7, 10, batch_first=True, **options)
        self.mean = mean
        self.last = nn.Linear(10 * (1 + (self.rnn.bidirectional and mean)), 3)

    def forward(self, words: Tensor) -> Any:
        out, state = self.rnn(self.embedding(words))
        h = state[0] if isinstance(state, tuple) else state
        return self.last(out.mean(1) if self.mean else h[-1])


def words(batch: int, length: int) -> Tensor:
    return torch.randint(30, (batch, length), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options",
    [{}, {"num_layers": 2}, {"bidirectional": True, "mean": True}, {"num_layers": 3, "bidirectional": True}],
)
def test_hidden_units_leave_exactly(kind: Any, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    net = Classifier(kind, **options)
    network = NoisyNetwork(net, words(2, 6))
    assert {family.name: family.size for family in network.structures} == {
        "theta.embedding": 7,
        "theta.rnn": 10,
    }
    assert network.structures[1].kind == "units"
    inner = [p for name, p in net.named_parameters() if "embedding" not in name]
    assert reachable(net, network.structures) - 210 >= 0.8 * sum(p.numel() for p in inner)
    for size in ((3, 9), (2, 2)):
        assert removal_error(network, words(*size), seed=size[0]) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_gains_multiply_what_is_read_of_the_hidden_units(kind: Any) -> None:
    torch.manual_seed(0)
    net = Classifier(kind, num_layers=2)
    network = NoisyNetwork(net, words(2, 6))
    theta = {"theta.rnn": torch.rand(10, requires_grad=True), "theta.embedding": torch.rand(7)}
    actual = network(words(4, 5), theta)

    by_hand = Classifier(kind, num_layers=2)
    by_hand.load_state_dict(net.state_dict())
    gain = theta["theta.rnn"].detach()
    with torch.no_grad():
        by_hand.rnn.weight_ih_l0 *= theta["theta.embedding"]
        for name in ("rnn.weight_hh_l0", "rnn.weight_hh_l1", "rnn.weight_ih_l1", "last.weight"):
            by_hand.get_parameter(name).mul_(gain)
    torch.testing.assert_close(actual, by_hand(words(4, 5)))
    actual.sum().backward()
    assert theta["theta.rnn"].grad is not None
    assert theta["theta.rnn"].grad.abs().min() > 0
    torch.testing.assert_close(network(words(4, 5)), net(words(4, 5)))


def test_the_small_network_is_the_same_kind_of_layer() -> None:
    net = Classifier(nn.LSTM, num_layers=2)
    network = NoisyNetwork(net, words(2, 6))
    small: Any = compact(network, {"theta.rnn": torch.arange(10) % 3 > 0})
    assert type(small.rnn) is nn.LSTM
    assert (small.rnn.hidden_size, small.rnn.weight_hh_l1.shape, small.last.in_features) == (6, (24, 6), 6)
    assert complexity(small, words(2, 6)).parameters == round(
        cost_model(network)({"theta.rnn": 6, "theta.embedding": 7})
    )


@pytest.mark.parametrize("kind", KINDS)
def test_multiply_accumulates_are_counted(kind: Any) -> None:
    net = Classifier(kind, num_layers=2, bidirectional=True)
    gates = net.rnn.weight_ih_l0.shape[0]
    steps = 2 * gates * (7 + 10) + 2 * gates * (20 + 10)
    assert complexity(net, words(2, 6)).macs == 6 * steps + 30
    network = NoisyNetwork(net, words(2, 6))
    small = compact(network, {"theta.rnn": torch.arange(10) > 3})
    expected = cost_model(network, "macs")({"theta.rnn": 6, "theta.embedding": 7})
    assert complexity(small, words(2, 6)).macs == pytest.approx(expected)


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.rnn, self.last = nn.Linear(4, 6), nn.GRU(6, 8, batch_first=True), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Any:
        lengths = torch.arange(len(x)) % x.shape[1] + 1
        packed = pack_padded_sequence(self.first(x), lengths, batch_first=True, enforce_sorted=False)
        return self.last(pad_packed_sequence(self.rnn(packed)[0], batch_first=True)[0].sum(1))


class Translator(nn.Module):
    """The encoder's last state is the decoder's first."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.LSTM(3, 8), nn.LSTM(5, 8)
        self.last = nn.Linear(8, 2)

    def forward(self, x: Tensor, y: Tensor) -> Any:
        return self.last(self.decoder(y, self.encoder(x)[1])[0])


class OwnZeros(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.width, self.rnn, self.last = 8, nn.GRU(3, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Any:
        return self.last(self.rnn(x, torch.zeros(1, x.shape[1], self.width))[0].mean(0))


@pytest.mark.parametrize(
    ("net", "shapes", "sizes"),
    [
        (Packed(), [(4, 5, 4)], {"theta.first": 6, "theta.rnn": 8}),
        (Translator(), [(4, 2, 3), (5, 2, 5)], {"theta.encoder": 8}),
        (OwnZeros(), [(4, 2, 3)], {"theta.rnn": 8}),
    ],
    ids=["packed", "translator", "own zeros"],
)
def test_packed_sequences_and_initial_states(
    net: nn.Module, shapes: list[tuple[int, ...]], sizes: dict[str, int]
) -> None:
    inputs = [torch.randn(shape) for shape in shapes]
    network = NoisyNetwork(net, *inputs)
    assert {family.name: family.size for family in network.structures} == sizes
    assert removal_error(network, *(torch.randn(3, *x.shape[1:]) for x in inputs), seed=2) < 1e-5


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_what_stays_is_named() -> None:
    class Projected(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.last = nn.LSTM(4, 10, proj_size=6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Any:
            return self.last(self.rnn(x)[0])

    left_out = dict(find_structures(Projected(), torch.randn(5, 2, 4)).left_out)
    assert "projects its hidden units (proj_size)" in left_out["theta.rnn"]


def test_gains_of_single_examples_are_refused_and_one_draw_serves_a_batch() -> None:
    network = NoisyNetwork(Classifier(), words(2, 6))
    with pytest.raises(ValueError, match=r"one gain each for a whole batch; give gains of shape \(C,\)"):
        network(words(3, 4), {"theta.rnn": torch.rand(3, 10)})
    torch.testing.assert_close(
        network(words(3, 4)), network.net(words(3, 4))
    )  # and its weights are its own again
    assert SupervisedModel(network, "categorical", 10).draws == "batch"


def test_training_removes_hidden_units() -> None:
    torch.manual_seed(0)
    x = torch.randint(30, (400, 4))
    batches = list(zip(x.split(20), (x[:, -1] % 3).split(20), strict=True))
    network = NoisyNetwork(Classifier(nn.GRU), words(2, 5))
    model = SupervisedModel(network, "categorical", 400, kl_weight="mean:0.1")
    options: dict[str, Any] = {"epochs": 14, "fine_tune_epochs": 1, "lr": 1e-2, "posterior_lr_factor": 10}
    guide = AutoTruncatedLogNormal(model)
    history = fit(model, guide, batches, validation=batches, progress=False, **options)
    small: Any = history.network
    assert 0 < small.rnn.hidden_size < 10
    assert small.rnn.hidden_size == int(history.keep["theta.rnn"].sum())
    theta = {name: q.mean for name, q in guide.posteriors().items()}
    torch.testing.assert_close(small(x), network.eval()(x, theta))
