"""The one door: which source is meant, and how its parts are split and normalised."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from bmrs_pyro.data import DataError, Dataset, Splits, load


def pixels(splits: Splits[Dataset]) -> list[list[bytes]]:
    return [[image.numpy().tobytes() for image in part.images] for part in splits]


def test_parts_are_disjoint_and_whole() -> None:
    train, validation, test = pixels(load("digits"))
    assert (len(train), len(validation), len(test)) == (1150, 288, 359)
    images = np.rint(load_digits().images * (255 / 16)).astype(np.uint8)
    assert sorted(train + validation + test) == sorted(image.tobytes() for image in images)


def test_seed_moves_the_validation_part_only() -> None:
    first, again, other = (pixels(load("digits", seed=seed)) for seed in (0, 0, 1))
    assert first == again
    assert first[1] != other[1]
    assert first[2] == other[2]


def test_every_part_is_normalised_by_the_training_part() -> None:
    splits = load("digits", size=16)
    array = splits.train.images.double().numpy()
    for part in splits:
        assert part.input_shape == (1, 16, 16)
        np.testing.assert_allclose((part.mean[0], part.std[0]), (array.mean(), array.std()), rtol=1e-12)
        assert (part.name, part.num_classes, part.class_names[3]) == ("digits", 10, "3")


def test_grey_becomes_colour() -> None:
    splits = load("digits", size=12, channels=3)
    assert splits.train.input_shape == (3, 12, 12)
    assert splits.test.mean[0] == splits.test.mean[2]


def test_features_from_npz(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(5, 2, (40, 3)), np.arange(40) % 2
    np.savez(tmp_path / "table.npz", x_train=x, y_train=y, x_test=x[:7], y_test=y[:7])
    splits = load(tmp_path / "table.npz", validation=0.25)
    assert [len(part) for part in splits] == [30, 10, 7]
    assert (splits.train.name, splits.train.input_shape, len(splits.train.mean)) == ("table", (3,), 3)
    with pytest.raises(DataError, match="size 8 is asked for, but these are feature vectors"):
        load(tmp_path / "table.npz", size=8)


def test_parts_must_agree_in_shape_unless_resized(tmp_path: Path) -> None:
    y = np.array([0, 1, 0, 1])
    np.savez(
        tmp_path / "toy.npz", x_train=np.zeros((4, 3, 3)), y_train=y, x_test=np.zeros((4, 5, 5)), y_test=y
    )
    with pytest.raises(DataError, match=r"differ in shape: train \(1, 3, 3\), test \(1, 5, 5\)"):
        load(tmp_path / "toy.npz", validation=0.5)
    assert load(tmp_path / "toy.npz", validation=0.5, size=4).test.input_shape == (1, 4, 4)


def test_a_folder_may_bring_its_own_validation_part(tmp_path: Path) -> None:
    for level, part in enumerate(("train", "val", "test")):
        (tmp_path / part / "ant").mkdir(parents=True)
        Image.new("L", (2, 2), level).save(tmp_path / part / "ant" / "a.png")
    assert [int(part.images.max()) for part in load(tmp_path)] == [0, 1, 2]


@pytest.mark.parametrize("name", ["imagenet", "nowhere/data.npz"])
def test_unknown_data_list_what_is_known(name: str) -> None:
    known = "digits, mnist, fashion_mnist, cifar10, a .npz, .csv or .parquet file, or a folder of images"
    with pytest.raises(DataError, match=f"^{name}: no such data; give one of {known}$"):
        load(name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation": 1.5}, "share to hold out is 1.5"),
        ({"size": -1}, "size is -1"),
        ({"channels": 2}, "not 2"),
    ],
)
def test_refuses_bad_options(options: dict[str, float], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load("digits", **options)  # type: ignore[arg-type]
