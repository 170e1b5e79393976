"""Arrays and ``.npz`` files: what is read, and what is refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bmrs_pyro.data import DataError, Dataset
from bmrs_pyro.data.arrays import as_images, as_labels, read_npz

RNG = np.random.default_rng(0)
GOOD: dict[str, Any] = {
    "x_train": RNG.integers(0, 256, (6, 5, 4, 3), dtype=np.uint8),
    "y_train": np.array([0, 1, 2, 0, 1, 2], dtype=np.uint8),
    "x_test": RNG.integers(0, 256, (2, 5, 4, 3), dtype=np.uint8),
    "y_test": np.array([[2], [0]]),
}


def saved(path: Path, **changes: np.ndarray) -> Path:
    np.savez(path, **GOOD | changes)
    return path


def test_reads_both_parts(tmp_path: Path) -> None:
    parts = read_npz(saved(tmp_path / "toy.npz"))
    train, test = parts["train"], parts["test"]
    assert (
        (train.num_classes, train.class_names) == (test.num_classes, test.class_names) == (3, ("0", "1", "2"))
    )
    assert (train.images.dtype, train.labels.tolist()) == (torch.uint8, [0, 1, 2, 0, 1, 2])
    assert test.labels.tolist() == [2, 0]
    for n, c, h, w in np.ndindex(2, 3, 5, 4):
        assert test.images[n, c, h, w] == GOOD["x_test"][n, h, w, c]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((7, 9), lambda x: x),
        ((7, 8, 9), lambda x: x[:, None]),
        ((7, 8, 9, 3), lambda x: np.moveaxis(x, 3, 1)),
        ((7, 8, 9, 1), lambda x: np.moveaxis(x, 3, 1)),
        ((7, 4, 4, 4), lambda x: np.moveaxis(x, 3, 1)),
        ((7, 3, 8, 9), lambda x: x),
        ((7, 1, 1, 3), lambda x: x),
    ],
)
def test_the_channel_axis_is_the_short_one(
    shape: tuple[int, ...], expected: Callable[[np.ndarray], np.ndarray]
) -> None:
    array = RNG.random(shape, dtype=np.float32)
    images = as_images(array, "x")
    assert images.dtype == torch.float32
    assert images.is_contiguous()
    np.testing.assert_array_equal(images, expected(array))


@pytest.mark.parametrize("dtype", [np.bool_, np.int8, np.uint16, np.int64, ">f8", np.float16])
def test_other_real_numbers_become_float32(dtype: Any) -> None:
    array = np.array([[0, 1], [1, 1]]).astype(dtype)
    images = as_images(array, "x")
    assert images.dtype == torch.float32
    assert images.tolist() == [[0.0, 1.0], [1.0, 1.0]]


def test_named_classes_may_be_absent(tmp_path: Path) -> None:
    path = saved(tmp_path / "toy.npz", y_train=np.array([0, 1, 3, 0, 1, 3]), y_test=np.array([2, 3]))
    assert read_npz(path, ("a", "b", "c", "d"))["train"].num_classes == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"x_train": np.zeros((6, 2, 2, 2, 2))},
            r"x_train has shape \(6, 2, 2, 2, 2\); expected \(N, H, W\)",
        ),
        (
            {"x_train": np.zeros((6, 2), dtype=complex)},
            "x_train holds complex128; expected uint8 or real numbers",
        ),
        ({"x_test": np.array(["a", "b"])}, "x_test holds <U1; expected uint8 or real numbers"),
        ({"x_train": np.full((6, 2), np.nan)}, r"x_train, y_train\): example 0 .* holds NaN"),
        ({"x_train": np.full((6, 2), 1e300)}, r"x_train, y_train\): example 0 .* infinity"),
        ({"x_test": np.zeros((3, 5, 4, 3))}, r"x_test, y_test\): 3 images but 2 labels"),
        ({"y_train": np.zeros(6)}, "y_train holds float64; labels must be integers"),
        (
            {"y_test": np.zeros((2, 3), dtype=int)},
            r"shape \(2, 3\); expected torch.int64, shape \(N,\), or one per place, \(N, 5, 4\)",
        ),
        ({"y_test": np.array(1)}, r"y_test has shape \(\)"),
        ({"y_test": np.array([0, 3])}, r"x_test, y_test\): labels range from 0 to 3; expected 0 to 2"),
        ({"y_test": np.array([0, -1])}, "labels range from -1 to 0; expected 0 to 2"),
        ({"y_train": np.arange(1, 7)}, "y_train holds 6 classes from 1 to 6; number them 0 … K-1"),
        ({"y_train": np.array([{}] * 6)}, "cannot be read .*Object arrays cannot be loaded"),
    ],
)
def test_refuses_bad_arrays_in_one_line(change: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "toy.npz", **change)
    with pytest.raises(DataError, match=message) as caught:
        read_npz(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_labels_beyond_int64_do_not_wrap_into_range() -> None:
    labels = as_labels(np.array([0, 2**64 - 1], dtype=np.uint64), "y")
    with pytest.raises(DataError, match="labels range from -1"):
        Dataset(torch.zeros(2, 1), labels, 2)


def test_missing_arrays_are_listed(tmp_path: Path) -> None:
    np.savez(tmp_path / "toy.npz", x_train=GOOD["x_train"], labels=GOOD["y_train"])
    with pytest.raises(DataError, match=r"y_train, x_test, y_test missing; found x_train, labels$"):
        read_npz(tmp_path / "toy.npz")


def damaged(path: Path) -> bytes:
    """Overwrite the middle of the pixels, which the zip's checksum notices."""
    content = bytearray(saved(path).read_bytes())
    content[200:220] = bytes(b ^ 255 for b in content[200:220])
    return bytes(content)


def array_alone(path: Path) -> bytes:
    np.save(path.with_suffix(".npy"), GOOD["x_train"])
    return path.with_suffix(".npy").read_bytes()


@pytest.mark.parametrize(
    "content",
    [
        lambda path: b"",
        lambda path: b"not a zip",
        lambda path: saved(path).read_bytes()[:300],
        damaged,
        array_alone,
    ],
)
def test_refuses_files_of_another_kind(content: Callable[[Path], bytes], tmp_path: Path) -> None:
    path = tmp_path / "toy.npz"
    path.write_bytes(content(path))
    with pytest.raises(DataError, match=r"toy\.npz cannot be read \(.*numpy\.savez") as caught:
        read_npz(path)
    assert "\n" not in str(caught.value)
