"""Data at the edge of what is data: a line that says so, or a run that works."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from bmrs_pyro.data import Batches, DataError, Dataset, load
from bmrs_pyro.inference import AutoTruncatedLogNormal, NonFiniteLoss, SupervisedModel, posteriors
from bmrs_pyro.metrics import evaluate, predict
from bmrs_pyro.network import NoisyNetwork
from bmrs_pyro.pruning import prune
from bmrs_pyro.reduction import bmrs_n
from bmrs_pyro.training import History, fit


def trained(x: Tensor, y: Tensor, num_classes: int, batch_size: int = 8) -> tuple[History, NoisyNetwork]:
    net = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 6), nn.Tanh(), nn.Linear(6, num_classes))
    network = NoisyNetwork(net, x[:1])
    model = SupervisedModel(network, lambda z: dist.Categorical(logits=z), len(x))
    guide = AutoTruncatedLogNormal(model)
    batches = [(x[rows], y[rows]) for rows in torch.arange(len(x)).split(batch_size)]
    history = fit(
        *(model, guide, batches),
        epochs=2,
        fine_tune_epochs=1,
        criterion=bmrs_n(),
        validation=batches,
        progress=False,
    )
    result = evaluate(lambda x: network(x, {}), batches, num_classes)
    assert math.isfinite(result.nll)
    assert 0 <= result.ece <= 1
    # by its name: a single output may as well be a value
    predicted = predict(network, posteriors(guide), x, draws=2, likelihood="categorical")
    assert predicted.mean.isfinite().all()
    return history, network


@pytest.mark.parametrize(
    ("count", "num_classes", "batch_size", "value"),
    [
        (20, 1, 8, None),  # one class
        (1, 3, 8, None),  # one sample
        (9, 3, 1, None),  # batches of one
        (16, 3, 8, 0.5),  # constant images
    ],
    ids=["one class", "one sample", "batch of 1", "constant images"],
)
def test_training_survives(count: int, num_classes: int, batch_size: int, value: float | None) -> None:
    x = torch.randn(count, 1, 4, 4) if value is None else torch.full((count, 1, 4, 4), value)
    history, _ = trained(x, torch.arange(count) % num_classes, num_classes, batch_size)
    assert all(math.isfinite(epoch.elbo) and math.isfinite(epoch.kl) for epoch in history)


@pytest.mark.filterwarnings("ignore:Encountered NaN")  # Pyro says so too
def test_nan_in_a_loader_of_the_user_is_named() -> None:
    x = torch.randn(16, 1, 4, 4)
    x[11, 0, 2, 2] = torch.nan
    with pytest.raises(NonFiniteLoss, match="epoch 1, step 2: the data hold NaN"):
        trained(x, torch.zeros(16, dtype=torch.int64), 2)
    values = torch.zeros(16)
    values[3] = torch.nan
    loader = [(torch.randn(8, 4), part) for part in values.split(8)]
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 1))
    with pytest.raises(ValueError, match="a Normal, such as nan; leave these examples out, or fill the gaps"):
        prune(
            net,
            loader,
            validation=[(torch.randn(16, 4), torch.arange(16.0))],
            likelihood="normal",
            progress=False,
        )
    # where the distribution takes any value, the loss is NaN
    model = SupervisedModel(
        NoisyNetwork(net, torch.zeros(1, 4)), lambda z: dist.Normal(z[:, 0], 1.0, validate_args=False), 16
    )
    with pytest.raises(
        NonFiniteLoss, match="epoch 1, step 1: the labels hold NaN or inf; leave these examples"
    ):
        fit(model, AutoTruncatedLogNormal(model), loader, progress=False)


def saved(folder: Path, x: np.ndarray, y: np.ndarray) -> Path:
    path = folder / "odd.npz"
    np.savez(path, x_train=x, y_train=y, x_test=x, y_test=y)
    return path


def test_nan_in_a_file_is_refused_with_its_place(tmp_path: Path) -> None:
    x = np.random.default_rng(0).random((20, 4, 4), dtype=np.float32)
    x[7, 1, 1] = np.nan
    with pytest.raises(DataError, match="NaN"):
        load(saved(tmp_path, x, np.arange(20) % 2))


@pytest.mark.parametrize("value", [0, 255], ids=["black", "white"])
def test_constant_images_in_a_file_are_normalised_to_zero(tmp_path: Path, value: int) -> None:
    train = load(saved(tmp_path, np.full((20, 4, 4), value, dtype=np.uint8), np.arange(20) % 2)).train
    assert all(x.abs().max() == 0 for x, _ in Batches(train, 4))


def test_tiny_files_load_or_are_refused(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 256, (20, 4, 4), dtype=np.uint8)
    assert [len(part) for part in load(saved(tmp_path, x, np.zeros(20, dtype=int)))] == [16, 4, 20]
    assert [len(part) for part in load(saved(tmp_path, x[:2], np.zeros(2, dtype=int)))] == [1, 1, 2]
    for count in (1, 2):
        with pytest.raises(
            DataError, match="no class has two examples, so none can be held out; give more data"
        ):
            load(saved(tmp_path, x[:count], np.arange(count)))


def test_one_example_is_a_dataset_with_one_batch() -> None:
    one = Dataset(torch.zeros(1, 1, 4, 4), torch.zeros(1, dtype=torch.int64), 1)
    ((x, y),) = Batches(one, 64)
    assert (x.shape, y.tolist()) == ((1, 1, 4, 4), [0])
