"""Batches of dicts and keywords, and objects put out: the same numbers as tensors by position give."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from bmrs_pyro import (
    AutoTruncatedLogNormal,
    NoisyNetwork,
    SupervisedModel,
    bmrs_n,
    compact,
    evaluate,
    fit,
    posteriors,
    predict,
)
from bmrs_pyro.distributed.global_batch import _stand_in
from bmrs_pyro.inference import NonFiniteLoss
from bmrs_pyro.inference.inputs import inputs_on, pairs
from bmrs_pyro.training import reestimate_batch_norm_
from bmrs_pyro.training.validation import validate

N = 96


@dataclass
class Output:
    logits: Tensor
    loss: Tensor | None = None


class Words(nn.Module):
    """A classifier of word lists; with labels it would compute a loss, as language models do."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.hidden, self.norm = nn.Embedding(12, 4), nn.Linear(4, 9), nn.BatchNorm1d(9)
        self.last = nn.Linear(9, 3)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None
    ) -> Output:
        assert labels is None
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        x = (self.words(input_ids) * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)
        return Output(self.last(self.norm(self.hidden(x)).relu()))


def data() -> list[dict[str, Tensor]]:
    random = torch.Generator().manual_seed(0)
    ids = torch.randint(12, (N, 5), generator=random)
    mask = (torch.arange(5) <= torch.randint(1, 5, (N, 1), generator=random)).long()
    return [{"input_ids": i, "attention_mask": m, "labels": i[0] % 3} for i, m in zip(ids, mask, strict=True)]


def loader(form: str) -> list[Any]:
    batches = list(DataLoader(data(), batch_size=24))  # type: ignore[arg-type]
    match form:
        case "labels":
            return batches
        case "dict":
            return [(x, x.pop("labels")) for x in batches]
        case _:
            return [([x["input_ids"], x["attention_mask"]], x["labels"]) for x in batches]


def program(**options: Any) -> tuple[SupervisedModel, AutoTruncatedLogNormal]:
    pyro.set_rng_seed(0)
    network = NoisyNetwork(Words(), next(iter(loader("dict")))[0])
    model = SupervisedModel(network, lambda out: dist.Categorical(logits=out.logits), N, **options)
    return model, AutoTruncatedLogNormal(model)


@pytest.mark.parametrize("draws", ["example", "batch"])
@pytest.mark.parametrize("mixed", [False, True])
def test_training_is_the_same_in_every_form(draws: str, mixed: bool) -> None:
    results = []
    for form in ("tensors", "dict", "labels"):
        model, guide = program(draws=draws, mixed_precision=mixed)
        history = fit(
            model, guide, loader(form), validation=loader(form), epochs=2, fine_tune_epochs=1,
            criterion=bmrs_n(), progress=False,
        )  # fmt: skip
        results.append((history.epochs[-1].elbo, history.epochs[-1].log_likelihood, guide.loc.detach()))
    for elbo, log_likelihood, loc in results[1:]:
        assert (elbo, log_likelihood) == results[0][:2]
        assert torch.equal(loc, results[0][2])


def test_scores_and_predictions_in_every_form() -> None:
    model, guide = program()
    network = model.network
    found = posteriors(guide, loader("dict")[0][0])
    theta = {name: q.mean for name, q in found.items()}
    small = compact(network, {}, theta).eval()
    network.eval()
    scores = [validate(model, theta, loader(form)) for form in ("tensors", "dict", "labels")]
    assert scores[0] == scores[1] == scores[2]
    for form in ("tensors", "dict", "labels"):
        for net in (small, lambda x: network(tuple(x) if isinstance(x, list) else x, theta)):
            found_nll = evaluate(net, loader(form), 3).nll
            assert found_nll == pytest.approx(-scores[0].log_likelihood, rel=1e-5)
    dense = evaluate(network.net, loader("dict"), 3).nll
    assert evaluate(network, loader("tensors"), 3).nll == evaluate(network, loader("labels"), 3).nll == dense
    x, _ = loader("dict")[0]
    seen = []
    for inputs in (x, tuple(x.values())):
        pyro.set_rng_seed(1)
        seen.append(predict(network, found, inputs, 3).log_mean)
    assert torch.equal(*seen)


def test_batch_norms_see_every_form() -> None:
    means: list[Tensor] = []
    for form in ("tensors", "dict", "labels"):
        torch.manual_seed(0)
        net: Any = Words()
        reestimate_batch_norm_(net, loader(form))
        means.append(net.norm.running_mean.clone())
        net.norm.reset_running_stats()
        reestimate_batch_norm_(NoisyNetwork(net, loader("dict")[0][0]), loader(form))
        means.append(net.norm.running_mean)
    assert means[0].abs().sum() > 0
    assert all(torch.equal(mean, means[0]) for mean in means)


def test_batches_are_pairs_or_have_labels() -> None:
    x, y = torch.zeros(2, 3), torch.zeros(2)
    assert list(pairs([(x, y)])) == [(x, y)]
    assert list(pairs([[[1, 2], y]])) == [((1, 2), y)]  # several inputs, as torch's loader joins them
    assert list(pairs([{"a": 1, "labels": y}])) == [({"a": 1}, y)]

    class Pair:
        def __iter__(self) -> Iterator[Tensor]:
            return iter((x, y))

    assert list(pairs([Pair()])) == [(x, y)]
    for batch, what in (
        ((x, x, y), r"a tuple \(too many values"),
        ({"a": x, "b": y}, r"a dict \(has \['a', 'b'\]\)"),
        (3, r"a int \(cannot unpack"),
    ):
        with pytest.raises(ValueError, match=rf"a batch is {what}.*; expected \(x, y\), where x may be"):
            list(pairs([batch]))


def test_moving_goes_into_everything_and_leaves_the_rest() -> None:
    x = torch.zeros(2, 3)
    moved = inputs_on(torch.device("meta"), [{"x": x, "n": None, "k": (x, 3)}, Output(x), "text"])
    assert isinstance(moved, tuple)
    assert [moved[0]["x"].device.type, moved[0]["k"][0].device.type, moved[1].logits.device.type] == [
        "meta"
    ] * 3
    assert (moved[0]["n"], moved[0]["k"][1], moved[1].loss, moved[2]) == (None, 3, None, "text")
    packed = nn.utils.rnn.pack_sequence([x])
    assert inputs_on(torch.device("meta"), packed).data.device.type == "meta"


class Constant(nn.Module):
    """Without tensors among its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(1, 4), nn.Linear(4, 2)

    def forward(self, times: int) -> Tensor:
        out: Tensor = self.last(self.first(torch.ones(times, 1, dtype=self.first.weight.dtype)).relu())
        return out


def test_draws_per_example_ask_for_a_batch() -> None:
    network = NoisyNetwork(Constant(), 2)
    model = SupervisedModel(network, lambda z: dist.Categorical(logits=z), 4)
    with pytest.raises(
        ValueError, match="no tensor among the inputs begins with the batch; use draws='batch'"
    ):
        model.draw_shape(3)
    model = SupervisedModel(network, lambda z: dist.Categorical(logits=z), 4, draws="batch")
    assert model(3).shape == (3,)


def test_what_is_not_finite_is_found_in_a_dict() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(2, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor, n: int | None = None) -> Tensor:
            out: Tensor = self.last(self.first(x).relu())
            return out

    network = NoisyNetwork(Net(), {"x": torch.zeros(1, 2), "n": 1})
    model = SupervisedModel(network, lambda z: dist.Categorical(logits=z), 4)
    batch = {"x": torch.full((4, 2), torch.nan), "n": 1, "labels": torch.zeros(4, dtype=torch.long)}
    with pytest.raises(NonFiniteLoss, match="the data hold NaN or inf"):
        fit(model, AutoTruncatedLogNormal(model), [batch], epochs=1, fine_tune_epochs=0, progress=False)


def test_a_process_without_rows_gets_one_of_zeros() -> None:
    x = {
        "ids": torch.ones(0, 3),
        "mask": (torch.ones(0), torch.ones(2, 2)),
        "none": None,
        "scale": torch.tensor(2.0),
    }
    filled = _stand_in(x)
    assert torch.equal(filled["ids"], torch.zeros(1, 3))
    assert torch.equal(filled["mask"][0], torch.zeros(1))
    assert torch.equal(filled["mask"][1], torch.ones(2, 2))  # has no batch
    assert (filled["none"], filled["scale"]) == (None, 2.0)


def test_compiled_networks_take_dicts() -> None:
    model, guide = program()
    x = loader("dict")[0][0]
    theta = {name: gain.detach() for name, gain in guide.draw(x)[0].items()}
    run = torch.compile(model.network.forward, backend="eager", fullgraph=True)
    model.network.eval()
    torch.testing.assert_close(run(x, theta).logits, model.network(x, theta).logits)


def test_batches_of_another_form_or_without_numbers_are_told_of() -> None:
    x, y = torch.zeros(4, 2), torch.zeros(4, dtype=torch.long)
    net = nn.Linear(2, 3)
    for batch, message in (
        ((x, x, y), r"too many values; give several inputs as one tuple, \(\(a, b\), y\)"),
        ((x.to("meta"), y), "a batch is on the meta device, without numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate(net, [batch], 3)
    with pytest.raises(ValueError, match="the network is on the meta device, without numbers"):
        evaluate(net.to("meta"), [(x, y)], 3)
    with pytest.raises(ValueError, match="if y holds classes, give likelihood='categorical'"):
        evaluate(nn.Linear(2, 3), [(x, y)], likelihood="normal:1.0")
