"""Latency by a clock that the networks themselves advance."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bmrs_pyro.metrics.timing import latency


class Clock:
    """A clock, and networks that take the seconds they are told and keep a log of who ran."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []

    def net(self, name: str, *seconds: float) -> Callable[[Tensor], Tensor]:
        turns = itertools.cycle(seconds)

        def run(x: Tensor) -> Tensor:
            assert not torch.is_grad_enabled()
            self.log.append(name)
            self.now += next(turns)
            return x

        return run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    return clock


def test_medians_forget_outliers(clock: Clock) -> None:
    nets = {"fast": clock.net("fast", 1, 1, 1, 100), "slow": clock.net("slow", 3, 3, 50)}
    assert latency(nets, torch.zeros(1), repeats=3) == {"fast": 1.0, "slow": 3.0}


def test_networks_take_turns_after_a_warm_up(clock: Clock) -> None:
    warm_up = [9.0] * 10
    nets = {"a": clock.net("a", *warm_up, *[1.0] * 10), "b": clock.net("b", 2.0)}
    assert latency(nets, torch.zeros(1), repeats=1) == {"a": 1.0, "b": 2.0}
    assert [(name, len(list(run))) for name, run in itertools.groupby(clock.log)] == [
        ("a", 10),
        ("b", 10),
    ] * 2


def test_a_module_is_measured_in_evaluation_mode_and_restored() -> None:
    modes = set()

    class Probe(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            modes.add(self.training)
            return x

    probe = Probe()
    assert latency({"probe": probe}, torch.zeros(1), repeats=1)["probe"] > 0
    assert modes == {False}
    assert probe.training


def test_refuses_no_rounds() -> None:
    with pytest.raises(ValueError, match="repeats is 0; it must be at least 1"):
        latency({}, torch.zeros(1), repeats=0)


def test_refuses_a_network_without_a_name() -> None:
    with pytest.raises(TypeError, match="nets is a Linear; give networks by name"):
        latency(nn.Linear(1, 1), torch.zeros(1))  # type: ignore[arg-type]
