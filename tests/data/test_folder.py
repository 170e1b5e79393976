"""Image folders: layouts, pixels, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from bmrs_pyro.data import DataError, load, preparation
from bmrs_pyro.data.folder import read_folder

RNG = np.random.default_rng(0)


def write(path: Path, *shape: int) -> np.ndarray:
    """Write a random image without loss and return its pixels, ``(H, W)`` or ``(H, W, 3)``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = RNG.integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def test_pixels_and_labels_are_those_of_the_files(tmp_path: Path) -> None:
    pixels = [write(tmp_path / name, 5, 7, 3) for name in ("ant/a.png", "ant/deep/b.png", "bee/c.bmp")]
    (tmp_path / "ant" / "notes.txt").write_text("not an image")
    train = read_folder(tmp_path)["train"]
    assert (train.class_names, train.labels.tolist()) == (("ant", "bee"), [0, 0, 1])
    np.testing.assert_array_equal(train.images, np.stack(pixels).transpose(0, 3, 1, 2))


def test_grey_if_all_are_grey(tmp_path: Path) -> None:
    grey = write(tmp_path / "ant" / "a.png", 4, 4)
    np.testing.assert_array_equal(read_folder(tmp_path)["train"].images, grey[None, None])
    colour = write(tmp_path / "bee" / "b.png", 4, 4, 3)
    images = read_folder(tmp_path)["train"].images
    np.testing.assert_array_equal(images, [np.stack([grey] * 3), colour.transpose(2, 0, 1)])
    assert read_folder(tmp_path, channels=1)["train"].input_shape == (1, 4, 4)


def test_size_scales_and_cuts_to_the_middle(tmp_path: Path) -> None:
    wide = write(tmp_path / "ant" / "a.png", 6, 18, 3)
    write(tmp_path / "bee" / "b.png", 9, 5, 3)
    images = read_folder(tmp_path, size=6)["train"].images
    assert images.shape == (2, 3, 6, 6)
    np.testing.assert_array_equal(images[0], wide[:, 6:12].transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("folders", "keys"),
    [
        (["train"], {"train"}),
        (["train", "test"], {"train", "test"}),
        (["train", "val"], {"train", "test"}),
        (["train", "val", "test"], {"train", "validation", "test"}),
    ],
)
def test_part_folders(folders: list[str], keys: set[str], tmp_path: Path) -> None:
    pixels = {folder: write(tmp_path / folder / "ant" / "a.png", 2, 2) for folder in folders}
    parts = read_folder(tmp_path)
    assert set(parts) == keys
    named = {"validation": "val", "test": "test" if "test" in folders else "val", "train": "train"}
    for key, part in parts.items():
        np.testing.assert_array_equal(part.images[0, 0], pixels[named[key]])


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    for name in ("bus", "train"):
        write(tmp_path / name / "a.png", 2, 2)
    assert read_folder(tmp_path)["train"].class_names == ("bus", "train")


def test_a_held_out_part_may_lack_a_class(tmp_path: Path) -> None:
    for name in ("train/ant/a.png", "train/bee/b.png", "test/bee/c.png"):
        write(tmp_path / name, 2, 2)
    assert read_folder(tmp_path)["test"].labels.tolist() == [1]


def test_load_splits_a_plain_folder(tmp_path: Path) -> None:
    for number in range(20):
        write(tmp_path / ("ant" if number % 2 else "bee") / f"{number}.png", 3, 3)
    splits = load(tmp_path)
    assert [len(part) for part in splits] == [13, 3, 4]
    assert splits.train.name == tmp_path.name


def refused(path: Path, message: str, size: int | None = None) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_folder(path, size=size)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_images_are_turned_upright_as_exif_says(orientation: int, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / "ant" / f"a.{suffix}"
    pixels = write(path, 4, 6, 3)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(pixels).save(path, exif=exif)
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image)
        assert upright.size == ((4, 6) if 5 <= orientation <= 8 else (6, 4))
        expected = np.asarray(upright.convert("RGB")).transpose(2, 0, 1)
    np.testing.assert_array_equal(read_folder(tmp_path)["train"].images[0], expected)
    # scaled and cut, too
    square = read_folder(tmp_path, size=4)["train"].images[0].numpy()
    cut = expected[:, 1:5] if 5 <= orientation <= 8 else expected[:, :, 1:5]
    np.testing.assert_array_equal(square, cut)


def test_damaged_exif_data_leave_an_image_as_it_lies(tmp_path: Path) -> None:
    path = tmp_path / "ant" / "a.png"
    pixels = write(path, 4, 6, 3)
    Image.fromarray(pixels).save(path, exif=b"Exif\x00\x00no TIFF")
    np.testing.assert_array_equal(read_folder(tmp_path)["train"].images[0], pixels.transpose(2, 0, 1))


def test_refuses_what_cannot_be_read(tmp_path: Path) -> None:
    refused(tmp_path, "no class folders; expected one subfolder of images per class")
    (tmp_path / "ant").mkdir()
    refused(tmp_path, "Found no valid file for the classes ant")
    broken = tmp_path / "ant" / "a.png"
    broken.write_bytes(b"no image")
    refused(tmp_path, r"a\.png: not a readable image")
    write(broken, 30, 30, 3)
    broken.write_bytes(broken.read_bytes()[:600])
    refused(tmp_path, r"a\.png: not a readable image \(.*truncated")


def test_refuses_different_sizes_without_a_size(tmp_path: Path) -> None:
    write(tmp_path / "train/ant/a.png", 4, 4)
    write(tmp_path / "test/ant/b.png", 4, 5)
    refused(tmp_path, r"images differ in size \(.*a\.png \(4, 4\), .*b\.png \(5, 4\)\); choose a size")
    refused(tmp_path, "size is 0", size=0)


def test_refuses_deep_pixels_rather_than_clip_them(tmp_path: Path) -> None:
    (tmp_path / "ant").mkdir()
    Image.fromarray(np.full((2, 2), 1000, dtype=np.uint16)).save(tmp_path / "ant" / "a.png")
    refused(tmp_path, r"a\.png: more than 8 bits per channel")


def test_refuses_a_class_that_was_never_trained(tmp_path: Path) -> None:
    write(tmp_path / "train/ant/a.png", 2, 2)
    write(tmp_path / "test/bee/b.png", 2, 2)
    refused(tmp_path, r"test: class 'bee' is not in the training part, whose classes are \['ant'\]")


def test_refuses_other_channels(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"channels is 4; images are read with 1 \(grey\) or 3 \(colour\)"):
        read_folder(tmp_path, channels=4)


def test_refuses_more_than_fits_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "ant" / "a.png", 2, 2)
    monkeypatch.setattr(preparation, "MAX_BYTES", 99)
    refused(tmp_path, r"1 images of shape \(1, 10, 10\) take .* choose a smaller size", size=10)
