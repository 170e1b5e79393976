"""Damage against its definition, degree by degree."""

from __future__ import annotations

import pytest
import torch
from scipy.ndimage import correlate1d
from torch import Tensor

from bmrs_pyro.metrics import CORRUPTIONS, corrupted


@pytest.fixture
def images() -> Tensor:
    return torch.randn(64, 2, 20, 25, generator=torch.Generator().manual_seed(0))


def damaged(x: Tensor, corruption: str, severity: int, seed: int = 0) -> Tensor:
    ((result, labels),) = corrupted([(x, torch.arange(len(x)))], corruption, severity, seed=seed)
    assert labels.tolist() == list(range(len(x)))
    return result


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_damage_grows_with_the_degree_and_repeats(images: Tensor, corruption: str) -> None:
    before = images.clone()
    distances = [(damaged(images, corruption, degree) - images).norm().item() for degree in range(1, 6)]
    assert distances == sorted(distances)
    assert distances[0] > 0
    assert torch.equal(images, before)
    assert torch.equal(damaged(images, corruption, 3), damaged(images, corruption, 3))


def test_noise_has_the_stated_deviation(images: Tensor) -> None:
    # 64 000 numbers: the estimate's deviation is 0.3 %
    assert (damaged(images, "noise", 4) - images).std().item() == pytest.approx(1.0, rel=0.015)


def test_contrast_keeps_the_mean_and_scales_the_deviation(images: Tensor) -> None:
    result = damaged(images, "contrast", 5)
    torch.testing.assert_close(result.mean((1, 2, 3)), images.mean((1, 2, 3)))
    torch.testing.assert_close(result.std((1, 2, 3)), 0.2 * images.std((1, 2, 3)))


def test_blur_is_scipys_repeated_binomial_filter(images: Tensor) -> None:
    expected = images.numpy()
    for axis in (2, 3, 2, 3):
        expected = correlate1d(expected, [0.25, 0.5, 0.25], axis=axis, mode="nearest")
    torch.testing.assert_close(damaged(images, "blur", 2), torch.from_numpy(expected), rtol=0, atol=1e-5)


def test_occlusion_covers_one_rectangle_of_the_stated_area(images: Tensor) -> None:
    covered = damaged(images + 100, "occlusion", 5)[:, 0] == 0
    assert covered.flatten(1).sum(1).tolist() == [round(0.4**0.5 * 20) * round(0.4**0.5 * 25)] * 64
    rows, columns = covered.any(2), covered.any(1)
    assert torch.equal(covered, rows[:, :, None] & columns[:, None, :])
    assert len({tuple(row) for row in rows.tolist()}) > 1


def test_wrong_use_is_refused() -> None:
    with pytest.raises(ValueError, match="corruption is 'fog'; use one of noise, contrast, blur, occlusion"):
        corrupted([], "fog")
    with pytest.raises(ValueError, match="severity is 6"):
        corrupted([], "noise", 6)
    with pytest.raises(ValueError, match=r"blur is for images .* shape \(2, 3\)"):
        list(corrupted([(torch.zeros(2, 3), torch.zeros(2))], "blur"))
