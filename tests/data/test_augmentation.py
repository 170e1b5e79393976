"""Shifted and mirrored images against slices of a padded image, one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import pad

from bmrs_pyro.data import Augmentation, Batches, Dataset


def test_every_image_is_a_window_of_itself_mirrored_half_of_the_time() -> None:
    x = torch.randn(400, 2, 5, 7)
    shift = 2
    changed = Augmentation(shift)(x, np.random.default_rng(0))
    padded = pad(x, [shift] * 4)
    mirrored, offsets = 0, set()
    for padded_image, result in zip(padded, changed, strict=True):
        windows = {
            (top, left): padded_image[:, top : top + 5, left : left + 7]
            for top in range(2 * shift + 1)
            for left in range(2 * shift + 1)
        }
        found = [(at, False) for at, window in windows.items() if torch.equal(result, window)]
        found += [(at, True) for at, window in windows.items() if torch.equal(result, window.flip(-1))]
        assert len(found) == 1
        offsets.add(found[0][0])
        mirrored += found[0][1]
    assert len(offsets) == 25
    assert abs(mirrored - 200) < 4 * 10  # four standard deviations of a fair coin


def test_nothing_asked_for_changes_nothing() -> None:
    x = torch.randn(3, 1, 4, 4)
    assert torch.equal(Augmentation(shift=0, mirror=False)(x, np.random.default_rng(0)), x)


def test_batches_repeat_their_changes_for_the_same_epoch_only() -> None:
    images = torch.randint(0, 256, (20, 3, 8, 8), dtype=torch.uint8)
    dataset = Dataset(images, torch.arange(20) % 2, 2)
    plain = Batches(dataset, 20, shuffle=False)
    batches = Batches(dataset, 20, shuffle=False, augmentation=Augmentation())
    (first,), (second,) = list(batches), list(batches)
    batches.set_epoch(0)
    ((again, _),) = list(batches)
    ((whole, _),) = list(plain)
    assert torch.equal(first[0], again)
    assert not torch.equal(first[0], second[0])
    assert not torch.equal(first[0], whole)
    assert torch.equal(first[1], second[1])


def test_wrong_input_is_named() -> None:
    with pytest.raises(ValueError, match="shift is -1"):
        Augmentation(shift=-1)
    with pytest.raises(ValueError, match=r"only images .* got \(4, 9\)"):
        Augmentation()(torch.zeros(4, 9), np.random.default_rng(0))
