"""The Mixer's Pyro program: stock Pyro trains it, the packaged model has the same ELBO, its neurons can be cut."""

from __future__ import annotations

import math
import runpy
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from pyro.infer import SVI, TraceMeanField_ELBO
from pyro.optim import Adam
from torch import Tensor

from bmrs_pyro.network import NoisyNetwork, compact
from bmrs_pyro.weights import MeanField, WeightModel, empty_structures

FILES = Path(__file__).parent.parent / "models"
SHAPE = (1, 8, 8)


@pytest.fixture(scope="module")
def source() -> dict[str, Any]:
    return runpy.run_path(str(FILES / "mlp_mixer.py"))


def test_learns_and_prunes_in_a_bare_svi_loop(source: dict[str, Any]) -> None:
    x, y = torch.randn(60, *SHAPE), torch.arange(60) % 3
    x[:, :, 0, 0] += 4.0 * y[:, None]
    net = source["network"](SHAPE, 3, width=8, depth=1)
    arguments = {"net": net, "num_data": 60}
    svi = SVI(source["model"], source["guide"], Adam({"lr": 3e-2}), TraceMeanField_ELBO())
    losses = [svi.step(x, y, masks={}, **arguments) for _ in range(150)]
    masks = source["prune"](net)
    assert not any(name.startswith("head") for name in masks)
    share = torch.cat([mask.flatten() for mask in masks.values()]).mean()
    assert 0 < share < 1
    after = [svi.step(x, y, masks=masks, **arguments) for _ in range(20)]
    assert sum(after) / 20 < sum(losses[:20]) / 20
    assert source["model"](x, masks=masks, **arguments).shape == y.shape


def test_packaged_program_has_the_same_elbo(source: dict[str, Any]) -> None:
    x, y = torch.randn(20, *SHAPE), torch.arange(20) % 3
    net = source["network"](SHAPE, 3, width=4, depth=1)
    arguments = {"net": net, "num_data": 20, "masks": {}}
    source["guide"](x, **arguments)  # makes its parameters
    store = pyro.get_param_store()
    packaged = WeightModel(
        net,
        "categorical",
        20,
        select=lambda name: "norm" not in name,
        scales=lambda layer: torch.tensor(1.0 if layer.last else 0.1),
    )
    guide = MeanField(packaged.draw)
    locs, scales = guide.split(guide.loc.detach()), guide.split(guide.scale.detach())
    for layer in packaged.layers:
        scales[layer.name].uniform_(0.05, 0.3)
        parts = {"loc": layer.parameters(locs[layer.name]), "scale": layer.parameters(scales[layer.name])}
        for part, values in parts.items():
            for name, value in values.items():
                store[f"weights.{name}.{part}"] = value.clone()
    guide.scale = torch.cat([scales[name].flatten() for name in guide.shapes])

    def losses(one: object, other: object, **options: object) -> Tensor:
        elbo = TraceMeanField_ELBO()
        return torch.tensor([elbo.loss(one, other, x, y, **options) for _ in range(60)], dtype=torch.float64)

    first = losses(packaged, guide.forward)
    second = losses(source["model"], source["guide"], **arguments)
    error = math.hypot(first.std().item(), second.std().item()) / math.sqrt(60)
    assert abs(first.mean() - second.mean()) < 4 * error


def test_neurons_without_weights_are_cut(source: dict[str, Any]) -> None:
    net = source["network"](SHAPE, 3, width=8, depth=2).eval()
    with torch.no_grad():
        for block in net.blocks:
            for layers, count in ((block.tokens, 3), (block.channels, 10)):
                layers[2].weight[:, :count] = 0
    x = torch.randn(4, *SHAPE)
    network = NoisyNetwork(net, x)
    small = compact(network, empty_structures(network))
    assert [
        layers[0].out_features for block in small.blocks for layers in (block.tokens, block.channels)
    ] == [5, 22] * 2
    torch.testing.assert_close(small(x), net(x))


@pytest.mark.parametrize("file", ["mlp_mixer.py", "vit.py"])
def test_width_and_depth_can_be_chosen(file: str) -> None:
    net = runpy.run_path(str(FILES / file))["network"]((1, 28, 28), 10, 64, 2)
    assert (len(net.blocks), net.head.in_features) == (2, 64)
    assert net(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
