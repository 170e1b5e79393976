"""What one call returns: saved to a directory, shown as a page."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributions import constraints
from torch.utils.data import BatchSampler, DataLoader, SubsetRandomSampler, TensorDataset

import bmrs_pyro as bp
from bmrs_pyro import Checkpoint, History, Pruned, evaluate, load, prune
from bmrs_pyro.data import Batches, Dataset
from bmrs_pyro.files import WriteError, unseal
from bmrs_pyro.inference.likelihoods import Likelihood
from bmrs_pyro.path import Target
from bmrs_pyro.runs import PathRecord, RunError
from bmrs_pyro.training.labels import refuse_few
from tests.inference.programs import FEATURES, batches, mlp

QUICK = {"epochs": 6, "dense_epochs": 1, "max_params": "100%", "progress": False}


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return mlp(16)


@pytest.fixture(scope="module")
def pruned(net: nn.Module) -> Pruned:
    return prune(net, batches(), validation=batches(seed=1), **QUICK)  # type: ignore[arg-type]


def test_what_is_saved_is_loaded_again(pruned: Pruned, net: nn.Module, tmp_path: Path) -> None:
    folder = tmp_path / "a" / "small"
    pruned.save(folder)
    small = load(folder, net)
    x = batches(seed=2)[0][0]
    assert torch.equal(small(x), pruned.network(x))
    saved = load_file(folder / "posteriors.safetensors")
    for name, q in pruned.posteriors.items():
        assert torch.equal(saved[f"loc::{name}"], q.loc)
        assert torch.equal(saved[f"scale::{name}"], q.scale)
    again = bp.load_posteriors(folder)
    assert list(again) == list(pruned.posteriors)
    for name, q in pruned.posteriors.items():
        assert torch.equal(again[name].loc, q.loc)
        assert torch.allclose(again[name].mean, q.mean)
    with pytest.raises(RunError, match=r"posteriors\.safetensors is missing"):
        bp.load_posteriors(tmp_path)
    record = PathRecord.from_json(unseal((folder / "path.json").read_text()))
    assert record == PathRecord.of(pruned.path, pruned.choice)
    assert (record.chosen, record.points) == (pruned.point, pruned.path.points)
    decision = unseal((folder / "reduction.json").read_text())
    assert decision["criterion"] == "bmrs-n"
    with pytest.raises(RunError, match="does not name the network's source; give a dense network"):
        load(folder)
    (folder / "small.safetensors").unlink()
    with pytest.raises(
        RunError, match=r"small\.safetensors is missing, but posteriors\.safetensors is there"
    ):
        load(folder, net)


def test_results_are_printed_in_a_few_lines(pruned: Pruned) -> None:
    dense, small = pruned.path.dense, pruned.point
    refit = pruned.choice.refit
    for part in (pruned, pruned.path, pruned.choice, refit, refit.history, pruned.path.trainee):
        assert repr(part).count("\n") < 5
        assert len(repr(part)) < 400
    for text in (
        f"unpruned  {dense.parameters:,} parameters",
        f"accuracy {small.score.accuracy:.2%}",
        "meets",
    ):
        assert text in repr(pruned)
    assert "misses its target" in repr(replace(pruned, choice=replace(pruned.choice, met=False)))
    assert f"{small.parameters:,} parameters" in repr(pruned.choice)
    assert f"networks: {len(pruned.path.points)}\n" in repr(pruned.path)
    history = refit.history
    assert f"History of {len(history)} epochs, {small.size} of {dense.size} structures left" in repr(history)
    assert "best epoch" not in repr(History(history.keep))


def test_the_page_says_what_it_cost_and_shows_the_path(pruned: Pruned, tmp_path: Path) -> None:
    pruned.report(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    dense, small = pruned.path.dense, pruned.point
    assert "<h2>The path</h2>" in page
    for text in (f"{dense.score.accuracy:.2%}", f"{small.score.accuracy:.2%}", "latency, batch 128"):
        assert text in page
    assert f"<td>{dense.parameters:,}</td><td>{small.parameters:,}</td>" in page
    assert "result.choose(max_macs=" in page
    assert page.count('class="chosen"') == 1
    assert "<h2>What its probabilities are worth</h2>" in page
    with pytest.raises(WriteError, match="cannot be written"):
        pruned.report(tmp_path / "none" / "page.html")


@pytest.mark.filterwarnings("ignore:.*min_keep")  # so few epochs may empty the layer
def test_a_regression_of_several_inputs_has_a_page_too(tmp_path: Path) -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.last = nn.Linear(4, 12), nn.Linear(12, 1)

        def forward(self, a: Tensor, b: Tensor) -> Any:
            return self.last((self.hidden(a + b)).relu())

    torch.manual_seed(0)
    a, b = torch.randn(2, 64, 4)
    data = [((a[:32], b[:32]), a[:32, 0]), ((a[32:], b[32:]), a[32:, 0])]
    options = {**QUICK, "epochs": 2, "dense_epochs": 0, "likelihood": "normal:1"}
    found = prune(Sum(), data, validation=data, **options)  # type: ignore[arg-type]
    found.report(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "<h1>Sum of 73 parameters</h1>" in page
    assert "validation log-likelihood" in page
    scored = evaluate(found.network, data, likelihood="normal:1")
    assert "<h2>What it predicts</h2>" in page
    assert f"<td>{scored.rmse:.4g}</td>" in page


@pytest.mark.filterwarnings("ignore:.*min_keep")
def test_the_page_of_a_language_model_has_its_perplexity(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokens = torch.randint(7, (64, 5))
    data = [(part, part) for part in tokens.split(32)]
    net = nn.Sequential(nn.Embedding(7, 8), nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 7))
    options = {**QUICK, "epochs": 2, "dense_epochs": 0, "likelihood": "next-token"}
    found = prune(net, data, validation=data, **options)  # type: ignore[arg-type]
    found.report(tmp_path / "page.html")
    perplexity = evaluate(found.network, data, likelihood="next-token").perplexity
    assert f"<td>{perplexity:.4g}</td>" in (tmp_path / "page.html").read_text()


def test_the_path_goes_on_with_the_likelihood_of_the_dense_network(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 4)
    data = [(x[:32], x[:32, 0]), (x[32:], x[32:, 0])]
    net = nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 1))
    options = {**QUICK, "epochs": 2, "dense_epochs": 1, "likelihood": "normal", "directory": tmp_path}
    found = prune(net, data, validation=data, **options)  # type: ignore[arg-type]
    likelihood = found.path.trainee.model.likelihood
    assert isinstance(likelihood, nn.Module)
    state = Checkpoint(tmp_path / "dense.safetensors").load()
    assert state is not None
    ((name, trained),) = state.tensors["best/likelihood"].items()
    assert torch.equal(likelihood.state_dict()[name], trained)
    assert trained.item() != 0.0  # where it starts


@pytest.mark.parametrize(
    ("target", "kl_weight"),
    [
        ({}, "cost"),
        ({"max_loss": 5}, "cost"),
        ({"max_macs": "90%"}, "cost-macs"),
        ({"max_macs": "90%", "max_params": "90%"}, "cost"),
        ({"max_latency": "90%"}, "cost-macs"),
    ],
)
def test_the_path_weighs_the_cost_that_the_target_limits(target: dict[str, object], kl_weight: str) -> None:
    assert Target(**target).kl_weight == kl_weight  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:.*min_keep=1 keeps")  # a few steps are far too few
def test_another_target_chooses_from_the_path_in_a_directory(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 1, 6, 6)
    y = (x.mean((1, 2, 3)) > 0).long()
    data = [(x[:32], y[:32]), (x[32:], y[32:])]
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 12), nn.ReLU(), nn.Linear(12, 2)
    )
    options = {"epochs": 4, "dense_epochs": 0, "directory": tmp_path, "progress": False}
    found = prune(net, data, validation=data, max_macs="90%", **options)  # type: ignore[arg-type]
    assert found.path.trainee.model.kl_weight.name == "cost-macs"
    with pytest.warns(UserWarning, match="has the KL weight 'cost-macs' of an earlier target"):
        other = prune(net, data, validation=data, max_params="90%", **options)  # type: ignore[arg-type]
    assert other.path.points == found.path.points
    assert other.path.trainee.model.kl_weight.name == "cost-macs"


@pytest.mark.parametrize(
    ("option", "name", "value"), [("draws", "draws", 8), ("bfloat16", "mixed_precision", True)]
)
def test_draws_and_precision_are_those_of_the_model(option: str, name: str, value: object) -> None:
    options = {**QUICK, "epochs": 2, "dense_epochs": 0, option: value}
    found = prune(mlp(16), batches(), validation=batches(seed=1), **options)  # type: ignore[arg-type]
    assert getattr(found.path.trainee.model, name) == value


class Noise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(()))

    def forward(self, z: Tensor) -> dist.Normal:
        return dist.Normal(z.squeeze(-1), self.log_scale.exp())


def noise(z: Tensor) -> dist.Normal:
    return dist.Normal(z.squeeze(-1), pyro.param("sigma", torch.tensor(1.0), constraint=constraints.positive))


def closure() -> Likelihood:
    inner = Noise()
    return lambda z: inner(z)


@pytest.mark.filterwarnings("ignore:the small network is much worse")  # it is tiny
@pytest.mark.filterwarnings("ignore:.*min_keep")  # so few epochs may empty the layer
@pytest.mark.parametrize("make", [Noise, lambda: noise, closure, lambda: Noise().forward])
def test_every_choice_has_its_own_trained_likelihood(make: Callable[[], Likelihood]) -> None:
    torch.manual_seed(0)
    pyro.clear_param_store()
    x = torch.randn(256, 4)
    data = [(part, part[:, 0] - part[:, 1]) for part in x.split(32)]
    net = nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 1))
    given = make()
    large = prune(net, data, validation=data, likelihood=given, lr=0.003, **QUICK)  # type: ignore[arg-type]

    def scored(found: Pruned, likelihood: Likelihood) -> float:
        return -evaluate(found.network, data, likelihood=likelihood).nll

    assert scored(large, given) == pytest.approx(large.point.score.log_likelihood, rel=1e-5)
    small = large.choose(max_params=large.path.points[-1].parameters // 2)
    for found in (small, large):
        assert scored(found, found.likelihood) == pytest.approx(found.point.score.log_likelihood, rel=1e-5)
    assert abs(scored(large, small.likelihood) - scored(large, large.likelihood)) > 0.01


def test_the_record_of_a_path_is_plain_json(pruned: Pruned) -> None:
    record = PathRecord.of(pruned.path, pruned.choice)
    assert PathRecord.from_json(json.loads(json.dumps(record.to_json()))) == record
    with pytest.raises(ValueError, match="malformed path"):
        PathRecord.from_json({"points": []})


def test_a_saved_result_becomes_inference_data_with_the_dense_networks_numbers(
    pruned: Pruned, tmp_path: Path
) -> None:
    pytest.importorskip("arviz")
    pruned.save(tmp_path)
    keep = pruned.choice.refit.history.keep
    saved, guide = (
        bp.to_inference_data(source, 20, keep=given, seed=1)["posterior"]
        for source, given in ((tmp_path, None), (pruned.choice.refit.guide, keep))
    )
    for name in pruned.posteriors:
        assert saved[name].values.tolist() == guide[name].values.tolist()
        dimension = name.removeprefix("theta.")
        assert saved.coords[dimension].values.tolist() == keep[name].nonzero().flatten().tolist()


def test_validation_of_one_example_has_no_error(net: nn.Module) -> None:
    x, y = batches(seed=1)[0]
    with pytest.raises(ValueError, match="validation holds one example, whose score has no known error"):
        prune(net, batches(), validation=[(x[:1], y[:1])], **QUICK)  # type: ignore[arg-type]


@pytest.mark.parametrize("trained", [True, False])
def test_labels_and_inputs_that_are_missing_are_told_of(net: nn.Module, trained: bool) -> None:
    x, y = next(iter(batches()))
    options: dict[str, Any] = {"max_macs": "50%", "trained": trained, "progress": False, "epochs": 2}
    with pytest.raises(TypeError, match="the labels of a batch of the validation data are None"):
        prune(net, [(x, y)], validation=[(x, None)], **options)
    with pytest.raises(TypeError, match="the labels of a batch of the training data are None"):
        prune(net, [(x, None)], validation=[(x, y)], **options)
    with pytest.raises(ValueError, match="the training data hold NaN or inf"):
        prune(net, [(x * math.nan, y)], validation=[(x, y)], **options)
    with pytest.raises(TypeError, match="epochs is True; give a whole number"):
        prune(net, [(x, y)], validation=[(x, y)], **{**options, "epochs": True})


def test_few_examples_for_validation_give_a_warning() -> None:
    x, y = batches(seed=1)[0]
    with pytest.warns(UserWarning, match="validation holds 9 examples, so that chance decides"):
        refuse_few([(x[:5], y[:5]), (x[5:9], y[5:9])])


def test_an_empty_name_is_no_likelihood() -> None:
    with pytest.raises(ValueError, match="likelihood is ''; use categorical"):
        prune(mlp(16), batches(), validation=batches(seed=1), likelihood="", **QUICK)  # type: ignore[arg-type]


def test_the_check_of_labels_leaves_the_loader_as_it_was() -> None:
    """Batches count their passes, and torch's loaders draw a seed for each: a check must not change what follows."""
    x, y = batches(seed=1)[0]
    shuffled = Batches(Dataset(x.view(-1, FEATURES), y, 3), 8)
    state = torch.get_rng_state()
    for loader in (shuffled, DataLoader(TensorDataset(x, y), 8, shuffle=True)):
        refuse_few(loader)

    class Single(list[Any]):
        def __copy__(self) -> Any:
            raise TypeError("cannot copy")

    refuse_few(Single([(x, y)]))
    assert shuffled.epoch == 0
    assert torch.equal(torch.get_rng_state(), state)


def test_validation_labels_that_are_all_the_same_give_a_warning(net: nn.Module) -> None:
    x, y = batches(seed=1)[0]
    with pytest.warns(UserWarning, match="all validation labels are the same"):
        prune(net, batches(), validation=[(x[y == 1], y[y == 1])], **QUICK)  # type: ignore[arg-type]


def test_the_same_data_for_training_and_choice_give_a_warning(net: nn.Module) -> None:
    found = batches()
    data = TensorDataset(torch.cat([x for x, _ in found]), torch.cat([y for _, y in found]))
    whole, again = DataLoader(data, 32, shuffle=True), DataLoader(data, 50)
    for train, validation in ((whole, again), (found, found)):
        with pytest.warns(UserWarning, match="batches of the same data set"):
            prune(net, train, validation=validation, **QUICK)  # type: ignore[arg-type]
    parts = SubsetRandomSampler(range(100)), BatchSampler(SubsetRandomSampler(range(100, 150)), 32, False)
    split = [DataLoader(data, 32, sampler=parts[0]), DataLoader(data, batch_sampler=parts[1])]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*same data set")
        prune(net, split[0], validation=split[1], **QUICK)  # type: ignore[arg-type]


def test_what_cannot_be_trained_is_told_of_first(net: nn.Module) -> None:
    for trained in (False, True):
        with pytest.raises(ValueError, match=r"weights are float16.*net\.float"):
            prune(mlp(16).half(), batches(), validation=batches(seed=1), trained=trained)
        for off in (torch.no_grad, torch.inference_mode):
            with off(), pytest.raises(ValueError, match=r"gradients are switched off, by torch\.no_grad"):
                prune(net, batches(), validation=batches(seed=1), trained=trained)
    wide = [(x.double(), y) for x, y in batches()]
    with pytest.raises(
        ValueError, match=r"inputs are torch\.float64, the weights torch\.float32: convert one"
    ):
        prune(net, wide, validation=wide)


@pytest.mark.parametrize("trained", [False, True])
def test_probabilities_where_logits_belong_give_a_warning(trained: bool) -> None:
    quick = {"epochs": 1, "max_params": "90%", "progress": False} if trained else QUICK
    data = batches()
    with pytest.warns(UserWarning, match="the network ends with a softmax, and the likelihood takes logits"):
        prune(nn.Sequential(mlp(16), nn.Softmax(-1)), data, validation=data, trained=trained, **quick)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:.*no better than a constant", "ignore:.*much worse")
@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
@pytest.mark.parametrize("trained", [False, True])
def test_a_network_that_keeps_a_computed_weight_is_pruned(trained: bool) -> None:
    torch.manual_seed(0)
    norm = torch.nn.utils.weight_norm
    net = nn.Sequential(nn.Linear(FEATURES, 8), nn.Tanh(), norm(nn.Linear(8, 8)), nn.Tanh(), nn.Linear(8, 3))
    more: dict[str, Any] = {"teacher": net} if trained else {"dense_epochs": 1}
    options = {"epochs": 2, "max_params": "60%", "progress": False, "trained": trained, **more}
    result = prune(net, batches(), validation=batches(seed=1), **options)
    parameters = sum(weight.numel() for weight in net.parameters())
    assert sum(weight.numel() for weight in result.network.parameters()) <= 0.6 * parameters


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize(
    ("labels", "likelihood", "match"),
    [
        (torch.zeros(32, 2), "normal", r"y has shape \(32, 2\), but the likelihood's values have shape"),
        (torch.zeros(32), lambda z: dist.Normal(z[:, 0], -1.0), "likelihood refuses the network's outputs"),
        (torch.zeros(32, dtype=torch.int64), dist.Categorical, r"satisfy the constraint Simplex.*logits=z"),
    ],
)
def test_training_labels_and_likelihoods_that_do_not_fit_are_refused(
    labels: Tensor, likelihood: Any, match: str, trained: bool
) -> None:
    x = torch.randn(32, FEATURES)
    with pytest.raises(ValueError, match=match):
        prune(
            mlp(4), [(x, labels)], validation=[(x, labels[:, None])], likelihood=likelihood, trained=trained
        )


def test_options_are_checked_before_training(net: nn.Module) -> None:
    for options in ({"round_to": 2.5}, {"round_to": 2.5, "trained": True}):
        told = list[object]()
        with pytest.raises(TypeError, match=r"round_to is 2\.5; give a whole number"):
            prune(net, batches(), validation=batches(seed=1), callbacks=[told.append], **options)  # type: ignore[arg-type]
        assert not told
