"""The named data sets: bundled, on disk, and missing."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from bmrs_pyro.data import DataError, load
from bmrs_pyro.data.named import known_name, read_digits
from bmrs_pyro.data.torchvision_sets import read_torchvision

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data beside the checkout")


@pytest.mark.parametrize(
    ("text", "name"),
    [("CIFAR-10", "cifar10"), ("FashionMNIST", "fashion_mnist"), ("digits", "digits"), ("mnist2", None)],
)
def test_names_are_known_in_any_spelling(text: str, name: str | None) -> None:
    assert known_name(text) == name


def test_digits_are_scikit_learns_in_256_levels() -> None:
    train = read_digits()["train"]
    oracle = load_digits()
    assert (train.images.dtype, int(train.images.max())) == (torch.uint8, 255)
    np.testing.assert_allclose(train.images[:, 0] / 255.0, oracle.images / 16, atol=0.5 / 255 + 1e-7)
    np.testing.assert_array_equal(train.labels, oracle.target)


@needs_shared
@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_torchvision_layout_is_read_as_its_bytes_say(name: str, folder: str) -> None:
    test = read_torchvision(name, SHARED)["test"]
    raw = SHARED / folder / "raw"
    pixels = np.fromfile(raw / "t10k-images-idx3-ubyte", dtype=np.uint8)[16:].reshape(10_000, 1, 28, 28)
    np.testing.assert_array_equal(test.images, pixels)
    np.testing.assert_array_equal(
        test.labels, np.fromfile(raw / "t10k-labels-idx1-ubyte", dtype=np.uint8)[8:]
    )
    assert len(test.class_names) == test.num_classes == 10


@needs_shared
def test_mnist_loads_at_32_pixels_with_its_known_mean() -> None:
    splits = load("mnist", data_root=SHARED, size=32, validation=1 / 6)
    assert [len(part) for part in splits] == [50_000, 10_000, 10_000]
    assert splits.train.input_shape == (1, 32, 32)
    # 0.1307, the usual mean of MNIST, is of all 60 000 images; interpolation keeps it to a grey level
    assert splits.test.mean[0] / 255 == pytest.approx(0.1307, abs=1 / 255)


@needs_shared
def test_cifar10_as_its_script_writes_it(tmp_path: Path) -> None:
    subprocess.run([sys.executable, SHARED / "cifar10.py", tmp_path / "CIFAR-10.npz"], check=True)
    splits = load("cifar10", data_root=tmp_path)
    assert [part.images.shape[0] for part in splits] == [40_000, 10_000, 10_000]
    assert splits.train.input_shape == (3, 32, 32)
    assert splits.test.class_names[6] == "frog"
    # the published channel means of the training images, of which 4/5 are left here
    np.testing.assert_allclose(np.divide(splits.train.mean, 255), [0.4914, 0.4822, 0.4465], atol=2e-3)


def test_npz_in_the_root_goes_first(tmp_path: Path) -> None:
    x, y = np.zeros((4, 2, 2), dtype=np.uint8), np.array([0, 9, 0, 9])
    np.savez(tmp_path / "FashionMNIST.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    test = load("fashion_mnist", data_root=tmp_path, validation=0.5).test
    assert (test.name, test.num_classes, test.class_names[9]) == ("fashion_mnist", 10, "Ankle boot")


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
def test_missing_data_name_the_folder_and_the_way_out(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--data-root, or allow the download with --download") as caught:
        load(name, data_root=tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@needs_shared
def test_damaged_files_are_reported_in_one_line(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    shutil.copytree(SHARED / "MNIST" / "raw", raw, copy_function=shutil.copyfile)
    (raw / "t10k-images-idx3-ubyte").write_bytes((raw / "t10k-images-idx3-ubyte").read_bytes()[:5000])
    with pytest.raises(DataError, match=r"mnist: found neither mnist\.npz nor .*invalid for input") as caught:
        load("mnist", data_root=tmp_path)
    assert "\n" not in str(caught.value)


def test_a_failed_download_is_reported_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: object, **kwargs: object) -> None:
        raise RuntimeError("Error downloading train-images:\nTried a mirror, got: nothing")

    monkeypatch.setattr("torchvision.datasets.MNIST.download", offline)
    with pytest.raises(DataError, match=r"\(Error downloading train-images:\); give their folder"):
        load("mnist", data_root=tmp_path, download=True)
