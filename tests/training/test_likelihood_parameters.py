"""Likelihoods with parameters of their own, and observations that do not fit them."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from bmrs_pyro import AutoTruncatedLogNormal, Checkpoint, JointOptim, NoisyNetwork, SupervisedModel, fit
from bmrs_pyro.inference import MeanFieldELBO
from bmrs_pyro.training import Epoch, History

Likelihood = Callable[[Tensor], dist.TorchDistribution]
COUNT, SIGMA = 256, 0.2


class Noise(nn.Module):
    """Normal noise of a scale that is learnt."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(()))

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        return dist.Normal(z.squeeze(-1), self.log_scale.exp())


def noise(z: Tensor) -> dist.TorchDistribution:
    scale = pyro.param("sigma", torch.ones(()), constraint=constraints.positive)
    return dist.Normal(z.squeeze(-1), scale)


def scale_of(model: SupervisedModel) -> float:
    with torch.no_grad():
        return model.likelihood(torch.zeros(1, 1)).scale.item()


def line() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(COUNT, 1, generator=generator)
    y = 2 * x[:, 0] - 1 + SIGMA * torch.randn(COUNT, generator=generator)
    return list(zip(x.split(64), y.split(64), strict=True))


def program(
    likelihood: Callable[[Tensor], dist.TorchDistribution],
) -> tuple[SupervisedModel, AutoTruncatedLogNormal]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))
    model = SupervisedModel(NoisyNetwork(net, torch.zeros(1, 1)), likelihood, COUNT)
    return model, AutoTruncatedLogNormal(model)


def trained(
    model: SupervisedModel, guide: AutoTruncatedLogNormal, epochs: int = 8, **options: object
) -> History:
    optim = JointOptim(torch.optim.Adam, {"lr": 0.02}, network=model.network, posterior_lr_factor=1.0)
    settings = {"fine_tune_epochs": 0, "progress": False, "schedule": "constant", **options}
    return fit(model, guide, line(), epochs=epochs, optim=optim, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [Noise, lambda: noise])
def test_the_noise_of_a_regression_is_learnt_and_handed_back(make: Callable[[], Likelihood]) -> None:
    model, guide = program(make())
    trained(model, guide, epochs=60)
    # the root mean square error that is left is what maximises the likelihood
    x, y = (torch.cat(part) for part in zip(*line(), strict=True))
    with torch.no_grad():
        left = (model.network(x, guide.median()).squeeze(-1) - y).square().mean().sqrt().item()
    assert scale_of(model) == pytest.approx(left, rel=0.15)
    assert left < 0.4
    if not isinstance(model.likelihood, nn.Module):
        assert pyro.get_param_store()["sigma"].item() == scale_of(model)
    learnt = scale_of(model)
    trained(model, guide, epochs=1)  # a second fit goes on from there
    assert scale_of(model) == pytest.approx(learnt, rel=0.2)


@pytest.mark.parametrize("make", [Noise, lambda: noise])
def test_the_noise_is_the_best_epochs(make: Callable[[], Likelihood]) -> None:
    model, guide = program(make())
    seen: list[float] = []
    far = [(x, y + 3) for x, y in line()]  # gets worse as the noise shrinks
    history = trained(
        model, guide, epochs=20, validation=far, callbacks=[lambda _: seen.append(scale_of(model))]
    )
    assert history.best_epoch < 20
    assert scale_of(model) == pytest.approx(seen[history.best_epoch - 1], rel=1e-6)
    assert len({round(scale, 6) for scale in seen}) == 20


@pytest.mark.parametrize("make", [Noise, lambda: noise])
@pytest.mark.parametrize("stop", [2, 4])
def test_a_resumed_run_has_the_noise_of_the_uninterrupted_one(
    make: Callable[[], Likelihood], stop: int, tmp_path: Path
) -> None:
    class Stopped(Exception):
        pass

    def stopping(record: Epoch) -> None:
        if record.epoch == stop + 1:
            raise Stopped

    whole, guide = program(make())
    trained(whole, guide, epochs=4)
    learnt = scale_of(whole)
    first, guide = program(make())
    checkpoint = Checkpoint(tmp_path / "state.safetensors")
    if stop < 4:
        with pytest.raises(Stopped):
            trained(first, guide, epochs=4, checkpoint=checkpoint, callbacks=[stopping])
    else:
        trained(first, guide, epochs=4, checkpoint=checkpoint)
    pyro.clear_param_store()
    pyro.param("sigma", torch.tensor(9.0), constraint=constraints.positive)  # another model's
    second, guide = program(make())
    trained(second, guide, epochs=4, checkpoint=checkpoint)
    assert scale_of(second) == learnt != 1.0


def test_a_hand_written_loop_trains_the_module_of_the_likelihood_too() -> None:
    model, guide = program(Noise())
    optim = JointOptim(torch.optim.Adam, {"lr": 0.02}, network=model.network)
    svi = pyro.infer.SVI(model, guide, optim, MeanFieldELBO())
    for x, y in line():
        svi.step(x, y)
    # at ten times the weights' rate: four steps of 0.2
    assert scale_of(model) == pytest.approx(math.exp(-0.8), abs=0.05)
    pyro.get_param_store()["likelihood$$$log_scale"] = torch.zeros(())
    with pytest.raises(RuntimeError, match=r"another tensor as 'likelihood\$\$\$log_scale'"):
        svi.step(x, y)


def test_labels_may_lack_or_have_dimensions_of_one() -> None:
    wide: Likelihood = lambda z: dist.Normal(z, 1.0).to_event(1)  # noqa: E731
    flat: Likelihood = lambda z: dist.Normal(z.squeeze(-1), 1.0)  # noqa: E731
    x, y = line()[0]
    losses = []
    for likelihood in (wide, flat):
        for labels in (y, y[:, None]):
            model, guide = program(likelihood)
            pyro.set_rng_seed(0)
            losses.append(MeanFieldELBO().loss(model, guide, x, labels))
            pyro.clear_param_store()
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-6)


def test_labels_of_another_shape_than_the_likelihoods_values_are_refused() -> None:
    model, guide = program(lambda z: dist.Normal(z, 1.0).to_event(1))
    x, y = line()[0]
    expected = r"y has shape \(64, 2\), but the likelihood's values have shape \(64, 1\): reshape"
    for checked in (True, False):
        with pyro.validation_enabled(checked), pytest.raises(ValueError, match=expected):
            MeanFieldELBO().loss(model, guide, x, torch.stack([y, y], 1))
    two = [(x, torch.stack([y, y], 1)) for x, y in line()]
    with pytest.raises(ValueError, match=expected):
        fit(model, guide, line(), epochs=1, fine_tune_epochs=0, progress=False, validation=two)


def attempt(likelihood: Callable[..., Any], y: Tensor | None = None) -> None:
    model, guide = program(likelihood)
    data = line() if y is None else [(x, y) for x, _ in line()]
    fit(model, guide, data, epochs=1, progress=False)


class Holder:
    """An object that is no module, but has one."""

    def __init__(self) -> None:
        self.noise = Noise()

    def __call__(self, z: Tensor) -> dist.TorchDistribution:
        return self.of(z)

    def of(self, z: Tensor) -> dist.TorchDistribution:
        law: dist.TorchDistribution = self.noise(z)
        return law


def in_closure() -> Likelihood:
    held = Noise()
    return lambda z: held(z)


def in_inner_closure() -> Likelihood:
    inner = in_closure()
    return lambda z: inner(z)


def of_parameter() -> Likelihood:
    def likelihood(z: Tensor, held: Tensor = nn.Parameter(torch.zeros(()))) -> dist.TorchDistribution:  # noqa: B008
        return dist.Normal(z.squeeze(-1), held.exp())

    return likelihood


def with_noise(z: Tensor, noise: Likelihood) -> dist.TorchDistribution:
    return noise(z)


@pytest.mark.parametrize(
    "make",
    [
        in_closure,
        in_inner_closure,
        of_parameter,
        lambda: Noise().forward,
        Holder,
        lambda: Holder().of,
        lambda: partial(Noise()),
        lambda: partial(with_noise, noise=Noise()),
        lambda: partial(with_noise, noise=Noise().forward),
        lambda: partial(lambda z, like: like(z), like=Noise()),
    ],
)
def test_the_modules_that_a_function_refers_to_are_trained(make: Callable[[], Likelihood]) -> None:
    reference, guide = program(Noise())
    trained(reference, guide, epochs=4)
    given = make()
    model, guide = program(given)
    copied = copy.deepcopy(model)
    trained(model, guide, epochs=4)
    with torch.no_grad():  # as if the module had been given, and in the caller's objects
        assert given(torch.zeros(1, 1)).scale.item() == scale_of(model) == scale_of(reference) < 1.0
    assert scale_of(copied) == 1.0
    trained(copied, AutoTruncatedLogNormal(copied), epochs=4)
    assert scale_of(copied) == pytest.approx(scale_of(model), rel=1e-6)


def test_a_function_that_refers_to_the_network_adds_no_parameters() -> None:
    net = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))

    def likelihood(z: Tensor) -> dist.TorchDistribution:
        return dist.Normal(z.squeeze(-1), net[0].bias.exp().mean())

    model = SupervisedModel(NoisyNetwork(net, torch.zeros(1, 1)), likelihood, COUNT)
    assert model.likelihood is likelihood


LOG_SCALE = nn.Parameter(torch.zeros(()))


def test_parameters_that_nothing_trains_are_told_of() -> None:
    held, tensor = Noise(), torch.zeros((), requires_grad=True)
    for likelihood in (
        lambda z: dist.Normal(z.squeeze(-1), LOG_SCALE.exp()),
        lambda z: dist.Normal(z.squeeze(-1), tensor.exp()),
    ):
        with pytest.warns(
            UserWarning, match=r"parameters that are not trained \(1, the first of shape \(\)\)"
        ):
            attempt(likelihood)
    held.requires_grad_(False)
    for likelihood in (Noise(), noise, held.forward):
        pyro.clear_param_store()
        with warnings.catch_warnings(record=True) as said:
            attempt(likelihood)
        assert not [str(warning.message) for warning in said if "not trained" in str(warning.message)]


@pytest.mark.parametrize("kind", [torch.long, torch.bool])
def test_binary_labels_may_be_whole_numbers(kind: torch.dtype) -> None:
    attempt(lambda z: dist.Bernoulli(logits=z.squeeze(-1)), (torch.arange(64) % 2).to(kind))


def test_what_is_no_likelihood_is_refused_in_one_line() -> None:
    with pytest.raises(
        TypeError, match=r"^the likelihood returned a Tensor; it must return the distribution of y.*$"
    ):
        attempt(lambda z: z.log_softmax(1))
    with pytest.raises(TypeError, match=r"^likelihood is a CrossEntropyLoss; give a name or a function.*$"):
        attempt(nn.CrossEntropyLoss())
    with pytest.raises(
        TypeError, match=r"^likelihood is torch's cross_entropy; give a name or a function.*$"
    ):
        attempt(nn.functional.cross_entropy)
    with pytest.raises(TypeError, match=r"^likelihood is torch's MSELoss; give a name or a function.*$"):
        attempt(nn.MSELoss)
    for loss in (
        partial(nn.functional.cross_entropy, label_smoothing=0.1),
        lambda z, y: nn.functional.cross_entropy(z, y),
    ):
        with pytest.raises(TypeError, match=r"^likelihood is called with the outputs alone \(missing a"):
            attempt(loss)
    with pytest.raises(TypeError, match=r"^likelihood is a Normal; give a name or a function.*$"):
        attempt(dist.Normal(0.0, 1.0))

    def latent(z: Tensor) -> dist.TorchDistribution:
        return dist.Normal(z.squeeze(-1), pyro.sample("scale", dist.LogNormal(0.0, 1.0)))

    with (
        pytest.warns(UserWarning, match="not guide"),
        pytest.raises(ValueError, match=r"^the model samples 'scale', and the guide does not.*$"),
    ):
        attempt(latent)


def test_another_batch_shape_is_refused_in_one_line() -> None:
    with pytest.raises(
        ValueError, match=r"^the likelihood has batch shape \(64, 1\), expected \(batch,\): .*$"
    ):
        attempt(lambda z: dist.Normal(z, 1.0))
    with pytest.raises(
        ValueError, match=r"batch shape \(\), expected \(batch,\): it needs a distribution for every"
    ):
        attempt(lambda z: dist.Normal(z.mean(), 1.0))


def test_labels_with_a_dimension_too_many_are_refused_in_one_line() -> None:
    for likelihood in (Noise(), lambda z: dist.Categorical(logits=z.expand(-1, 3))):
        with pytest.raises(
            ValueError, match=r"^y has shape \(64, 3\), but the likelihood's values have shape .*$"
        ):
            attempt(likelihood, torch.eye(3).repeat(22, 1)[:64])
