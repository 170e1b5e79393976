"""Training: pruning on the way, records, seeds, errors; AdaBelief against its definition."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoDiagonalNormal, AutoGuide, AutoNormal
from torch import Tensor, nn

from bmrs_pyro.distributed import rank, world_size
from bmrs_pyro.inference import NonFiniteLoss
from bmrs_pyro.training import Checkpoint, CheckpointError, JointOptim
from bmrs_pyro.weights import (
    AdaBelief,
    HorseshoeRule,
    Layer,
    MeanField,
    PointEstimate,
    Rule,
    SpikeAndSlab,
    WeightEpoch,
    WeightModel,
    empty_structures,
    fit_weights,
    mean_network,
    predictive,
    reduce_,
    regularised_horseshoe,
    weight_posteriors,
)
from tests.distributed.processes import together
from tests.weights.programs import NUM_DATA, batches, blobs, categorical, mlp, program


def accuracy(log_probabilities: Tensor, y: Tensor) -> float:
    return (log_probabilities.argmax(-1) == y).float().mean().item()


@pytest.mark.parametrize("rule", [SpikeAndSlab(), HorseshoeRule()], ids=["spike", "horseshoe"])
def test_prunes_and_still_predicts(rule: Rule) -> None:
    model, guide = program()
    seen: list[WeightEpoch] = []
    optim = JointOptim(AdaBelief, {"lr": 5e-2})
    history = fit_weights(
        model, guide, batches() * 3, epochs=15, rule=rule, optim=optim, callbacks=[seen.append]
    )
    assert seen == history
    assert history[-1].elbo > history[0].elbo
    assert history[-1].active < 0.9
    assert history[-1].active == history[-2].active  # the last epoch is not followed by a reduction
    x, y = blobs(seed=1)
    assert accuracy(predictive(model, guide, 20)(x), y) > 0.9
    # the two features without meaning lose more of their weights than the two with
    active = model.active["weights.0"].float().mean(0)
    assert active[2:4].mean() < active[:2].mean()


def test_warm_up() -> None:
    model, guide = program()
    calls: list[int] = []

    def nothing(layer: Layer, posterior: dist.Normal, gain: Tensor) -> Tensor:
        calls.append(len(history))
        return torch.ones_like(gain)

    history: list[WeightEpoch] = []
    fit_weights(model, guide, batches(), epochs=5, rule=nothing, warm_up=2, callbacks=[history.append])
    assert calls == [2, 2, 3, 3]  # after the third and the fourth epoch, in two of three layers


@pytest.mark.parametrize("kind", ["map", "tiered"])
def test_baselines_learn(kind: str) -> None:
    scales = {"scales": regularised_horseshoe} if kind == "tiered" else {}
    model = WeightModel(mlp(), categorical, NUM_DATA, **scales)  # type: ignore[arg-type]
    guide = PointEstimate(model.draw) if kind == "map" else MeanField(model.draw)
    elbo = Trace_ELBO() if kind == "map" else None
    optim = JointOptim(AdaBelief, {"lr": 3e-2})
    fit_weights(model, guide, batches() * 3, epochs=12, elbo=elbo, optim=optim)
    x, y = blobs(seed=1)
    assert accuracy(mean_network(model, guide)(x), y) > 0.9


def test_the_seed_decides() -> None:
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(0)
        model, guide = program()
        fit_weights(model, guide, batches(), epochs=2, seed=seed)
        results.append(guide.loc.detach().clone())
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


class Stopped(Exception):
    """Stands for a power cut."""


def test_a_stopped_fit_goes_on_to_the_same_posterior(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "state.safetensors")

    def stop(record: WeightEpoch) -> None:
        if record.epoch == 5:
            raise Stopped

    def run(store: Checkpoint | None, *callbacks: Callable[[WeightEpoch], object]) -> list[WeightEpoch]:
        torch.manual_seed(0)
        model, guide = program()
        optim = JointOptim(AdaBelief, {"lr": 5e-2})
        history = fit_weights(
            model,
            guide,
            batches(),
            epochs=7,
            warm_up=1,
            rule=SpikeAndSlab(),
            optim=optim,
            validation=batches(seed=1),
            callbacks=callbacks,
            checkpoint=store,
        )
        states.append({**model.state_dict(), **guide.state_dict()})
        return history

    states: list[dict[str, Tensor]] = []
    whole = run(None)
    with pytest.raises(Stopped):
        run(checkpoint, stop)
    again = run(checkpoint)
    assert [record.epoch for record in again] == list(range(1, 8))
    assert [record.elbo for record in again] == [record.elbo for record in whole]
    assert whole[-1].active < 1
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def test_the_best_epoch_by_validation_is_kept() -> None:
    torch.manual_seed(0)
    model, guide = program()
    optim = JointOptim(AdaBelief, {"lr": 5e-2})
    ends: list[Tensor] = []

    def spoil(record: WeightEpoch) -> None:
        ends.append(guide.loc.detach().clone())
        if record.epoch == 3:  # the fourth epoch starts from nonsense, and has no time to recover
            with torch.no_grad():
                guide.loc.fill_(30.0)

    history = fit_weights(
        model, guide, batches(), epochs=4, optim=optim, validation=batches(seed=1), callbacks=[spoil]
    )
    scores = [record.accuracy for record in history]
    best = max(range(4), key=lambda index: (scores[index], index))
    assert best < 3
    assert torch.equal(guide.loc.detach(), ends[best])
    hits = [(mean_network(model, guide)(x).argmax(-1) == y).float().mean().item() for x, y in batches(seed=1)]
    assert scores[best] == pytest.approx(sum(hits) / len(hits))


def in_parts(folder: Path) -> None:
    torch.manual_seed(world_size() * 10 + rank())  # the first process's values count
    model, guide = program()
    optim = JointOptim(AdaBelief, {"lr": 5e-2})
    parts = [(x[rank() :: world_size()], y[rank() :: world_size()]) for x, y in batches() * 3]
    history = fit_weights(
        model,
        guide,
        parts,
        epochs=10,
        rule=SpikeAndSlab(),
        optim=optim,
        validation=batches(seed=1),
        progress=False,
        checkpoint=Checkpoint(folder / "state.safetensors"),
    )
    state = {**model.state_dict(), **guide.state_dict()}
    torch.save(([vars(record) for record in history], state), folder / f"{rank()}.pt")


def test_two_processes_fit_one_posterior(tmp_path: Path) -> None:
    together(in_parts, tmp_path, 2)
    (first, values), (second, others) = (torch.load(tmp_path / f"{number}.pt") for number in range(2))
    assert first[-1]["examples"] == [1800, 1800]
    assert first[-1]["accuracy"] > 0.9
    assert first[-1]["active"] < 0.95
    assert [record["elbo"] for record in first] == [record["elbo"] for record in second]
    for name, value in values.items():
        assert torch.equal(value, others[name]), name
    assert Checkpoint(tmp_path / "state.safetensors", WeightEpoch).load() is not None


def test_errors() -> None:
    model, _ = program()
    point = PointEstimate(model.draw)
    with pytest.raises(TypeError, match="PointEstimate; a rule needs the posterior"):
        fit_weights(model, point, batches(), epochs=1, rule=SpikeAndSlab())
    model, guide = program()
    with pytest.raises(ValueError, match="epochs is 0"):
        fit_weights(model, guide, batches(), epochs=0)
    with pytest.raises(ValueError, match="no batches"):
        fit_weights(model, guide, [], epochs=1)
    x, y = blobs()
    with pytest.raises(NonFiniteLoss), pyro.validation_enabled(False):
        fit_weights(model, guide, [(x * torch.nan, y)], epochs=1)
    for wrong in (SpikeAndSlab, "spike"):
        with pytest.raises(TypeError, match=r"^rule is .*; give an object, such as SpikeAndSlab\(\)$"):
            fit_weights(model, guide, [], epochs=1, rule=wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"model is a MeanField; fit_weights\(\) trains a WeightModel"):
        fit_weights(guide, model, batches(), epochs=1)  # type: ignore[arg-type]


def test_the_only_layer_is_pruned_only_on_request() -> None:
    """Three of ten inputs of a linear regression have an effect, of 30 standard errors and more."""
    torch.manual_seed(0)
    x = torch.randn(200, 10)
    y = x[:, 0] - x[:, 1] + 0.8 * x[:, 2] + 0.3 * torch.randn(200)

    def active(*, prune_last: bool) -> list[bool]:
        net = nn.Sequential(nn.Linear(10, 1, bias=False), nn.Flatten(0))
        model = WeightModel(net, "normal:0.3", len(x), scales=lambda layer: torch.tensor(1.0))
        guide, optim = MeanField(model.draw, init_radius=0.0), JointOptim(AdaBelief, {"lr": 5e-2})
        options = {"epochs": 60, "warm_up": 40, "rule": SpikeAndSlab(), "prune_last": prune_last}
        fit_weights(model, guide, [(x, y)] * 3, optim=optim, progress=False, **options)  # type: ignore[arg-type]
        return model.active["weights.0"][0].tolist()

    assert active(prune_last=True) == [True] * 3 + [False] * 7
    with pytest.warns(UserWarning, match=r"the rule prunes nothing, .* pass prune_last=True"):
        assert all(active(prune_last=False))


def test_adabelief_by_its_definition() -> None:
    parameter = torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    target = torch.tensor([0.3, 0.5], dtype=torch.float64)
    optim = AdaBelief([parameter], lr=0.1, betas=(0.8, 0.95), eps=1e-12)
    w, m, s = parameter.detach().clone(), torch.zeros(2).double(), torch.zeros(2).double()
    for t in range(1, 30):
        optim.zero_grad()
        (parameter - target).square().sum().backward()
        optim.step()
        g = 2 * (w - target)
        m = 0.8 * m + 0.2 * g
        s = 0.95 * s + 0.05 * (g - m) ** 2 + 1e-12
        w = w - 0.1 * (m / (1 - 0.8**t)) / ((s / (1 - 0.95**t)).sqrt() + 1e-12)
        torch.testing.assert_close(parameter.detach(), w, rtol=1e-12, atol=1e-12)
    assert optim.step(lambda: 3.0) == 3.0


class Noise(nn.Module):
    """Normal noise of a scale that is learnt."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(()))

    def forward(self, z: Tensor) -> dist.Normal:
        return dist.Normal(z.squeeze(-1), self.log_scale.exp())


@pytest.mark.parametrize("inside", [False, True])
def test_the_parameters_of_a_likelihood_are_trained(inside: bool) -> None:
    torch.manual_seed(0)
    x = torch.rand(256, 1)
    y = 2 * x[:, 0] - 1 + 0.2 * torch.randn(256)
    noise = Noise()
    net = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))
    model = WeightModel(net, (lambda z: noise(z)) if inside else noise, 256)
    data = list(zip(x.split(64), y.split(64), strict=True))
    fit_weights(model, MeanField(model.draw), data, epochs=40, progress=False)
    assert 0.15 < noise.log_scale.exp().item() < 0.4  # 0.2, and what the weights leave


def test_a_rule_that_cannot_run_or_prunes_a_whole_layer_is_told_of() -> None:
    model, guide = program()
    with pytest.warns(UserWarning, match="no epoch follows the warm-up but the last one"):
        fit_weights(model, guide, batches(), epochs=2, warm_up=1, rule=SpikeAndSlab(), progress=False)

    def everything(layer: Layer, posterior: dist.Normal, gain: Tensor) -> Tensor:
        return torch.zeros_like(gain)

    with pytest.warns(
        UserWarning, match=r"all weights of weights\.0, weights\.2 are pruned.*start from a point"
    ):
        fit_weights(model, guide, batches(), epochs=2, rule=everything, progress=False)

    def all_but_biases(layer: Layer, posterior: dist.Normal, gain: Tensor) -> Tensor:
        return torch.zeros_like(gain).index_fill(1, torch.tensor([gain.shape[1] - 1]), 1.0)

    model, guide = program()
    with pytest.warns(UserWarning, match=r"all weights of weights\.0, weights\.2 are pruned"):
        fit_weights(model, guide, batches(), epochs=2, rule=all_but_biases, progress=False)
    assert not any(module.training for module in mean_network(model, guide).modules())


def test_labels_that_do_not_fit_are_told_of_in_one_line() -> None:
    model, guide = program()
    x, y = batches()[0]
    model.num_data = len(x)
    with pytest.raises(
        ValueError, match=r"outputs, for labels from 0 to 2, but those of a batch go from 0 to 7"
    ):
        fit_weights(
            model, guide, [(x, torch.where(torch.arange(len(y)) == 1, 7, y))], epochs=1, progress=False
        )


def test_a_horseshoe_prunes_single_weights_of_the_last_layer_too() -> None:
    """Three of 20 coefficients are not 0: those of a regression whose only layer is the last one."""
    torch.manual_seed(0)
    pyro.set_rng_seed(0)
    x, true = torch.randn(400, 20), torch.tensor([1.0, -1.0, 0.5, *[0.0] * 17])
    y = x @ true + 0.5 * torch.randn(400)
    net = nn.Sequential(nn.Linear(20, 1, bias=False), nn.Flatten(0))
    model = WeightModel(net, lambda loc: dist.Normal(loc, 0.5), 400)
    guide = MeanField(model.draw, init_radius=0.5)
    data = [*zip(x.split(50), y.split(50), strict=True)]
    options = {"epochs": 80, "warm_up": 40, "prune_last": True, "progress": False}
    fit_weights(model, guide, data, rule=HorseshoeRule(), **options)  # type: ignore[arg-type]
    assert torch.equal(mean_network(model, guide)[0].weight[0] != 0, true != 0)


def test_wrong_arguments_are_refused_in_one_line() -> None:
    model, guide = program()
    other = MeanField(WeightModel(nn.Linear(3, 2), categorical, 9).draw)
    for wrong, kind, message in (
        (lambda: fit_weights(model, MeanField, batches(), epochs=1), TypeError, "give a guide, such as"),  # type: ignore[arg-type]
        (
            lambda: fit_weights(model, other, batches(), epochs=1),
            ValueError,
            "another model's: for weights.0",
        ),
        (lambda: fit_weights(model, guide, batches(), epochs=1.5), TypeError, "epochs"),  # type: ignore[arg-type]
        (lambda: fit_weights(model, guide, batches(), epochs=1, warm_up=-1), ValueError, "warm_up is -1"),
        (lambda: mean_network(model, other), ValueError, "another model's"),
        (lambda: reduce_(model, PointEstimate(model.draw), SpikeAndSlab()), TypeError, "only a MeanField"),  # type: ignore[arg-type]
        (lambda: weight_posteriors(model, other), ValueError, "another model's"),
        (lambda: empty_structures(mlp()), TypeError, "give NoisyNetwork"),  # type: ignore[arg-type]
        (lambda: MeanField(model), TypeError, "such as model.draw"),
        (lambda: MeanField(model.draw, init_scale=0.0), ValueError, "init_scale is 0.0"),
        (lambda: WeightModel(lambda x: x, categorical, 9), TypeError, "give a network"),  # type: ignore[arg-type]
        (lambda: WeightModel(mlp(), categorical, []), TypeError, "num_data"),  # type: ignore[arg-type]
        (lambda: reduce_(model, MeanField(model.draw), SpikeAndSlab), TypeError, "give an object, such as"),  # type: ignore[arg-type]
        (
            lambda: fit_weights(model, MeanField(model.draw), batches(), epochs=1, checkpoint="here"),  # type: ignore[arg-type]
            TypeError,
            "checkpoint is a str; give Checkpoint",
        ),
        (lambda: SpikeAndSlab(rounds=0), ValueError, "rounds is 0"),
        (lambda: SpikeAndSlab(rounds=1.5), TypeError, "rounds is 1.5; give a whole number"),  # type: ignore[arg-type]
        (lambda: SpikeAndSlab(share=None), TypeError, "share is None; give a number"),  # type: ignore[arg-type]
        (lambda: HorseshoeRule(cut=2), ValueError, r"cut is 2; it must lie in \[0, 1\)"),
        (lambda: HorseshoeRule(steps=0), ValueError, "steps is 0"),
        (lambda: HorseshoeRule(steps=2.5), TypeError, "steps is 2.5"),  # type: ignore[arg-type]
        (lambda: HorseshoeRule(scales=None), TypeError, "scales is None"),  # type: ignore[arg-type]
        (lambda: MeanField(lambda: None), ValueError, "the prior samples nothing"),
        (lambda: predictive(guide, model), TypeError, "model is a MeanField; give a WeightModel"),  # type: ignore[arg-type]
        (lambda: HorseshoeRule(rate=0.0), ValueError, r"rate is 0.0; it must lie in \(0, 1\]"),
        (lambda: guide.set_("weights.9", dist.Normal(0.0, 1.0), torch.tensor(True)), KeyError, "no site"),
    ):
        with pytest.raises(kind, match=message) as caught:
            wrong()
        assert "\n" not in str(caught.value)


def test_a_lower_elbo_after_pruning_is_told_of() -> None:
    model, guide = program()
    optim = JointOptim(AdaBelief, {"lr": 3e-2})

    def half(layer: Layer, posterior: dist.Normal, gain: Tensor) -> Tensor:
        """Prune all but the weights that matter least."""
        return (posterior.loc.abs() < posterior.loc.abs().quantile(0.3)).to(gain)

    options = {"epochs": 14, "warm_up": 12, "optim": optim, "progress": False}
    with pytest.warns(UserWarning, match=r"the ELBO fell from -.* nats before the first reduction to -.*try"):
        fit_weights(model, guide, batches() * 3, rule=half, **options)  # type: ignore[arg-type]


def test_a_state_of_another_run_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    options = {"progress": False, "checkpoint": Checkpoint(path)}
    model, guide = program()
    fit_weights(model, guide, batches(), epochs=2, **options)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="has 2 epochs, and 1 are asked for"):
        fit_weights(*program(), batches(), epochs=1, **options)  # type: ignore[arg-type]
    wide = WeightModel(nn.Sequential(nn.Linear(4, 30), nn.Linear(30, 3)), categorical, NUM_DATA)
    for one, q in ((model, PointEstimate(model.draw)), (wide, MeanField(wide.draw))):
        with pytest.raises(CheckpointError, match=r"state\.safetensors is of another run .*another path"):
            fit_weights(one, q, batches(), epochs=3, elbo=Trace_ELBO(), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"rule": SpikeAndSlab("row")}, "rule"),
        ({"warm_up": 1}, "warm_up"),
        ({"prune_last": True}, "prune_last"),
        ({"seed": 3}, "seed"),
        ({"optim": JointOptim(torch.optim.Adam, {"lr": 1e-2})}, "optimiser"),
    ],
)
def test_a_run_continues_with_its_own_settings_alone(
    changed: dict[str, object], named: str, tmp_path: Path
) -> None:
    options = {
        "progress": False,
        "checkpoint": Checkpoint(tmp_path / "state"),
        "rule": HorseshoeRule(steps=5),
    }
    fit_weights(*program(), batches(), epochs=2, **options)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match=rf"is of another run \(other {named}\)"):
        fit_weights(*program(), batches(), epochs=3, **{**options, **changed})  # type: ignore[arg-type]
    other = WeightModel(
        nn.Sequential(nn.Linear(4, 20), nn.Sigmoid(), nn.Linear(20, 3)), categorical, NUM_DATA
    )
    with pytest.raises(CheckpointError, match=r"is of another run \(other layers\)"):
        fit_weights(other, MeanField(other.draw), batches(), epochs=3, **options)  # type: ignore[arg-type]
    assert len(fit_weights(*program(), batches(), epochs=3, **options)) == 3  # type: ignore[arg-type]


def test_what_cannot_train_weights_is_refused_in_one_line() -> None:
    model, guide = program()
    with pytest.raises(TypeError, match="optim is a PyroOptim; give a JointOptim"):
        fit_weights(model, guide, batches(), epochs=1, optim=pyro.optim.Adam({"lr": 1e-2}))
    with torch.no_grad(), pytest.raises(ValueError, match="gradients are switched off"):
        fit_weights(model, guide, batches(), epochs=1)
    several = Trace_ELBO(num_particles=3, vectorize_particles=True)
    with pytest.raises(NotImplementedError, match="weights have one dimension more"):
        fit_weights(model, guide, batches(), epochs=1, elbo=several, progress=False)


@pytest.mark.parametrize("kind", [AutoNormal, AutoDiagonalNormal])
def test_pyros_guides_are_validated(kind: type[AutoGuide]) -> None:
    torch.manual_seed(0)
    model, mean_field = program()
    guide = kind(model)
    records = fit_weights(
        model, guide, batches(), epochs=12, elbo=Trace_ELBO(), validation=batches(1), progress=False
    )
    assert max(record.accuracy or 0.0 for record in records) > 0.8
    x, y = blobs(1)
    assert (mean_network(model, guide)(x).argmax(-1) == y).float().mean() > 0.8
    other, _ = program(mlp(5))
    with pytest.raises(ValueError, match=r"the guide is another model's: its sites are weights\.0_precision"):
        mean_network(other, guide)
    with pytest.raises(TypeError, match=f"guide is a {kind.__name__}; only a MeanField has posteriors"):
        reduce_(model, guide, SpikeAndSlab())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="guide is a Linear, which has no medians"):
        mean_network(model, nn.Linear(1, 1))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"elbo is .*; give an object, such as Trace_ELBO\(\)"):
        fit_weights(model, mean_field, batches(), epochs=1, elbo=Trace_ELBO, progress=False)  # type: ignore[arg-type]
