"""Training by compiled code, and with images in channels-last order: the same model comes out."""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace
from typing import Any

import pyro
import pytest
import torch
from torch import Tensor, nn

from bmrs_pyro import AutoTruncatedLogNormal, JointOptim, NoisyNetwork, SignalToNoise, SupervisedModel, fit
from bmrs_pyro.distributions.joint_draw import EAGER
from bmrs_pyro.training import Checkpoint, CompileError, compilation
from tests.inference.programs import batches, categorical, program

compiler = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")),
]


def convolutional() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(8 * 16, 3),
    )  # fmt: skip


def images(device: str) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(96, 3, 8, 8, generator=generator), torch.arange(96) % 3
    x[:, 0] += y[:, None, None]
    return [(a.to(device), b.to(device)) for a, b in zip(x.split(32), y.split(32), strict=True)]


def every_fourth(posterior: Any, prior: object) -> Tensor:
    """Scores that remove a quarter of a family, whatever was learnt."""
    return torch.where(torch.arange(len(posterior.loc), device=posterior.loc.device) % 4 == 0, 1.0, -1.0)


def trained(
    net: nn.Module, device: str, **options: object
) -> tuple[SupervisedModel, AutoTruncatedLogNormal, JointOptim]:
    pyro.set_rng_seed(0)
    network = NoisyNetwork(copy.deepcopy(net), torch.zeros(2, 3, 8, 8))
    model = SupervisedModel(network, categorical, 96, kl_weight=("mean", 3.0))
    guide = AutoTruncatedLogNormal(model)
    optim = JointOptim(torch.optim.Adam, {"lr": 1e-2, "fused": True}, network=network)
    fit(
        model, guide, images(device), epochs=2, fine_tune_epochs=1, criterion=every_fourth, optim=optim,
        device=device, progress=False, **options,  # type: ignore[arg-type]
    )  # fmt: skip
    return model, guide, optim


@pytest.mark.parametrize("device", DEVICES)
def test_channels_last_trains_the_same_model(device: str) -> None:
    """Weights and moments keep the order through removals, which a fused optimiser does not check."""
    pyro.set_rng_seed(1)
    net = convolutional()
    usual, guide, _ = trained(net, device)
    last, last_guide, optim = trained(net, device, channels_last=True)
    assert sum(s.size for s in last.structures) < 16
    for name, weight in last.network.named_parameters():
        if weight.dim() == 4:
            assert weight.is_contiguous(memory_format=torch.channels_last), name
        state = optim.optimizer.state[weight]
        assert state["exp_avg"].stride() == weight.stride()
        assert state["exp_avg_sq"].stride() == weight.stride()
    for ours, expected in zip(
        [*last.parameters(), *last_guide.parameters()],
        [*usual.parameters(), *guide.parameters()],
        strict=True,
    ):
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-4)


def test_channels_last_survives_a_checkpoint(tmp_path: object) -> None:
    pyro.set_rng_seed(1)
    net = convolutional()
    straight, _, _ = trained(net, "cpu", channels_last=True)
    path = tmp_path / "state.safetensors"
    stopped = RuntimeError("stopped")

    def stop(record: object) -> None:
        if record.epoch == 2:
            raise stopped

    with pytest.raises(RuntimeError, match="stopped"):
        trained(net, "cpu", channels_last=True, checkpoint=Checkpoint(path), callbacks=[stop])
    resumed, _, _ = trained(net, "cpu", channels_last=True, checkpoint=Checkpoint(path))
    for ours, expected in zip(resumed.parameters(), straight.parameters(), strict=True):
        assert torch.equal(ours, expected)


@compiler
@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.filterwarnings("default")  # a compiler's own
def test_compiled_training_gives_the_same_model(device: str) -> None:
    pyro.set_rng_seed(1)
    net = convolutional()
    eager, guide, _ = trained(net, device)
    compiled, compiled_guide, _ = trained(net, device, compile=True)
    assert compiled.compiled is None
    assert compiled_guide.kernels is EAGER
    for ours, expected in zip(
        [*compiled.parameters(), *compiled_guide.parameters()],
        [*eager.parameters(), *guide.parameters()],
        strict=True,
    ):
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-4)


def test_network_is_compiled_when_no_structure_can_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    model, guide = program()
    compiled_at: list[int] = []
    done: list[int] = []
    monkeypatch.setattr("bmrs_pyro.training.fitting.compile_steps_", lambda guide: None)

    def compile_network(model: SupervisedModel, *, recorded: bool) -> None:
        compiled_at.append(len(done) + 1)
        model.compiled = model.network.forward

    monkeypatch.setattr("bmrs_pyro.training.fitting.compile_network_", compile_network)
    fit(
        model, guide, batches(), epochs=5, fine_tune_epochs=2, prune_every=2, criterion=SignalToNoise(),
        compile=True, progress=False, callbacks=[lambda record: done.append(record.epoch)],
    )  # fmt: skip
    assert compiled_at == [5]  # the last event was after the 4th
    assert model.compiled is None


def test_missing_compiler_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> tuple[Tensor, ...]:
        raise RuntimeError("\nNo working C++ compiler found\nlong story")

    monkeypatch.setattr(compilation, "compiled_kernels", lambda: replace(EAGER, forward=broken))
    model, guide = program()
    with pytest.raises(CompileError, match=r"No working C\+\+ compiler found.*g\+\+") as error:
        fit(model, guide, batches(), epochs=1, compile=True, progress=False, criterion=None)
    assert "\n" not in str(error.value)
    assert guide.kernels is EAGER
