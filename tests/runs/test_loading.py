"""A small network back from its run or its file, by its source or into a network of the caller's."""

from __future__ import annotations

import builtins
from pathlib import Path

import pytest
import torch
from torch import nn

from bmrs_pyro.runs import RunDirectory, RunError, load, save_portable


def own_network() -> nn.Sequential:
    """What the finished run's source makes, by hand."""
    hidden = [nn.Linear(64, 12), nn.Tanh(), nn.Linear(12, 8), nn.Tanh()]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(8, 10))


@pytest.mark.parametrize("kind", ["directory", "file"])
def test_with_a_network_of_the_caller_no_code_is_imported(
    kind: str, finished_run: RunDirectory, tmp_path: Path
) -> None:
    path = finished_run.path
    if kind == "file":
        path = tmp_path / "small.safetensors"
        save_portable(finished_run, path)
    expected, x = load(path, trust_source=True).state_dict(), torch.randn(3, 1, 8, 8)
    executions = getattr(builtins, "bmrs_executions", 0)
    mine = own_network()
    before, out = {name: value.clone() for name, value in mine.state_dict().items()}, mine(x)
    for _ in range(2):  # the network is as it was, so it serves again
        small = load(path, mine)
        assert small.state_dict().keys() == expected.keys()
        assert all(torch.equal(value, expected[name]) for name, value in small.state_dict().items())
        assert not small.training
    assert getattr(builtins, "bmrs_executions", 0) == executions
    assert all(torch.equal(value, before[name]) for name, value in mine.state_dict().items())
    assert torch.equal(mine(x), out)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in mine.modules())
    assert mine.training


@pytest.mark.parametrize(
    "other",
    [
        nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.Tanh(), nn.Linear(5, 10)),
        nn.Sequential(nn.Flatten(), nn.Linear(49, 5), nn.Tanh(), nn.Linear(5, 10)),
    ],
    ids=["other layers", "other inputs"],
)
def test_another_network_is_refused_in_one_line(finished_run: RunDirectory, other: nn.Module) -> None:
    with pytest.raises(RunError, match=r"compact\.safetensors does not fit") as caught:
        load(finished_run.path, other)
    assert "\n" not in str(caught.value)


def test_a_path_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"absent\.safetensors: no such file or directory"):
        load(tmp_path / "absent.safetensors")
