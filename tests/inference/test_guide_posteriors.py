"""Posteriors read from guides of many forms, and guides that are copied."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.nn import PyroModule, PyroParam
from torch import Tensor
from torch.distributions import constraints

from bmrs_pyro import AutoTruncatedLogNormal, SupervisedModel, TruncatedLogNormal, posteriors
from bmrs_pyro.metrics import averaged, evaluate, predict
from bmrs_pyro.reporting import to_inference_data
from tests.inference.programs import blobs, mlp, program

LOC, SCALE = torch.tensor([-1.0, -2.0, -3.0]), torch.tensor([0.1, 0.2, 0.3])
X = torch.zeros(5, 2)


def in_plate_of_structures(x: Tensor) -> None:
    with pyro.plate("structures", 3):
        pyro.sample("theta.a", TruncatedLogNormal(LOC, SCALE))


def in_plate_of_equal_structures(x: Tensor) -> None:
    with pyro.plate("structures", 3):
        pyro.sample("theta.a", TruncatedLogNormal(torch.full((3,), -1.0), 0.1))


def in_two_plates(x: Tensor) -> None:
    with pyro.plate("draws", len(x), dim=-2), pyro.plate("structures", 3, dim=-1):
        pyro.sample("theta.a", TruncatedLogNormal(LOC, SCALE))


def as_event(x: Tensor) -> None:
    with pyro.plate("draws", len(x)):
        pyro.sample("theta.a", TruncatedLogNormal(LOC, SCALE).to_event(1))


def masked(x: Tensor) -> None:
    pyro.sample("theta.a", TruncatedLogNormal(LOC, SCALE).mask(True).to_event(1))


def with_a_scalar_for_every_example(x: Tensor) -> None:
    as_event(x)
    with pyro.plate("more", len(x)):
        pyro.sample("shared", TruncatedLogNormal(-1.0, 0.1))


@pytest.mark.parametrize(
    "guide", [in_plate_of_structures, in_two_plates, as_event, masked, with_a_scalar_for_every_example]
)
def test_structures_may_be_an_event_or_a_plate(guide: Callable[[Tensor], None]) -> None:
    found = posteriors(guide, X)
    assert list(found) == ["theta.a"]
    assert torch.equal(found["theta.a"].loc, LOC)
    assert torch.equal(found["theta.a"].scale, SCALE)


def test_equal_posteriors_of_structures_are_not_taken_for_draws() -> None:
    assert posteriors(in_plate_of_equal_structures, X)["theta.a"].batch_shape == (3,)


def test_posteriors_that_differ_between_examples_are_refused() -> None:
    def amortised(x: Tensor) -> None:
        with pyro.plate("draws", len(x)):
            pyro.sample(
                "theta.a", TruncatedLogNormal(LOC + torch.arange(5.0).unsqueeze(1), SCALE).to_event(1)
            )

    with pytest.raises(ValueError, match="differ between examples"):
        posteriors(amortised, X)


def test_the_packaged_guide_may_be_part_of_another() -> None:
    _, guide = program(mlp(4))
    expected = posteriors(guide)

    def whole(x: Tensor) -> None:
        pyro.sample("rate", dist.Beta(2.0, 3.0))
        guide(x)

    x, _ = blobs(count=20)
    for part in (whole, poutine.scale(guide, scale=0.1)):
        found = posteriors(part, x)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name].loc, q.loc) for name, q in expected.items())
        assert not any(q.loc.requires_grad for q in found.values())


def fitted(x: Tensor) -> None:
    loc = pyro.param("a.loc", torch.zeros(3))
    scale = pyro.param("a.scale", torch.ones(3), constraint=constraints.positive)
    pyro.sample("theta.a", TruncatedLogNormal(loc, scale).to_event(1))


class Module(PyroModule):
    loc: Any

    def __init__(self) -> None:
        super().__init__()
        self.loc = PyroParam(LOC)

    def forward(self, x: Tensor) -> None:
        pyro.sample("theta.a", TruncatedLogNormal(self.loc, SCALE).to_event(1))


def test_a_guide_without_its_stored_parameters_warns() -> None:
    pyro.clear_param_store()
    with pytest.warns(UserWarning, match=r"the guide has initial values, .* does not hold a.loc, a.scale"):
        posteriors(fitted, X)
    pyro.get_param_store()["a.loc"] = LOC
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(posteriors(fitted, X)["theta.a"].loc, LOC)
        pyro.clear_param_store()
        assert torch.equal(posteriors(Module(), X)["theta.a"].loc, LOC)  # a module holds its values


def test_a_likelihood_without_its_stored_parameters_warns() -> None:
    def likelihood(outputs: Tensor) -> dist.TorchDistribution:
        return dist.Normal(
            outputs[:, 0], pyro.param("noise", torch.tensor(1.0), constraint=constraints.positive)
        )

    (x, y), (old, _) = blobs(count=20), program(mlp(4))
    y = y.float()
    guide = AutoTruncatedLogNormal(SupervisedModel(old.network, likelihood, 20))
    gains = guide.posteriors()
    for ask in (
        lambda: predict(old.network, gains, x, draws=2, likelihood=likelihood),
        lambda: evaluate(
            averaged(old.network, gains, 2, likelihood=likelihood), [(x, y)], likelihood=likelihood
        ),
        lambda: evaluate(old.network, [(x, y)], likelihood=likelihood),
        lambda: to_inference_data(guide, draws=2, data=(x, y)),
    ):
        pyro.clear_param_store()
        with pytest.warns(UserWarning, match=r"the likelihood has initial values, .* does not hold noise"):
            ask()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            ask()


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda guide: pickle.loads(pickle.dumps(guide))])  # noqa: S301
def test_a_copy_leaves_the_guide_as_it_is(copied: Callable[[Any], Any], stored: bool) -> None:
    pyro.clear_param_store()
    model, guide = program(mlp(4))
    x, y = blobs(count=20)
    if stored:
        guide(x, y)
    twin = copied(guide)
    assert guide.model is model
    guide(x, y)
    with torch.no_grad():
        guide.loc.sub_(1.0)
    assert torch.equal(twin.loc, guide.loc + 1.0)
    pyro.clear_param_store()
    if copied is copy.deepcopy:
        assert twin.model is not model
        assert twin(x, y).keys() == guide.posteriors().keys()
        assert torch.equal(twin.posteriors()["theta.0"].loc, torch.zeros(4))
    else:
        with pytest.raises(
            RuntimeError, match="a pickle does not hold its model: make AutoTruncatedLogNormal"
        ):
            twin.posteriors()


def test_labels_that_are_no_tensors_are_refused_in_one_line() -> None:
    model, _ = program(mlp(4))
    x, y = blobs(count=20)
    with pytest.raises(TypeError, match=r"^y is a ndarray; give labels or values as a tensor"):
        model(x, y.numpy())


def test_what_is_no_guide_is_refused() -> None:
    with pytest.raises(TypeError, match="guide is a int; give a guide"):
        posteriors(5)  # type: ignore[arg-type]


def test_an_untrained_guide_is_not_read_in_the_place_of_the_stored_one() -> None:
    """A loaded store holds the trained values, which the guide does not have."""
    model, guide = program()
    x, y = blobs()
    svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), pyro.infer.TraceMeanField_ELBO())
    svi.step(x, y)
    state = pyro.get_param_store().get_state()
    trained = posteriors(guide)
    pyro.clear_param_store()
    _, fresh = program()
    assert posteriors(fresh).keys() == trained.keys()
    pyro.get_param_store().set_state(state)
    with pytest.raises(RuntimeError, match=r"a loaded store\..* set guide.loc and guide.scale"):
        posteriors(fresh)
    store = pyro.get_param_store()
    fresh.loc, fresh.scale = (
        store[f"AutoTruncatedLogNormal.{name}"].detach().clone() for name in ("loc", "scale")
    )
    for name, posterior in posteriors(fresh).items():
        torch.testing.assert_close(posterior.mean, trained[name].mean)
    laplace = AutoTruncatedLogNormal.from_laplace(program()[0], [(x, y)])
    assert posteriors(laplace), "a guide with values of its own may be read beside another"


def test_stored_parameters_of_another_size_are_doubted() -> None:
    def guide(size: int) -> None:
        loc = pyro.param("loc", torch.zeros(size))
        pyro.sample("theta.a", TruncatedLogNormal(loc, torch.ones(()), 1e-3, 1.0).to_event(1))

    guide(5)
    assert posteriors(guide, 5)["theta.a"].batch_shape == (5,)
    with pytest.warns(UserWarning, match=r"holds 'loc' of shape \(5,\), and the guide begins with \(3,\)"):
        posteriors(guide, 3)


@pytest.mark.parametrize("wrong", [0, 1])
def test_models_and_networks_are_no_guides(wrong: int) -> None:
    model, _ = program()
    with pytest.raises(TypeError, match="give a guide, such as AutoTruncatedLogNormal"):
        posteriors((model, model.network)[wrong])
