"""Which networks may have gains of their own for every example: those that keep examples in their rows."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pyro.distributions as dist
import pytest
import torch
from pyro.util import get_rng_state
from torch import Tensor, nn

from bmrs_pyro import AutoTruncatedLogNormal, NoisyNetwork, SupervisedModel, fit
from bmrs_pyro.network.row_check import tried_rows
from tests.inference.programs import batches
from tests.network.networks import CASES

Make, Draw = Callable[[], nn.Module], Callable[[], Tensor]
BATCH, STEPS, FEATURES = 16, 7, 6


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(FEATURES, 8), nn.Linear(8, 8), nn.Linear(8, 3)


class TimeFirst(Layers):
    """Works on (time, batch, features) inside, as an RNN does."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.b(self.a(x.transpose(0, 1)).relu()).relu()
        return self.c(h).mean(0)


class Summed(Layers):
    """The layers of a time-first network read one time step after the other: every row is an example."""

    def forward(self, x: Tensor) -> Tensor:
        return sum(self.c(self.b(self.a(step).relu()).relu()) for step in x.transpose(0, 1))


class TimeFirstAtOneSize(Layers):
    """Takes a batch of seven for seven time steps."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).relu()
        h = h.transpose(0, 1) if len(h) == STEPS else h
        return self.c(self.b(h).relu()).mean(1)


class Reversed(Layers):
    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x).relu().flip(0)).relu()).flip(0)


class Experts(Layers):
    """Sorts examples by the expert that is to have them, and back again."""

    def __init__(self, share: float = 1.0) -> None:
        super().__init__()
        self.router = nn.Linear(FEATURES, 4)
        with torch.no_grad():
            self.router.weight.mul_(share)
            self.router.bias.mul_(share)

    def forward(self, x: Tensor) -> Tensor:
        order = self.router(x).argmax(-1).argsort(stable=True)
        h = self.b(self.a(x).relu()[order]).relu()
        return self.c(h[order.argsort()])


class TwoExperts(Experts):
    """Puts the examples of one expert behind those of the other."""

    def forward(self, x: Tensor) -> Tensor:
        first = self.router(x)[:, 0] > 0
        h, back = self.a(x).relu(), torch.arange(len(x))
        h = self.b(torch.cat([h[first], h[~first]])).relu()
        return self.c(h[torch.cat([back[first], back[~first]]).argsort()])


class SortedAndBack(Layers):
    """Sorts examples where no gate is."""

    def forward(self, x: Tensor) -> Tensor:
        order = x[:, 0].argsort()
        x = x[order].tanh()[order.argsort()]
        return self.c(self.b(self.a(x).relu()).relu())


class ShuffledInTraining(Layers):
    def forward(self, x: Tensor) -> Tensor:
        order = torch.randperm(len(x)) if self.training else torch.arange(len(x))
        h = self.b(self.a(x).relu()[order]).relu()
        return self.c(torch.empty_like(h).index_copy(0, order, h))


class RandomInTraining(Layers):
    def forward(self, x: Tensor) -> Tensor:
        order = torch.rand(len(x)).argsort() if self.training else torch.arange(len(x))
        h = self.b(self.a(x).relu()[order]).relu()
        return self.c(torch.empty_like(h).index_copy(0, order, h))


class Flat(Layers):
    """Puts the time steps of all examples one below the other."""

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x.flatten(0, 1)).relu()).relu()).view(len(x), -1, 3).mean(1)


class Unlike(Layers):
    """Says the same of all examples."""

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(0 * x).relu()).relu())


class BatchStatistics(Layers):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(8, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.norm(self.a(x)).relu()).relu())


class OverTheBatch(Layers):
    """Every example looks at all others."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        h = h + (h @ h.T).softmax(-1) @ h
        return self.c(self.b(h.relu()).relu())


class OneSize(Layers):
    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x.view(BATCH, FEATURES)).relu()).relu())


class EncoderTimeFirst(Layers):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(FEATURES, 2, 8, batch_first=False)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(self.encoder(x.transpose(0, 1)).mean(0)).relu()).relu())


class Tokens(Layers):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, FEATURES)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(self.embedding(x)).relu()).relu()).mean(1)


def program(net: nn.Module, x: Tensor, **options: object) -> SupervisedModel:
    network = NoisyNetwork(net, x[:BATCH].clone())
    return SupervisedModel(network, lambda z: dist.Categorical(logits=z), 100, **options)  # type: ignore[arg-type]


def flat() -> Tensor:
    return torch.randn(BATCH, FEATURES)


def series() -> Tensor:
    return torch.randn(BATCH, STEPS, FEATURES)


@pytest.mark.parametrize(
    ("make", "draw", "reason"),
    [
        (TimeFirst, series, "layer 'b' reads 7 rows for a batch of 5"),
        (TimeFirst, lambda: torch.randn(STEPS, STEPS, FEATURES), "layer 'b' reads 7 rows for a batch of 5"),
        (TimeFirst, lambda: torch.randn(5, 5, FEATURES), "rows of b are not the examples"),
        (TimeFirstAtOneSize, series, "rows of b are not the examples"),
        (
            EncoderTimeFirst,
            series,
            "reads 7 rows for a batch of 5; layer 'encoder.layers.0.self_attn' can take the batch first, with batch_f",
        ),
        (Reversed, flat, "rows of b are not the examples"),
        (Experts, flat, "rows of b are not the examples"),
        (lambda: Experts(0.0), flat, "sorts or chooses examples"),
        (TwoExperts, flat, "rows of b are not the examples"),
        (lambda: TwoExperts(0.0), flat, "sorts or chooses examples"),
        (RandomInTraining, flat, "shuffles the examples in training"),
        (ShuffledInTraining, flat, "shuffles the examples in training"),
        (Flat, series, "reads 35 rows for a batch of 5"),
        (Unlike, flat, "layer 'b' reads the same for all examples"),
    ],
)
def test_mixed_rows_get_one_draw_per_batch_and_one_warning(
    make: Callable[[], nn.Module], draw: Callable[[], Tensor], reason: str
) -> None:
    torch.manual_seed(3)
    x = draw()
    model = program(make(), x)
    guide = AutoTruncatedLogNormal(model)
    with pytest.warns(UserWarning, match=f"{reason}.*share one draw") as caught:
        theta = guide(x)
    assert sum("share one draw" in str(warning.message) for warning in caught) == 1
    assert all(gain.dim() == 1 for gain in theta.values())
    assert (model.draws, model.draw_shape(x)) == ("batch", ())
    # the gains of the batch are every example's own: as one at a time
    with torch.no_grad():
        model.network.eval()
        outputs = model.network(x, theta)
        for output, example in zip(outputs, x, strict=True):
            assert torch.allclose(output, model.network(example[None], theta)[0], atol=1e-5)


@pytest.mark.parametrize(
    ("make", "draw", "alone"),
    [
        (lambda: mlp_of(FEATURES), flat, True),
        (lambda: mlp_of(FEATURES), lambda: torch.zeros(BATCH, FEATURES), True),  # told apart by noise
        (lambda: mlp_of(FEATURES), lambda: torch.randn(1, FEATURES), True),
        (lambda: mlp_of(FEATURES), lambda: torch.randn(8, FEATURES), True),  # as many as channels
        (Summed, series, True),
        (SortedAndBack, flat, True),
        (Tokens, lambda: torch.randint(5, (BATCH, STEPS)), True),
        (OneSize, flat, False),
        (BatchStatistics, flat, False),
        (OverTheBatch, flat, False),
    ],
)
def test_examples_in_their_rows_keep_their_own_draws(
    make: Callable[[], nn.Module], draw: Callable[[], Tensor], alone: bool
) -> None:
    torch.manual_seed(3)
    x = draw()
    model = program(make(), x)
    theta = AutoTruncatedLogNormal(model, init_log_scale=-1.0)(x)
    assert model.draws != "batch"
    assert model.draw_shape(x) == (len(x),)
    if not alone:
        return
    with torch.no_grad():
        model.network.eval()
        outputs = model.network(x, theta)
        for i, example in enumerate(x):
            own = {name: gain[i] for name, gain in theta.items()}
            assert torch.allclose(outputs[i], model.network(example[None], own)[0], atol=1e-5)


def mlp_of(features: int) -> nn.Module:
    return nn.Sequential(nn.Linear(features, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))


@pytest.mark.parametrize("name", CASES)
def test_plain_networks_keep_draws_per_example(name: str) -> None:
    torch.manual_seed(5)
    inputs = CASES[name].draw(9)
    network = NoisyNetwork(CASES[name].make(), *inputs)
    assert tried_rows(network, inputs if len(inputs) > 1 else inputs[0], 9).doubt is None


def test_the_trial_leaves_no_trace() -> None:
    x = torch.randn(BATCH, 3, 8, 8)
    net = nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout()),
        *(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)),
    )
    model = program(net, x)
    net[1].eval()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    modes = [module.training for module in net.modules()]
    drawn = get_rng_state()
    seen = []
    handle = net[4].register_forward_hook(lambda *_: seen.append(1))
    model.draw_shape(x)
    first = len(seen)
    model.draw_shape(x)
    assert len(seen) == first > 0  # once per model
    handle.remove()
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert [module.training for module in net.modules()] == modes
    assert torch.equal(get_rng_state()["torch"], drawn["torch"])
    assert str(get_rng_state()) == str(drawn)
    assert sum(len(module._forward_pre_hooks) for module in net.modules()) == len(model.network.gates)


def test_one_draw_per_batch_asks_for_no_trial() -> None:
    x = torch.randn(BATCH, FEATURES)
    model = program(Reversed(), x, draws="batch")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert model.draw_shape(x) == ()


def test_inputs_that_the_network_refuses_decide_nothing() -> None:
    model = program(mlp_of(FEATURES), torch.randn(BATCH, FEATURES))
    assert model.draw_shape(torch.zeros(4, 1)) == (4,)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        model(torch.zeros(4, 1))


def test_fit_says_it_once() -> None:
    network = NoisyNetwork(Reversed5(), torch.zeros(2, 5))
    model = SupervisedModel(network, lambda z: dist.Categorical(logits=z), 96)
    with pytest.warns(UserWarning, match="share one draw") as caught:
        fit(model, AutoTruncatedLogNormal(model), batches()[:3], epochs=2, fine_tune_epochs=0, progress=False)
    assert sum("share one draw" in str(warning.message) for warning in caught) == 1


class Reversed5(Reversed):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(5, 8)


def test_a_direct_call_refuses_gains_on_other_examples_rows() -> None:
    torch.manual_seed(0)
    network = NoisyNetwork(TimeFirst(), torch.zeros(2, 4, FEATURES))
    x = torch.randn(6, 6, FEATURES)
    theta = {family.name: torch.rand(6, family.size) for family in network.structures}
    with pytest.raises(ValueError, match=r"cannot have gains of their own: .* give gains \(C,\)"):
        network(x, theta)
    shared = {name: gain[0] for name, gain in theta.items()}
    one_by_one = torch.cat([network(x[row : row + 1], shared) for row in range(6)])
    torch.testing.assert_close(network(x, shared), one_by_one)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rows_are_tried_in_single_precision(dtype: torch.dtype) -> None:
    """Examples that differ little have the same numbers in half precision, and gradients were taken one by one."""
    torch.manual_seed(0)
    x = (1 + 1e-3 * torch.randn(16, 6)).to(dtype)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).to(dtype)
    x[:, 0] += torch.randn(16).to(dtype) / 50
    model = program(net, x)
    assert model.draw_shape(x) == (16,)
