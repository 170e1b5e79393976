"""Batches: what they hold, and in which order they come."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from bmrs_pyro.data import Augmentation, Batches, Dataset


def test_other_data_sets_are_refused_by_name() -> None:
    with pytest.raises(TypeError, match=r"dataset is a list; .* give a torch.utils.data.DataLoader"):
        Batches([1, 2], 2)  # type: ignore[arg-type]


def toy(*shape: int, dtype: torch.dtype = torch.uint8) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, shape, generator=generator).to(dtype)
    channels = shape[1]
    mean, std = tuple(10.0 + c for c in range(channels)), tuple(2.0 + c for c in range(channels))
    return Dataset(images, torch.arange(shape[0]), shape[0], mean=mean, std=std)


def order(batches: Batches) -> list[int]:
    """Read the order off the labels, which number the examples of :func:`toy`."""
    return [int(label) for _, y in batches for label in y]


@pytest.mark.parametrize(
    ("shape", "dtype"), [((7, 3, 2, 4), torch.uint8), ((7, 5), torch.float32), ((1, 1, 2, 2), torch.uint8)]
)
def test_values_are_those_normalised_one_by_one(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    data = toy(*shape, dtype=dtype)
    stored = data.images.clone()
    for x, y in Batches(data, 2):
        assert (x.dtype, y.dtype, x.shape[1:]) == (torch.float32, torch.int64, data.input_shape)
        for image, label in zip(x, y, strict=True):
            for c, channel in enumerate(image):
                oracle = (data.images[label, c].double() - data.mean[c]) / data.std[c]
                torch.testing.assert_close(channel.double(), oracle, rtol=1e-6, atol=1e-6)
    assert torch.equal(data.images, stored)


def test_default_statistics_leave_values_alone() -> None:
    data = Dataset(torch.arange(6.0).view(3, 2), torch.zeros(3, dtype=torch.int64), 1)
    (x, _), *rest = Batches(data, 3, shuffle=False)
    assert torch.equal(x, data.images)
    assert not rest


@pytest.mark.parametrize(
    ("size", "drop_last", "sizes"),
    [(4, False, [4, 4, 2]), (4, True, [4, 4]), (5, True, [5, 5]), (1, False, [1] * 10), (99, False, [10])],
)
def test_sizes(size: int, drop_last: bool, sizes: list[int]) -> None:
    batches = Batches(toy(10, 3), size, drop_last=drop_last)
    assert [len(y) for _, y in batches] == sizes
    assert len(batches) == len(sizes)
    assert batches.num_data == 10


def test_without_shuffling_the_order_is_that_of_the_data() -> None:
    batches = Batches(toy(10, 3), 4, shuffle=False)
    assert order(batches) == order(batches) == list(range(10))


def test_classes_that_come_sorted_are_mixed_unless_told_otherwise() -> None:
    data = Dataset(torch.zeros(200, 2), torch.arange(200) // 20, 10)
    assert min(len(y.unique()) for _, y in Batches(data, 20)) >= 5
    assert all(len(y.unique()) == 1 for _, y in Batches(data, 20, shuffle=False))


def test_each_pass_is_a_new_epoch_with_every_example_once() -> None:
    batches = Batches(toy(50, 3), 8)
    epochs = [order(batches) for _ in range(3)]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_order_depends_on_seed_and_epoch_alone() -> None:
    data = toy(50, 3)
    batches = Batches(data, 8, seed=5)
    epochs = [order(batches) for _ in range(3)]
    next(iter(batches))  # an abandoned pass

    resumed = Batches(data, 16, seed=5)
    resumed.set_epoch(2)
    torch.manual_seed(123)
    assert order(resumed) == epochs[2]
    batches.set_epoch(0)
    assert order(batches) == epochs[0]
    # seed and epoch are not simply added
    neighbour = Batches(data, 8, seed=4)
    neighbour.set_epoch(1)
    assert order(neighbour) != epochs[0]


def test_global_random_state_is_left_alone() -> None:
    before: Tensor = torch.get_rng_state()
    order(Batches(toy(10, 3), 4))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
        ({"batch_size": 4, "seed": -1}, "seed is -1; it must not be negative"),
        ({"batch_size": 11, "drop_last": True}, "10 examples fill no batch of 11"),
    ],
)
def test_refuses_bad_options(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Batches(toy(10, 3), **options)  # type: ignore[arg-type]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_batches_are_the_same() -> None:
    data = toy(10, 3, 4, 4)
    pairs = zip(Batches(data, 4), Batches(data, 4, device="cuda"), strict=True)
    for (x, y), (x_gpu, y_gpu) in pairs:
        assert x_gpu.is_cuda
        torch.testing.assert_close(x_gpu.cpu(), x)
        assert torch.equal(y_gpu.cpu(), y)


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_shares_put_together_are_the_batches(parts: int) -> None:
    data = toy(17, 3, 6, 6)
    options: dict[str, Any] = {"seed": 3, "augmentation": Augmentation(shift=2)}
    whole = list(Batches(data, 8, **options))
    shares = [list(Batches(data, 8, share=(part, parts), **options)) for part in range(parts)]
    assert [len(share) for share in shares] == [len(whole)] * parts
    for (x, y), *pieces in zip(whole, *shares, strict=True):
        assert torch.equal(torch.cat([piece[0] for piece in pieces]), x)
        assert torch.equal(torch.cat([piece[1] for piece in pieces]), y)
        lengths = [len(piece[1]) for piece in pieces]
        assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize("share", [(1, 1), (-1, 2), (0, 0)])
def test_a_share_that_is_none_is_refused(share: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="share is"):
        Batches(toy(10, 3), 4, share=share)
