"""Several processes train the model that one process would train with the same batches."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyro.distributions as dist
import pytest
import torch
import torch.distributed
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bmrs_pyro import (
    AutoTruncatedLogNormal,
    Checkpoint,
    JointOptim,
    NoisyNetwork,
    SupervisedModel,
    bmrs_n,
    fit,
)
from bmrs_pyro.data import Augmentation, Batches, load
from bmrs_pyro.distributed import LostProcess, all_gather_int, init_distributed, rank, world_size
from bmrs_pyro.inference.draws import Draws
from bmrs_pyro.training import Epoch, History
from tests.distributed.processes import FORKS, PATIENCE, started, together

SIZE = 24  # of the whole batch


def small_lenet5() -> nn.Module:
    convolutions = [
        nn.Conv2d(1, 6, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 12, 2),
        nn.ReLU(),
        nn.Flatten(),
    ]
    return nn.Sequential(*convolutions, nn.Linear(48, 20), nn.ReLU(), nn.Linear(20, 10))


def normed() -> nn.Module:
    # a bias before a batch norm has the gradient 0, of which Adam makes steps that are rounding alone
    convolutions = [
        nn.Conv2d(1, 6, 3, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
    ]
    dense = [nn.Linear(54, 20, bias=False), nn.BatchNorm1d(20, momentum=None), nn.ReLU()]
    return nn.Sequential(*convolutions, *dense, nn.Linear(20, 10))


class InFloat64:
    """The batches of a loader with inputs in float64."""

    def __init__(self, batches: Batches) -> None:
        self.batches = batches
        self.set_epoch = batches.set_epoch

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return ((x.double(), y) for x, y in self.batches)


def save(folder: Path, model: SupervisedModel, guide: AutoTruncatedLogNormal, history: History) -> None:
    """Write what each process has come to; name and rank say who."""
    values = {**model.network.net.state_dict(), **guide.state_dict()}
    values |= {f"keep {name}": mask for name, mask in history.keep.items()}
    values["elbo"] = torch.tensor([epoch.elbo for epoch in history], dtype=torch.float64)
    if history[-1].log_likelihood is not None:
        values["log-likelihood"] = torch.tensor(
            [epoch.log_likelihood for epoch in history], dtype=torch.float64
        )
    values["examples"] = torch.tensor([epoch.examples for epoch in history])
    save_file(values, folder / f"{rank()} of {world_size()}.safetensors")


def found(folder: Path) -> list[dict[str, Tensor]]:
    return [load_file(folder / f"{name}.safetensors") for name in ("0 of 1", "0 of 2", "1 of 2")]


def twenty_steps(folder: Path, kind: str, draws: Draws) -> None:
    """Train for an epoch of 20 steps, the last one on a short batch."""
    torch.manual_seed(rank())  # the processes start from different weights, and the first one's count
    net = normed() if kind == "batch norm" else small_lenet5()
    rest = 3 if kind == "batch norm" else 1
    train = load("digits").train
    count = 19 * SIZE + rest
    train = replace(train, images=train.images[:count], labels=train.labels[:count])
    network = NoisyNetwork(net, torch.zeros(2, 1, 8, 8))
    model = SupervisedModel(
        network, lambda z: dist.Categorical(logits=z), count, draws=draws, kl_weight="mean:0.3"
    )
    guide = AutoTruncatedLogNormal(model)
    share = rank(), world_size()
    batches = Batches(train, SIZE, augmentation=Augmentation(shift=1), share=share)
    assert len(batches) == 20
    save(
        folder,
        model,
        guide,
        fit(model, guide, batches, epochs=1, fine_tune_epochs=0, progress=False, criterion=None),
    )


@pytest.mark.parametrize(
    ("kind", "draws"),
    [("plain", "example"), ("plain", "batch"), ("plain", 6), ("plain", 8), ("batch norm", "example")],
)
def test_twenty_steps_of_two_processes_are_those_of_one(tmp_path: Path, kind: str, draws: str) -> None:
    """The scaling test: the same model, each process half of the work."""
    together(twenty_steps, tmp_path, 1, kind, draws)
    together(twenty_steps, tmp_path, 2, kind, draws)
    one, first, second = found(tmp_path)
    total = int(one["examples"])
    assert first["examples"].tolist() == [[total // 2, total - total // 2]]
    for name, value in one.items():
        assert torch.equal(first[name], second[name]), name
        if name != "examples":
            torch.testing.assert_close(first[name], value, rtol=1e-5, atol=1e-5, msg=name)
    moved = {k: v for k, v in one.items() if k in ("0.weight", "loc_unconstrained", "scale_unconstrained")}
    torch.manual_seed(0)
    fresh = normed() if kind == "batch norm" else small_lenet5()
    assert (fresh.get_parameter("0.weight") - moved["0.weight"]).abs().max() > 1e-3
    assert moved["loc_unconstrained"].abs().max() > 1e-3


class Interrupted(Exception):
    pass


def pruned(folder: Path, stop: int | None) -> None:
    """Train and prune in float64, with validation; stop after an epoch, or go on from the checkpoint."""
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    train, validation, _ = load("digits")
    train = replace(train, images=train.images[:301], labels=train.labels[:301])
    network = NoisyNetwork(small_lenet5(), torch.zeros(2, 1, 8, 8))
    model = SupervisedModel(network, lambda z: dist.Categorical(logits=z), 301, kl_weight="mean:1")
    guide = AutoTruncatedLogNormal(model)
    optim = JointOptim(torch.optim.Adam, {"lr": 5e-3, "fused": True}, network=network, posterior_lr_factor=30)

    def interrupt(record: Epoch) -> None:
        if record.epoch == stop:
            raise Interrupted

    share = rank(), world_size()
    loaders = [InFloat64(Batches(part, SIZE, share=share)) for part in (train, validation)]
    try:
        history = fit(
            *(model, guide, loaders[0]),
            epochs=5,
            fine_tune_epochs=1,
            criterion=bmrs_n(),
            validation=loaders[1],
            optim=optim,
            progress=False,
            callbacks=[interrupt],
            checkpoint=Checkpoint(folder / f"state of {world_size()}.safetensors"),
        )
    except Interrupted:
        return
    save(folder, model, guide, history)


def test_two_processes_prune_validate_and_resume_like_one(tmp_path: Path) -> None:
    together(pruned, tmp_path, 1, None)
    together(pruned, tmp_path, 2, 4)
    assert not (tmp_path / "0 of 2.safetensors").exists()
    (tmp_path / "rendezvous").unlink(missing_ok=True)
    together(pruned, tmp_path, 2, None)
    one, *two = found(tmp_path)
    assert sum((~mask).sum() for name, mask in one.items() if name.startswith("keep ")) > 5
    for values in two:
        for name, value in one.items():
            if name != "examples":
                torch.testing.assert_close(values[name], value, rtol=1e-9, atol=1e-9, msg=name)


def out_of_step(folder: Path) -> None:
    torch.manual_seed(0)
    train = load("digits").train
    network = NoisyNetwork(small_lenet5(), torch.zeros(2, 1, 8, 8))
    model = SupervisedModel(network, lambda z: dist.Categorical(logits=z), len(train))
    batches = list(
        Batches(replace(train, images=train.images[:96], labels=train.labels[:96]), SIZE, shuffle=False)
    )
    guide = AutoTruncatedLogNormal(model)
    with pytest.raises(ValueError, match=r"loader of process 1 ended after 3 batches, others went on"):
        fit(model, guide, batches[: 4 - rank()], epochs=1, progress=False, criterion=None)


def test_processes_with_different_numbers_of_batches_are_told(tmp_path: Path) -> None:
    together(out_of_step, tmp_path, 2)


def by_hand(folder: Path) -> None:
    """JointOptim in a loop of one's own: the mean over the processes."""
    weight = nn.Parameter(torch.ones(3))
    frozen = nn.Parameter(torch.ones(2), requires_grad=False)
    net = nn.ParameterDict({"weight": weight, "frozen": frozen, "unused": nn.Parameter(torch.ones(1))})
    optim = JointOptim(torch.optim.SGD, {"lr": 1.0}, network=net)
    weight.grad = torch.tensor([1.0, 0.0, 2.0]) if rank() == 0 else torch.tensor([3.0, 0.0, 0.0])
    optim([])
    assert weight.tolist() == [-1.0, 1.0, 0.0]
    assert net["unused"].tolist() == [1.0]


def test_gradients_are_averaged_in_a_loop_by_hand(tmp_path: Path) -> None:
    together(by_hand, tmp_path, 2)


def until_one_dies(folder: Path) -> None:
    torch.manual_seed(0)
    train = load("digits").train
    network = NoisyNetwork(small_lenet5(), torch.zeros(2, 1, 8, 8))
    model = SupervisedModel(network, lambda z: dist.Categorical(logits=z), len(train))

    def die(record: Epoch) -> None:
        if record.epoch == 2 and rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    batches = Batches(train, SIZE, shuffle=False, share=(rank(), world_size()))
    try:
        fit(model, AutoTruncatedLogNormal(model), batches, progress=False, callbacks=[die], criterion=None)
    except LostProcess as error:
        (folder / "message").write_text(str(error))


def test_a_dead_process_is_noticed(tmp_path: Path) -> None:
    processes = started(until_one_dies, tmp_path, 2)
    processes[1].join(60)
    death = time.monotonic()
    assert processes[1].exitcode == -signal.SIGKILL
    processes[0].join(60)
    assert time.monotonic() - death < 60
    message = (tmp_path / "message").read_text()
    assert "lost contact with another process" in message
    assert "\n" not in message


def hanging(folder: Path, number: int, port: int) -> None:
    """Form a group; the second process hangs."""
    os.environ |= {
        "RANK": str(number),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    os.environ["BMRS_TIMEOUT"] = "5"
    try:
        with init_distributed():
            all_gather_int(0)
            if number == 1:
                os.kill(os.getpid(), signal.SIGSTOP)
            all_gather_int(0)
    except LostProcess as error:
        (folder / "message").write_text(str(error))


def test_a_hanging_process_ends_the_others_within_the_time_that_the_user_sets(tmp_path: Path) -> None:
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True)  # finds a free port
    port = store.port
    del store
    processes = [FORKS.Process(target=hanging, args=(tmp_path, number, port)) for number in range(2)]
    for process in processes:
        process.start()
    try:
        processes[0].join(PATIENCE)
        assert processes[0].exitcode == 0
        message = (tmp_path / "message").read_text()
        assert "was silent for longer than BMRS_TIMEOUT allows" in message
        assert "5000" in message  # milliseconds
        assert "\n" not in message
    finally:
        for process in processes:
            process.kill()


@pytest.mark.parametrize("seconds", ["soon", "0", "-1", "nan", "inf", ""])
def test_a_time_that_is_none_is_refused(seconds: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("BMRS_TIMEOUT", seconds)
    with pytest.raises(ValueError, match=f"^BMRS_TIMEOUT is '{seconds}'; it must be a positive number"):
        init_distributed().__enter__()
