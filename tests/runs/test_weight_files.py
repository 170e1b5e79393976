"""Trained weights from files: what is read, and one line for everything that is refused."""

from __future__ import annotations

import copy
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from bmrs_pyro.network.explicit_attention import make_explicit_
from bmrs_pyro.runs import WeightsError, load_weights_


def net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def as_safetensors(state: dict[str, Tensor], path: Path) -> None:
    save_file(state, path)


def as_pt(state: dict[str, Tensor], path: Path) -> None:
    torch.save(state, path)


def in_a_checkpoint(state: dict[str, Tensor], path: Path) -> None:
    torch.save({"epoch": 3, "state_dict": state}, path)


def of_data_parallel(state: dict[str, Tensor], path: Path) -> None:
    torch.save({f"module.{name}": value for name, value in state.items()}, path)


@pytest.mark.parametrize(
    ("write", "name"),
    [
        *((as_safetensors, "w.safetensors"), (as_pt, "w.pt"), (in_a_checkpoint, "w.pth")),
        (of_data_parallel, "w.pt"),
    ],
)
def test_weights_are_read(
    write: Callable[[dict[str, Tensor], Path], None], name: str, tmp_path: Path
) -> None:
    trained, fresh = net(), net()
    write(trained.state_dict(), tmp_path / name)
    load_weights_(fresh, tmp_path / name)
    for key, value in trained.state_dict().items():
        assert torch.equal(fresh.state_dict()[key], value)


@pytest.mark.parametrize("options", [{}, {"bias": False}, {"kdim": 6, "vdim": 10}])
def test_weights_of_explicit_attention_are_those_of_torchs(options: dict[str, Any], tmp_path: Path) -> None:
    def attention() -> nn.Module:
        return nn.Sequential(nn.Identity(), nn.MultiheadAttention(8, 2, **options))

    trained, fresh = attention(), attention()
    explicit = copy.deepcopy(trained)
    make_explicit_(explicit)
    assert "1.q_proj.weight" in explicit.state_dict()
    save_file(explicit.state_dict(), tmp_path / "w.safetensors")
    load_weights_(fresh, tmp_path / "w.safetensors")
    for key, value in trained.state_dict().items():
        assert torch.equal(fresh.state_dict()[key], value)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch was_here",)


@pytest.mark.parametrize("nested", [False, True])
def test_a_pickle_that_wants_to_run_code_is_refused(
    nested: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "evil.pt"
    if nested:
        torch.save({**net().state_dict(), "3.bias": Evil()}, file)
    else:
        file.write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(WeightsError, match=r"evil\.pt is refused: .* could run code") as caught:
        load_weights_(net(), file)
    assert not (tmp_path / "was_here").exists()
    assert "\n" not in str(caught.value)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


@pytest.mark.parametrize(
    ("name", "write", "damage", "message"),
    [
        ("w.safetensors", as_safetensors, truncated, "damaged or no safetensors file"),
        ("w.pt", as_pt, truncated, "damaged"),
        ("w.safetensors", as_safetensors, Path.unlink, "cannot be read"),
        ("w.pt", as_pt, Path.unlink, "cannot be read"),
        ("w.bin", as_pt, lambda path: None, "neither .safetensors, nor .pt"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(
    name: str,
    write: Callable[[dict[str, Tensor], Path], None],
    damage: Callable[[Path], object],
    message: str,
    tmp_path: Path,
) -> None:
    write(net().state_dict(), tmp_path / name)
    damage(tmp_path / name)
    with pytest.raises(WeightsError, match=message) as caught:
        load_weights_(net(), tmp_path / name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"0.weight": torch.zeros(5, 1, 3, 3)},
            r"'0.weight' has shape \(5, 1, 3, 3\), in the network \(4, 1, 3, 3\)",
        ),
        (
            {"0.weight": torch.zeros(3, 1, 3, 3)},
            r"number of classes, such as a run's dense.safetensors, if these are of a pruned network",
        ),
        ({"9.weight": torch.zeros(1)}, "has '9.weight', which the network lacks"),
        ({"3.bias": None}, r"has no tensor '3.bias' \(.* its first is '\d[.]\w+'\)"),
        ({"3.bias": torch.tensor([1.0, torch.nan])}, "'3.bias' holds NaN or inf"),
    ],
)
def test_weights_that_do_not_fit_are_named(
    change: dict[str, Tensor | None], message: str, tmp_path: Path
) -> None:
    state = {**net().state_dict(), **change}
    save_file({name: value for name, value in state.items() if value is not None}, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=message):
        load_weights_(net(), tmp_path / "w.safetensors")


def test_a_folder_is_no_file_of_weights(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="is a folder; give a file of weights, such as a run"):
        load_weights_(net(), tmp_path)


def test_a_file_without_a_state_dict_is_named(tmp_path: Path) -> None:
    torch.save([1, 2, 3], tmp_path / "list.pt")
    with pytest.raises(WeightsError, match="holds no state dict"):
        load_weights_(net(), tmp_path / "list.pt")
