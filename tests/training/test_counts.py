"""The number of examples that a model is told, against that of the loader."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, Subset, TensorDataset

from bmrs_pyro import fit
from bmrs_pyro.data import Batches, Dataset
from bmrs_pyro.training.counts import known_size, warn_of_num_data
from bmrs_pyro.weights import fit_weights
from tests.inference.programs import blobs, program
from tests.weights import programs as weights

DATA = TensorDataset(*blobs())


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    """Examples whose number nobody knows."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter([DATA[0], DATA[1]])


@pytest.mark.parametrize(
    ("loader", "size"),
    [
        (DataLoader(DATA, 32), 480),
        (DataLoader(DATA, 50, drop_last=True), 480),
        (DataLoader(Subset(DATA, range(100)), 32), 100),
        (DataLoader(Stream(), 32), None),
        (Batches(Dataset(torch.zeros(7, 1, 2, 2, dtype=torch.uint8), torch.zeros(7).long(), 2), 4), 7),
        ([blobs(), blobs(1, 20)], 500),
        ([blobs(), blobs(1, 20)] * 3, 500),
        (iter([blobs()]), None),
    ],
)
def test_known_size(loader: object, size: int | None) -> None:
    assert known_size(loader) == size


@pytest.mark.parametrize(
    ("num_data", "loader", "times"),
    [
        (480, DataLoader(DATA, 32), None),
        (450, DataLoader(DATA, 50, drop_last=True), None),
        (480, DataLoader(DATA, 32, sampler=RandomSampler(DATA, num_samples=96)), None),
        (96, DataLoader(DATA, 32, sampler=RandomSampler(DATA, num_samples=96)), None),
        (15, DataLoader(Stream(), 32), None),
        (15, iter([blobs()]), None),
        (15, [blobs()], "32"),
        (500, [blobs(), blobs(1, 20)], None),
        (15, DataLoader(DATA, 32), "32"),
        (4800, DataLoader(DATA, 32), "0.1"),
        (480, DataLoader(Subset(DATA, range(100)), 32), "0.208"),
        (60, DataLoader(DATA, 1), "8"),
    ],
)
def test_a_contradiction_is_told(num_data: int, loader: object, times: str | None) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_num_data(num_data, loader)
    texts = [str(warning.message) for warning in caught]
    assert len(texts) == (times is not None)
    assert all(f"num_data is {num_data}, and" in text and f"counts {times} times" in text for text in texts)


def test_fits_tell_of_the_number_of_batches() -> None:
    model, guide = program()
    loader = DataLoader(DATA, 32)
    model.num_data = len(loader)
    gaussian, mean_field = weights.program()
    few = DataLoader(TensorDataset(*weights.blobs(count=300)), 100)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(model, guide, loader, epochs=1, progress=False)
        fit_weights(gaussian, mean_field, few, epochs=2, progress=False)
    texts = [str(warning.message) for warning in caught if "num_data" in str(warning.message)]
    assert len(texts) == 2
    assert "the prior counts 32 times; give num_data=480" in texts[0]
    assert "num_data is 1200, and the loader's data set has 300 examples" in texts[1]
