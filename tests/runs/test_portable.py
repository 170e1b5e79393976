"""Small networks in files of their own, written and read from Python."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import bmrs_pyro as bp
from bmrs_pyro.files import load_tensors, save_tensors
from bmrs_pyro.network import FeatureSelection, NoisyNetwork, compact
from bmrs_pyro.runs import RunError
from tests.inference.programs import batches, blobs, mlp, program
from tests.network.networks import CASES, masks


@pytest.mark.parametrize("name", CASES)
def test_a_small_network_is_what_it_was(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    dense = case.make()
    fresh = copy.deepcopy(dense).train()
    with torch.no_grad():
        for weight in fresh.parameters():
            weight.add_(1) if weight.is_floating_point() else None
    network = NoisyNetwork(dense, *case.draw())
    small = compact(network, masks(network.structures))
    bp.save(small, tmp_path / "small.safetensors")
    again = bp.load(tmp_path / "small.safetensors", fresh)
    inputs = case.draw()
    torch.testing.assert_close(again(*inputs), small(*inputs), rtol=0, atol=0)
    assert not any(module.training for module in again.modules())
    assert str(again) == str(small)
    shapes = [weight.shape for weight in fresh.parameters()]
    assert shapes != [weight.shape for weight in again.parameters()]  # the network given stays whole


def test_a_history_is_saved_and_trains_further(tmp_path: Path) -> None:
    model, guide = program(kl_weight=("mean", 0.3))
    history = bp.fit(
        model, guide, batches(), epochs=2, fine_tune_epochs=0, criterion=bp.WeightNorm(0.5), progress=False
    )
    bp.save(history, tmp_path / "small.safetensors")
    again = bp.load(tmp_path / "small.safetensors", mlp())
    x, y = blobs()
    assert torch.equal(again(x), history.network(x))
    nn.functional.cross_entropy(again.train()(x), y).backward()
    assert all(weight.grad is not None and weight.grad.shape == weight.shape for weight in again.parameters())


def test_inputs_that_are_left_and_tied_weights_come_back(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.select, self.one, self.two = FeatureSelection(5), nn.Linear(5, 8), nn.Linear(8, 8)
            self.three, self.out = nn.Linear(8, 8), nn.Linear(8, 2)
            self.three.weight = self.two.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.one(self.select(x)).relu()
            out: torch.Tensor = self.out(self.three(self.two(h).relu()).relu())
            return out

    network = NoisyNetwork(Tied(), torch.zeros(2, 5))
    small = compact(network, {"theta.select": torch.tensor([True, False, True, True, False])})
    bp.save(small, tmp_path / "small.safetensors")
    again = bp.load(tmp_path / "small.safetensors", Tied())
    x = torch.randn(4, 5)
    assert torch.equal(again(x), small(x))
    assert again.two.weight is again.three.weight


def test_what_does_not_fit_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    network = NoisyNetwork(mlp(), torch.zeros(2, 5))
    bp.save(compact(network, masks(network.structures)), path)
    other = mlp()
    other[0] = nn.Linear(4, 12)
    for net, message in (
        (None, r"give a dense network: load\(path, net\)"),
        (nn.Sequential(nn.Linear(5, 12)), "does not fit the network it was given .*modules differ: '1'"),
        (other, r"0.weight has shape \(., 5\), and cannot be cut from \(12, 4\)"),
        (mlp(2), "cannot be cut from"),
    ):
        with pytest.raises(RunError, match=message) as caught:
            bp.load(path, net)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("sizes", ["[]", "{", "null", '{"": {}}', "[" * 100_000])
def test_damaged_sizes_are_refused(sizes: str, tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    save_tensors(path, mlp().state_dict(), {"sizes": sizes})
    with pytest.raises(RunError, match="does not fit"):
        bp.load(path, mlp())


def test_sizes_are_numbers_alone(tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    bp.save(mlp(), path)
    tensors, meta = load_tensors(path)
    sizes = json.loads(meta["sizes"])
    assert sizes["0"] == {"in_features": 5, "out_features": 12}
    for wrong in ({"forward": 1, **sizes["0"]}, {**sizes["0"], "out_features": "12"}, {"out_features": 12}):
        save_tensors(path, tensors, {"sizes": json.dumps({**sizes, "0": wrong})})
        with pytest.raises(RunError, match="sizes of '0'"):
            bp.load(path, mlp())


def test_layers_of_another_class_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "net.safetensors"
    bp.save(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), file)
    other = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    with pytest.raises(RunError, match=r"layer '1' is a Tanh, in the file it is a ReLU"):
        bp.load(file, other)


def test_the_precision_is_the_files(tmp_path: Path) -> None:
    file, net = tmp_path / "net.safetensors", nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    bp.save(copy.deepcopy(net).double(), file)
    again = bp.load(file, net)
    assert again(torch.ones(1, 4).double()).dtype == torch.float64


def test_attention_whose_heads_have_left_is_loaded_into_multihead_attention(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 4, 24, dropout=0.0, batch_first=True)
    dense, x = nn.Sequential(layer, nn.Flatten(), nn.Linear(16 * 5, 3)).eval(), torch.randn(2, 5, 16)
    network = bp.NoisyNetwork(copy.deepcopy(dense), x)
    keep = {family.name: torch.arange(family.size) > 0 for family in network.structures}
    small = bp.compact(network, keep)
    bp.save(small, tmp_path / "net.safetensors")
    torch.testing.assert_close(bp.load(tmp_path / "net.safetensors", dense)(x), small(x))


@pytest.mark.parametrize("what", [{"a": 1}, None], ids=["dict", "None"])
def test_what_is_no_network_is_not_saved(what: Any, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="is not a small network"):
        bp.save(what, tmp_path / "net.safetensors")
    network = bp.NoisyNetwork(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), torch.zeros(1, 4))
    with pytest.raises(TypeError, match="a NoisyNetwork is not a small network"):
        bp.save(network, tmp_path / "net.safetensors")


def test_a_layer_with_another_setting_is_warned_of(tmp_path: Path) -> None:
    def net(slope: float, padding: str = "zeros") -> nn.Sequential:
        convolution = nn.Conv2d(1, 2, 3, padding=1, padding_mode=padding)  # type: ignore[arg-type]
        return nn.Sequential(convolution, nn.LeakyReLU(slope), nn.Flatten(), nn.Linear(32, 2))

    bp.save(net(0.2).eval(), tmp_path / "small.safetensors")
    with warnings.catch_warnings(action="error"):
        bp.load(tmp_path / "small.safetensors", net(0.2))
    for other, what in (
        (net(0.1), "'1' has negative_slope=0.1, in the file 0.2"),
        (net(0.2, "circular"), "padding_mode"),
    ):
        with pytest.warns(UserWarning, match=what):
            bp.load(tmp_path / "small.safetensors", other)
