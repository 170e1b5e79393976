"""Training: continuous pruning, best weights, resuming, devices' worth of awkward batches."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI
from pyro.util import get_rng_state
from torch import Tensor, nn
from torch.distributions import constraints
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, TensorDataset

from bmrs_pyro import (
    AutoTruncatedLogNormal,
    Checkpoint,
    JointOptim,
    KeepMask,
    MeanFieldELBO,
    NoisyNetwork,
    SignalToNoise,
    SupervisedModel,
    TruncatedLogNormal,
    WeightNorm,
    bmrs_n,
    compact,
    fit,
    posteriors,
    remove_structures_,
    select,
)
from bmrs_pyro.data import Batches, Dataset
from bmrs_pyro.inference import NonFiniteLoss, ScaledLikelihood, SmoothedLikelihood
from bmrs_pyro.training import CheckpointError, Epoch, History, Recipe
from bmrs_pyro.training.labels import warn_of_units
from bmrs_pyro.training.recipe import OF_MODEL_AND_LOADER
from tests.inference.programs import FEATURES, NUM_DATA, batches, blobs, categorical, mlp, program


def quickly(model: SupervisedModel, guide: AutoTruncatedLogNormal, **options: object) -> History:
    settings = {"epochs": 6, "fine_tune_epochs": 2, "progress": False, "criterion": bmrs_n(), **options}
    optim = JointOptim(torch.optim.Adam, {"lr": 0.02, "fused": True}, network=model.network)
    return fit(model, guide, batches(), optim=optim, **settings)  # type: ignore[arg-type]


def trained() -> tuple[SupervisedModel, AutoTruncatedLogNormal, History]:
    model, guide = program(kl_weight=("mean", 0.3))
    history = quickly(model, guide, epochs=15, validation=batches(seed=1))
    return model, guide, history


def test_continuous_pruning_removes_structures_and_keeps_the_function() -> None:
    model, guide, history = trained()
    assert history.keep.removed >= 4
    left = {s.name: s.size for s in model.structures}
    assert left == {name: int(mask.sum()) for name, mask in history.keep.items()}
    assert guide.loc.shape == (sum(left.values()),)
    assert history.best() is not None
    assert history.best().accuracy > 0.95
    assert history.best().structures == left
    means = {name: q.mean for name, q in posteriors(guide).items()}
    x, _ = blobs(2)
    small = compact(model.network, {}, means)
    torch.testing.assert_close(small(x), model.network(x, means), rtol=1e-5, atol=1e-5)
    assert not any(isinstance(module, NoisyNetwork) for module in small.modules())
    for (name, weight), other in zip(history.network.named_parameters(), small.parameters(), strict=True):
        assert torch.equal(weight, other), name
    with torch.no_grad():
        model.network.net[0].weight.zero_()
    torch.testing.assert_close(history.network(x), small(x))
    assert not history.network.training


def test_scores_of_removed_and_kept_structures_are_noted() -> None:
    _, _, history = trained()
    for name, keep in history.keep.items():
        assert (history.scores[name][~keep] > 0).all()
        assert history.scores[name].isfinite().all()


def test_removal_cuts_moments_as_if_the_small_program_had_trained_all_along() -> None:
    """A step after removal equals a step of a program built small, with the cut state given to it."""
    model, guide = program()
    optim = JointOptim(torch.optim.Adam, {"lr": 0.01, "fused": True}, network=model.network)
    model.register_weights = False
    svi = SVI(model, guide, optim, MeanFieldELBO())
    x, y = blobs()
    for _ in range(5):
        svi.step(x, y)
    keep = {s.name: torch.arange(s.size) % 3 != 0 for s in model.structures}
    before = {name: value.clone() for name, value in model.network.net.state_dict().items()}
    identities = [id(p) for p in [*model.parameters(), *guide.parameters()]]
    remove_structures_(model, guide, keep, optim)
    assert [id(p) for p in [*model.parameters(), *guide.parameters()]] == identities

    first, second = keep.values()
    net = mlp(8)
    net.load_state_dict(
        {
            "0.weight": before["0.weight"][first],
            "0.bias": before["0.bias"][first],
            "2.weight": before["2.weight"][second][:, first],
            "2.bias": before["2.bias"][second],
            "4.weight": before["4.weight"][:, second],
            "4.bias": before["4.bias"],
        }
    )
    other, other_guide = program(net)
    other.register_weights = False
    other.kl_scales = model.kl_scales
    other_guide.load_state_dict(guide.state_dict())
    other_optim = JointOptim(torch.optim.Adam, {"lr": 0.01, "fused": True}, network=other.network)
    other_optim.set_state(optim.get_state())
    pyro.set_rng_seed(5)
    svi.step(x, y)
    pyro.set_rng_seed(5)
    with pyro.get_param_store().scope():
        SVI(other, other_guide, other_optim, MeanFieldELBO()).step(x, y)
    for ours, expected in zip(
        [*model.parameters(), *guide.parameters()],
        [*other.parameters(), *other_guide.parameters()],
        strict=True,
    ):
        torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-7)


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("stop", [1, 4, 7])
def test_resumed_run_is_bit_for_bit_the_uninterrupted_one(tmp_path: Path, stop: int) -> None:
    def run(path: Path, callback: object = None) -> tuple[SupervisedModel, AutoTruncatedLogNormal, History]:
        pyro.set_rng_seed(0)
        model, guide = program(kl_weight=("mean", 0.3))
        callbacks = [callback] if callback else []
        history = quickly(
            model,
            guide,
            callbacks=callbacks,
            checkpoint=Checkpoint(path),
            validation=batches(seed=1),
            min_keep=2,
        )
        return model, guide, history

    def interrupt(record: Epoch) -> None:
        if record.epoch == stop:
            raise Interrupted

    straight = run(tmp_path / "a.safetensors")
    with pytest.raises(Interrupted):
        run(tmp_path / "b.safetensors", interrupt)
    torch.rand(7)  # whatever else happened in between
    resumed = run(tmp_path / "b.safetensors")
    for module, other in zip(straight[:2], resumed[:2], strict=True):
        for (name, value), (other_name, other_value) in zip(
            module.state_dict().items(), other.state_dict().items(), strict=True
        ):
            assert name == other_name
            assert torch.equal(value, other_value)
    assert straight[2].keep == resumed[2].keep
    assert straight[2].best_epoch == resumed[2].best_epoch
    assert [e.elbo for e in straight[2]] == [e.elbo for e in resumed[2]]
    assert all(torch.equal(v, resumed[2].scores[k]) for k, v in straight[2].scores.items())


def test_damaged_checkpoint_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    model, guide = program()
    quickly(model, guide, epochs=1, fine_tune_epochs=0, checkpoint=Checkpoint(str(path)))  # type: ignore[arg-type]
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CheckpointError, match=r"state\.safetensors") as caught:
        Checkpoint(path).load()
    assert "\n" not in str(caught.value)


def test_best_weights_come_from_an_epoch_with_the_final_structures() -> None:
    _, _, history = trained()
    best, final = history.best(), history.epochs[-1].structures
    rivals = [e for e in history if e.structures == final]
    assert best is not None
    assert best.structures == final
    assert best.score == max(e.score for e in rivals)


@pytest.mark.parametrize(
    ("likelihood", "target"),
    [
        (
            lambda out: dist.Normal(out, 0.3).to_event(1),
            lambda x: torch.stack([x[:, 0], x[:, 1], x[:, 0] * 0], 1),
        ),
        (lambda out: dist.Bernoulli(logits=out).to_event(1), lambda x: (x[:, :3] > 0).float()),
        (lambda out: dist.StudentT(4.0, out[:, 0], 0.3), lambda x: x[:, 0]),
    ],
    ids=["regression", "bernoulli", "student-t"],
)
def test_any_likelihood(likelihood: object, target: object) -> None:
    network = NoisyNetwork(mlp(), torch.zeros(1, FEATURES))
    model = SupervisedModel(network, likelihood, NUM_DATA)  # type: ignore[arg-type]
    guide = AutoTruncatedLogNormal(model)
    x, _ = blobs()
    data = [(part, target(part)) for part in x.split(32)]
    optim = JointOptim(torch.optim.Adam, {"lr": 0.01}, network=network)
    history = fit(
        model,
        guide,
        data,
        epochs=5,
        fine_tune_epochs=0,
        validation=data,
        optim=optim,
        progress=False,
        criterion=None,
    )
    assert history[-1].log_likelihood > history[0].log_likelihood + 0.1
    if history[-1].accuracy is not None:
        assert history[-1].accuracy > 0.95


def test_data_loader_with_short_last_batch_and_a_second_model() -> None:
    x, y = blobs()
    loader = DataLoader(TensorDataset(x, y), batch_size=100, shuffle=True)
    for _ in range(2):
        model, guide = program()
        before = model.network.net[0].weight.clone()
        fit(model, guide, loader, epochs=1, fine_tune_epochs=1, progress=False, criterion=None)
        assert not torch.equal(before, model.network.net[0].weight)
    assert len(pyro.get_param_store()) == 0


@pytest.mark.parametrize("where", ["sampler", "batch_sampler"])
def test_samplers_hear_which_epoch_begins(where: str) -> None:
    drawn: list[int] = []

    class Noted(TensorDataset):
        def __getitem__(self, index: int) -> tuple[Tensor, ...]:
            drawn.append(index)
            return super().__getitem__(index)

    data = Noted(*blobs())
    sampler: DistributedSampler[Any] = DistributedSampler(data, num_replicas=2, rank=0)
    if where == "sampler":
        loader = DataLoader(data, batch_size=48, sampler=sampler)
    else:
        loader = DataLoader(data, batch_sampler=BatchSampler(sampler, 48, drop_last=False))
    model, guide = program()
    fit(model, guide, loader, epochs=3, fine_tune_epochs=0, progress=False)
    for number in (1, 2, 3):
        sampler.set_epoch(number)
        order, drawn = drawn[: len(sampler)], drawn[len(sampler) :]
        assert order == list(sampler)
    assert not drawn


def test_frozen_weights_stay_and_the_gains_learn() -> None:
    model, guide = program()
    model.network.net.requires_grad_(False)
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    loc = guide.loc.detach().clone()
    quickly(model, guide, epochs=2, criterion=None)
    assert all(torch.equal(value, model.network.state_dict()[name]) for name, value in before.items())
    assert not torch.equal(loc, guide.loc)


def test_nan_in_the_data_stops_with_epoch_step_and_culprit() -> None:
    model, guide = program()
    for position in (1, 3):
        data = batches()
        data[position - 1][0][0, 0] = math.nan
        with pytest.raises(NonFiniteLoss, match=f"epoch 1, step {position}: .*the data") as caught:
            fit(model, guide, data, epochs=1, fine_tune_epochs=0, progress=False, criterion=None)
        assert "\n" not in str(caught.value)
        assert all(torch.isfinite(p).all() for p in model.parameters())


def test_diverged_weights_are_named() -> None:
    model, guide = program()
    with torch.no_grad():
        model.network.net[2].weight[0, 0] = math.inf
    with pytest.raises(NonFiniteLoss, match=r"parameter '.*weight' holds NaN"):
        quickly(model, guide, epochs=1)


class ByHand(nn.Module):
    """A guide written with ``pyro.param``, as a function or as a module."""

    def __init__(self, model: SupervisedModel) -> None:
        super().__init__()
        self.model = (model,)  # in a tuple, so that its weights are not the guide's

    def forward(self, x: Tensor, y: Tensor | None = None) -> None:
        (model,) = self.model
        draws = model.draw_shape(x)
        with model.latent(draws):
            for family in model.structures:
                loc = pyro.param(f"{family.name}.loc", torch.zeros(family.size))
                scale = pyro.param(
                    f"{family.name}.scale", torch.full((family.size,), 0.01), constraint=constraints.positive
                )
                distribution = TruncatedLogNormal(loc, scale, model.prior.low, model.prior.high)
                pyro.sample(family.name, distribution.expand([*draws, family.size]).to_event(1))


@pytest.mark.parametrize("form", ["module", "function"])
def test_hand_written_guides_keep_what_they_learnt_in_the_best_epoch(form: str, tmp_path: Path) -> None:
    model, _ = program(kl_weight=("mean", 0.3))
    by_hand = ByHand(model)
    guide = by_hand if form == "module" else by_hand.forward
    seen: list[dict[str, Tensor]] = []
    x, y = blobs()
    worse = [[(x, y)], [(x, torch.randint(3, y.shape))], [(x, torch.randint(3, y.shape))], [(x, y.flip(0))]]
    history = fit(
        model,
        guide,
        worse[0] * 4,
        epochs=6,
        fine_tune_epochs=0,
        validation=_Varying(worse),
        progress=False,
        callbacks=[lambda _: seen.append({n: q.loc.clone() for n, q in posteriors(guide, x).items()})],
        criterion=None,
    )
    assert history.best_epoch < 6
    for name, q in posteriors(guide, x).items():
        assert torch.equal(q.loc, seen[history.best_epoch - 1][name])
        assert not torch.equal(q.loc, torch.zeros_like(q.loc))
    with pytest.raises(RuntimeError, match=r"or with a hand-written guide; make one with .* compact\(\)"):
        _ = history.network
    with pytest.raises(ValueError, match="which a checkpoint does not include"):
        fit(model, guide, [(x, y)], epochs=1, checkpoint=Checkpoint(tmp_path / "state"), criterion=None)


class _Varying:
    """Validation data that get worse, so that an early epoch is the best."""

    def __init__(self, by_epoch: list[list[tuple[Tensor, Tensor]]]) -> None:
        self.left = list(by_epoch)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(self.left.pop(0) if len(self.left) > 1 else self.left[0])


def test_a_score_that_is_no_number_is_not_the_best() -> None:
    x, y = blobs()
    target = nn.functional.one_hot(y).float()
    model = SupervisedModel(
        NoisyNetwork(mlp(), torch.zeros(1, FEATURES)), lambda out: dist.Normal(out, 1.0).to_event(1), NUM_DATA
    )
    with pyro.validation_enabled(False):
        history = fit(
            model,
            AutoTruncatedLogNormal(model),
            [(x, target)],
            epochs=3,
            fine_tune_epochs=0,
            validation=_Varying([[(x * math.nan, target)], [(x, target)]]),
            progress=False,
            criterion=None,
        )
    assert math.isnan(history[0].score)
    assert history.best_epoch > 1


@pytest.mark.parametrize("criterion", [SignalToNoise(), WeightNorm(0.1)])
def test_other_criteria_prune_continuously(criterion: object) -> None:
    model, guide = program(kl_weight=("mean", 0.3))
    history = quickly(model, guide, criterion=criterion, epochs=10)
    assert history.keep.removed > 0


@pytest.mark.parametrize("epochs", [1, 3, 8])
def test_a_share_is_of_the_network_at_the_start_however_often_it_is_asked(
    epochs: int, tmp_path: Path
) -> None:
    def run(until: int) -> History:
        model, guide = program()
        return quickly(
            model, guide, criterion=WeightNorm(0.5), epochs=until, checkpoint=Checkpoint(tmp_path / "state")
        )

    assert run(epochs).keep.removed == 12  # of 24
    assert run(epochs + 2).keep.removed == 12  # resumed


def _labels(change: Callable[[Tensor], Tensor], at: int) -> list[tuple[Tensor, Tensor]]:
    data = batches()
    x, y = data[at]
    data[at] = (x, change(y))
    return data


def _with_first(value: float, dtype: torch.dtype = torch.int64) -> Callable[[Tensor], Tensor]:
    return lambda y: torch.cat([torch.tensor([value], dtype=dtype), y[1:].to(dtype)])


@pytest.mark.parametrize("likelihood", [categorical, SmoothedLikelihood(), SmoothedLikelihood(0.1)])
@pytest.mark.parametrize(
    ("change", "message", "at"),
    [
        (_with_first(-1), "has 3 outputs, for labels from 0 to 2, but those of a batch go from -1 to 2", 0),
        (_with_first(-1), "has 3 outputs, for labels from 0 to 2, but those of a batch go from -1 to 2", 3),
        (_with_first(3), "has 3 outputs, for labels from 0 to 2, but those of a batch go from 0 to 3", 0),
        (_with_first(3), "has 3 outputs, for labels from 0 to 2, but those of a batch go from 0 to 3", 3),
        (_with_first(0.5, torch.float32), "1 of the 32 labels of a batch are not classes, such as 0.5", 0),
    ],
)
def test_labels_that_are_no_classes_are_refused_in_one_line(
    change: Callable[[Tensor], Tensor], message: str, at: int, likelihood: Callable[[Tensor], Any]
) -> None:
    model, guide = program()
    model.likelihood = likelihood
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=message) as caught:
        fit(model, guide, _labels(change, at), epochs=1, fine_tune_epochs=0, progress=False)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200
    assert str(caught.value).startswith("epoch 1, step 4: ") == (at == 3)
    if at == 0:
        assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.float32])
def test_labels_may_be_whole_numbers_of_any_type(dtype: torch.dtype) -> None:
    data = [(x, y.to(dtype)) for x, y in batches()]
    for likelihood in (categorical, SmoothedLikelihood()):
        model, guide = program()
        model.likelihood = likelihood
        fit(model, guide, data, epochs=1, fine_tune_epochs=0, progress=False)


def test_fewer_outputs_than_classes_are_refused_before_training() -> None:
    images, labels = blobs()
    data = Batches(Dataset(images, labels, 10), 32)
    model, guide = program()
    with pytest.raises(ValueError, match="the network has 3 outputs for 10 classes: give its last layer 10"):
        fit(model, guide, data, progress=False)


@pytest.mark.parametrize("far", [True, False])
def test_values_far_from_the_first_predictions_give_a_warning(far: bool) -> None:
    net = nn.Sequential(nn.Linear(FEATURES, 8), nn.Tanh(), nn.Linear(8, 1))
    x = torch.randn(NUM_DATA, FEATURES, generator=torch.Generator().manual_seed(0))
    y = x[:, 0] + (1000.0 if far else 3.0)
    model = SupervisedModel(NoisyNetwork(net, x[:1]), "normal", NUM_DATA)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        warn_of_units(model, x, y)
    if not far:
        assert not found
        return
    assert "standardise them, or give bmrs_pyro.inference.ScaledLikelihood" in str(found[0].message)
    units = ScaledLikelihood("normal", centre=[float(y.mean())], unit=[float(y.std())])
    model.likelihood = units
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_units(model, x, y)


def test_values_outside_the_support_are_named_unless_the_likelihood_takes_them() -> None:
    x, y = blobs()
    data = [(x, y.float() - 0.5)]

    def poisson(validate: bool | None) -> Callable[[Tensor], dist.TorchDistribution]:
        return lambda z: dist.Poisson(z[:, 0].exp(), validate_args=validate)

    for validate in (None, False):
        model = SupervisedModel(NoisyNetwork(mlp(), torch.zeros(1, FEATURES)), poisson(validate), NUM_DATA)
        guide = AutoTruncatedLogNormal(model)
        if validate is False:
            fit(model, guide, data, epochs=1, fine_tune_epochs=0, progress=False)
            continue
        with pytest.raises(
            ValueError, match="480 of the 480 labels of a batch are outside the likelihood's support, a Poiss"
        ):
            fit(model, guide, data, progress=False)
    model.likelihood = lambda z: dist.LogNormal(z[:, :1], 1.0).to_event(1)
    with pytest.raises(ValueError, match=r"are outside .* support, a LogNormal, such as -0\.5"):
        fit(model, guide, [(x, y.float() - 0.5)], progress=False)
    y = torch.full((NUM_DATA,), 1.0)
    y[7] = math.nan
    model.likelihood = lambda z: dist.Normal(z[:, 0], 1.0)
    with pytest.raises(
        ValueError, match=r"1 of the 480 labels of a batch are outside .* a Normal, such as nan"
    ):
        fit(model, guide, [(x, y)], progress=False)


def test_wrong_use_is_refused_by_name() -> None:
    model, guide = program()
    with pytest.raises(TypeError, match="SupervisedModel"):
        fit(lambda x, y: None, guide, batches(), criterion=None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"the criterion bmrs_n cannot be called .* such as bmrs_n\(\)"):
        fit(model, guide, [], criterion=bmrs_n)  # before the data are read
    with pytest.raises(TypeError, match="cannot shrink"):
        fit(model, lambda x, y=None: None, batches(), criterion=bmrs_n())
    with (
        pyro.settings.context(module_local_params=True),
        pytest.raises(ValueError, match="module_local_params"),
    ):
        fit(model, guide, batches(), criterion=None)
    with pytest.raises(ValueError, match="at least one"):
        fit(model, guide, batches(), epochs=0, fine_tune_epochs=0, criterion=None)
    with pytest.raises(ValueError, match="no batches"):
        fit(model, guide, [], epochs=1, progress=False, criterion=None)
    with pytest.raises(ValueError, match="batch 1 has no examples"):
        fit(
            model,
            guide,
            [(torch.zeros(0, FEATURES), torch.zeros(0))],
            epochs=1,
            progress=False,
            criterion=None,
        )
    with pytest.raises(ValueError, match=r"max_params=20 would have no effect.*there is no criterion"):
        fit(model, guide, batches(), max_params=20, criterion=None)
    with pytest.raises(ValueError, match=r"would have no effect.*prune_every=5 of 3 epochs"):
        fit(model, guide, batches(), criterion=bmrs_n(), epochs=3, prune_every=5, round_to=4)
    with pytest.raises(TypeError, match="wrap it first"):
        SupervisedModel(mlp(), lambda out: dist.Categorical(logits=out), 10)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"num_data is \[1, 2\]; it is the number of training examples"):
        SupervisedModel(program()[0].network, "categorical", [1, 2])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="draws"):
        program(draws="pixel")
    with pytest.raises(TypeError, match="SupervisedModel"):
        AutoTruncatedLogNormal(lambda x: x)  # type: ignore[arg-type]


@pytest.mark.parametrize("option", sorted(OF_MODEL_AND_LOADER))
def test_options_that_belong_to_model_or_loader_are_refused(option: str) -> None:
    with pytest.raises(ValueError, match=f"^{option} has no effect on fit.., .* to SupervisedModel"):
        fit(*program(), batches(), criterion=None, **{option: getattr(Recipe(), option)})


def test_likelihood_of_wrong_shape_is_explained() -> None:
    network = NoisyNetwork(mlp(), torch.zeros(1, FEATURES))
    model = SupervisedModel(network, lambda out: dist.Normal(out, 1.0), NUM_DATA)
    x, _ = blobs()
    with pytest.raises(ValueError, match=r"batch shape \(480, 3\), expected \(batch,\)"):
        model(x)


def test_guide_state_loads_before_the_first_call_and_quantiles_are_ordered() -> None:
    model, guide = program()
    quickly(model, guide, epochs=2, criterion=None)
    fresh = AutoTruncatedLogNormal(model)
    fresh.load_state_dict(guide.state_dict())
    for name, q in posteriors(fresh).items():
        torch.testing.assert_close(q.mean, posteriors(guide)[name].mean)
        low, middle, high = fresh.quantiles([0.1, 0.5, 0.9])[name]
        assert (low <= middle).all()
        assert (middle <= high).all()
        assert torch.equal(fresh.median()[name], middle)


def test_pruning_by_hand_from_the_posteriors() -> None:
    model, guide = program(kl_weight=("mean", 0.3))
    quickly(model, guide, epochs=15, criterion=None)
    found = posteriors(guide)
    keep = select(found, model.prior, bmrs_n())
    assert isinstance(keep, KeepMask)
    assert 0 < keep.removed < keep.total
    small = compact(model.network, keep, {name: q.mean for name, q in found.items()})
    x, y = blobs(3)
    assert (small(x).argmax(-1) == y).float().mean() > 0.95
    assert small[0].out_features == int(keep["theta.0"].sum())


@pytest.mark.parametrize("container", [tuple, list])  # torch's loader makes lists
def test_multiple_inputs(container: Callable[..., Any]) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right, self.out = nn.Linear(3, 8), nn.Linear(2, 8), nn.Linear(8, 3)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            out: Tensor = self.out(torch.tanh(self.left(a) + self.right(b)))
            return out

    network = NoisyNetwork(Two(), torch.zeros(1, 3), torch.zeros(1, 2))
    model = SupervisedModel(network, lambda out: dist.Categorical(logits=out), NUM_DATA)
    guide = AutoTruncatedLogNormal(model)
    data = [(container([x[:, :3], x[:, 3:]]), y) for x, y in batches()]
    history = fit(
        model, guide, data, epochs=10, fine_tune_epochs=0, validation=data, progress=False, criterion=None
    )
    assert history[-1].accuracy > history[0].accuracy


def test_a_loss_of_before_a_removal_does_no_harm() -> None:
    model, guide = program()
    x, y = batches()[0]
    optim = JointOptim(torch.optim.Adam, {"lr": 0.01}, network=model.network)
    svi = SVI(model, guide, optim, MeanFieldELBO())
    svi.step(x, y)
    old, older = (MeanFieldELBO().differentiable_loss(model, guide, x, y) for _ in range(2))
    keep = {s.name: torch.arange(s.size) % 2 == 0 for s in model.structures}
    remove_structures_(model, guide, keep, optim)
    with pytest.raises(RuntimeError, match="this loss was computed before structures were removed"):
        older.backward()
    optim.optimizer.zero_grad()
    losses = [svi.step(x, y) for _ in range(3)]
    assert all(math.isfinite(loss) for loss in losses)
    assert old.isfinite()
    with pytest.raises(
        RuntimeError, match=r"before structures were removed|modified by an inplace operation"
    ):
        old.backward()


@pytest.mark.parametrize("broken", [False, True])
def test_the_callers_generators_are_as_before(broken: bool) -> None:
    def states() -> tuple[object, ...]:
        torchs, pythons, numpys = get_rng_state().values()
        return torchs.tolist(), pythons, numpys[1].tolist(), numpys[2:]

    model, guide = program()
    data = batches()
    if broken:
        data[1][0][0, 0] = math.nan
    before = states()
    with pytest.raises(NonFiniteLoss) if broken else nullcontext():
        fit(model, guide, data, epochs=1, fine_tune_epochs=0, progress=False)
    assert states() == before
    if not broken:
        fit(model, guide, data, epochs=1, fine_tune_epochs=0, progress=False, seed=None)
        assert states() != before


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"epochs": "3"}, "epochs is '3'; give a whole number"),
        ({"min_keep": 1.5}, "min_keep is 1.5; give a whole number"),
        ({"checkpoint": "state"}, r"checkpoint is a str; give Checkpoint\(path\)"),
        ({"recipe": 3}, "expected a Recipe, got a int"),
        ({"hardware": "cpu"}, "expected a Hardware, got a str"),
        ({"channels_last": "no"}, "channels_last is 'no'; give True or False"),
        ({"gains_only": "yes"}, "gains_only is 'yes'; give True or False"),
    ],
)
def test_options_of_another_type_are_refused_in_one_line(options: dict[str, Any], match: str) -> None:
    with pytest.raises(TypeError, match=match):
        fit(*program(), batches(), progress=False, **options)


@pytest.mark.parametrize("name", ["epochs", "lr", "label_smoothing", "batch_size"])
def test_a_number_of_the_recipe_cannot_be_none(name: str) -> None:
    with pytest.raises(TypeError, match=f"{name} is None; give a (whole )?number"):
        Recipe(**{name: None})  # type: ignore[arg-type]
