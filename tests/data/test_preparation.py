"""Sizes, channels and statistics of images against plain float arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate
from torchvision.transforms.v2 import functional

from bmrs_pyro.data import DataError, Dataset, preparation
from bmrs_pyro.data.preparation import channel_moments, resized, with_channels


def random_images(*shape: int) -> Dataset:
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Dataset(images, torch.zeros(len(images), dtype=torch.int64), 1, "toy")


@pytest.mark.parametrize("shape", [(5, 3, 8, 8), (3, 1, 20, 31), (2, 3, 17, 40)])
@pytest.mark.parametrize("size", [5, 8, 13, 32])
def test_sizes_and_greys_are_those_of_torchvision(shape: tuple[int, ...], size: int) -> None:
    data = random_images(*shape)
    expected = functional.center_crop(functional.resize(data.images, [size]), [size, size])
    assert torch.equal(resized(data, size), expected)
    if shape[1] == 3:
        assert torch.equal(with_channels(data, 1), functional.rgb_to_grayscale(data.images))


@pytest.mark.parametrize(("before", "after"), [(8, 32), (28, 32), (32, 14)])
def test_resize_is_bilinear_to_one_grey_level(before: int, after: int) -> None:
    data = random_images(5, 3, before, before)
    expected = interpolate(data.images.float(), (after, after), mode="bilinear", antialias=True)
    result = resized(data, after)
    assert result.dtype == torch.uint8
    assert (result.float() - expected).abs().max() <= 1.0


def test_resize_keeps_the_proportions_and_the_middle() -> None:
    data = random_images(2, 1, 10, 30)
    assert torch.equal(resized(data, 10), data.images[..., 10:20])


def test_resize_in_chunks_is_resize_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    data = random_images(7, 1, 8, 8)
    at_once = resized(data, 12)
    monkeypatch.setattr(preparation, "_CHUNK", 3)
    assert torch.equal(resized(data, 12), at_once)


def test_channels_are_repeated_or_weighed() -> None:
    grey, colour = random_images(4, 1, 5, 5), random_images(4, 3, 5, 5)
    assert torch.equal(with_channels(grey, 3), grey.images.repeat(1, 3, 1, 1))
    assert with_channels(colour, 3) is colour.images
    # torchvision's weights add up to 0.9999, and it cuts the fraction off
    luma = torch.einsum("nchw,c->nhw", colour.images.double(), torch.tensor([0.2989, 0.587, 0.114]).double())
    below = luma - with_channels(colour, 1)[:, 0]
    assert below.min() >= -1e-3
    assert below.max() <= 1.0


@pytest.mark.parametrize("shape", [(11, 3, 4, 5), (11, 6)])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_moments_are_numpys_in_float64(
    shape: tuple[int, ...], offset: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "_CHUNK", 4)
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0)) + offset
    axes = (0, 2, 3)[: len(shape) - 1]
    mean, std = channel_moments(images)
    array = images.double().numpy()
    np.testing.assert_allclose(mean, array.mean(axes), rtol=1e-12)
    np.testing.assert_allclose(std, array.std(axes), rtol=1e-10)


def test_a_constant_channel_keeps_a_usable_deviation() -> None:
    assert channel_moments(torch.full((3, 1, 2, 2), 7, dtype=torch.uint8)) == ((7.0,), (1.0,))


def test_refusals_name_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    features = Dataset(torch.zeros(2, 5), torch.tensor([0, 1]), 2, "table")
    with pytest.raises(
        DataError, match="table: size 8 is asked for, but these are feature vectors of length 5"
    ):
        resized(features, 8)
    with pytest.raises(DataError, match="table: channels 3 is asked for"):
        with_channels(features, 3)
    with pytest.raises(DataError, match="images have 2 channels, not 3; only 1 and 3 convert"):
        with_channels(random_images(2, 2, 4, 4), 3)
    with pytest.raises(DataError, match="size is 0; it must be a positive number"):
        resized(random_images(2, 1, 4, 4), 0)
    monkeypatch.setattr(preparation, "MAX_BYTES", 2 * 100 - 1)
    with pytest.raises(DataError, match=r"2 images of shape \(1, 10, 10\) take .* GiB, more than"):
        resized(random_images(2, 1, 4, 4), 10)
