"""The hand-written program of models/bayesian_mlp.py: trained by stock Pyro, and equal to the packaged one."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from types import ModuleType

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, TraceMeanField_ELBO
from pyro.optim import Adam

from bmrs_pyro.weights import MeanField, SpikeAndSlab, WeightModel
from tests.weights.programs import CLASSES, NUM_DATA, blobs, categorical

FILE = Path(__file__).parents[2] / "models" / "bayesian_mlp.py"


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("bayesian_mlp", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "WIDTH", 12)
    monkeypatch.setattr(module, "DEPTH", 2)
    return module


def test_learns_and_prunes_in_a_bare_svi_loop(source: ModuleType) -> None:
    net = source.network((4,), CLASSES)
    svi = SVI(source.model, source.guide, Adam({"lr": 3e-2}), TraceMeanField_ELBO())
    x, y = blobs()
    masks: dict[str, torch.Tensor] = {}
    for _ in range(3):
        losses = [svi.step(x, y, net=net, num_data=NUM_DATA, masks=masks) for _ in range(120)]
        masks = source.prune(net)
    assert list(masks) == ["weights.1", "weights.3"]
    assert all(0 < mask.mean() < 1 for mask in masks.values())
    after = [svi.step(x, y, net=net, num_data=NUM_DATA, masks=masks) for _ in range(60)]
    assert sum(after[-10:]) < sum(losses[:10]) * 1.05
    labels = source.model(x, net=net, num_data=NUM_DATA, masks=masks)  # a draw from the prior: a smoke test
    assert labels.shape == y.shape


def test_packaged_program_has_the_same_elbo_and_prunes_the_same(source: ModuleType) -> None:
    net = source.network((4,), CLASSES)
    model = WeightModel(net, categorical, NUM_DATA)
    guide = MeanField(model.draw, init_scale=0.3)
    x, y = blobs(count=50)
    source.guide(x, net=net, num_data=NUM_DATA, masks={})  # makes its parameters
    store = pyro.get_param_store()
    locs, scales = guide.split(guide.loc.detach()), guide.split(guide.scale.detach())
    for name in guide.shapes:
        store[f"{name}.loc"] = locs[name]
        store[f"{name}.scale"] = scales[name]
    mask = torch.rand(model.gains["weights.3"].shape).round()
    model.gains["weights.3"].copy_(mask)

    def losses(one: object, other: object, **options: object) -> torch.Tensor:
        return torch.tensor(
            [TraceMeanField_ELBO().loss(one, other, x, y, **options) for _ in range(200)], dtype=torch.float64
        )

    packaged = losses(model, guide.forward)
    written = losses(source.model, source.guide, net=net, num_data=NUM_DATA, masks={"weights.3": mask})
    error = math.hypot(packaged.std().item(), written.std().item()) / math.sqrt(200)
    assert abs(packaged.mean() - written.mean()) < 4 * error

    masks, rule = source.prune(net), SpikeAndSlab(share=1)
    for layer in model.layers[:-1]:
        distribution = dist.Normal(locs[layer.name], scales[layer.name])
        assert torch.equal(masks[layer.name], rule(layer, distribution, torch.ones(layer.shape)))
