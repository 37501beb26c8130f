"""Decoding: exact pixels and labels, and errors that name the row of an image or label that cannot be used."""

import numpy as np
import PIL.Image
import pytest
from datasets import ClassLabel, Dataset, Features, Image
from support.errors import config_error
from support.pictures import RNG, recognized_with, write_folder, write_known

from fedbabu.data.dataset import open_dataset
from fedbabu.data.source import SPLITS, DataSpec


def open_folder(folder, **options):
    return open_dataset(DataSpec(str(folder), "picture", "kind", **options))


def test_a_local_folder_is_decoded_exactly(tmp_path):
    written = write_folder(tmp_path)
    dataset = open_folder(tmp_path)
    assert dataset.image_shape == (3, 20, 16)
    assert dataset.num_classes == 4
    for split, (pixels, kinds) in written.items():
        assert np.array_equal(dataset.images[split], pixels)
        assert np.array_equal(dataset.labels[split], kinds)
        assert isinstance(dataset.images[split], np.memmap)
    scaled = written["train"][0] / 255
    assert dataset.transform.mean == pytest.approx(scaled.mean(axis=(0, 1, 2)).tolist())
    assert dataset.transform.std == pytest.approx(scaled.std(axis=(0, 1, 2)).tolist())


def test_grayscale_images_have_one_channel(tmp_path):
    written = write_folder(tmp_path, channels=1)
    dataset = open_folder(tmp_path)
    assert dataset.image_shape == (1, 20, 16)
    assert np.array_equal(dataset.images["test"], written["test"][0])


@pytest.mark.parametrize(("size", "padding"), [((8, 8), 1), ((16, 20), 2), ((28, 28), 4), ((32, 32), 4), ((64, 96), 8)])
def test_the_crop_is_in_proportion_to_the_images(tmp_path, size, padding):
    """The paper's padding is 4 pixels at 32; four pixels of 8 would leave little of a digit."""
    write_folder(tmp_path, size=size)
    assert (open_folder(tmp_path).transform.crop_padding, open_folder(tmp_path).transform.flip) == (padding, True)
    given = open_folder(tmp_path, crop_padding=3, flip=False)
    assert (given.transform.crop_padding, given.transform.flip) == (3, False)
    assert given.folder == open_folder(tmp_path).folder  # images are not decoded again


def test_a_padding_as_large_as_the_images_is_refused(tmp_path):
    write_folder(tmp_path)
    with config_error("crop-padding = 16", "below 16"):
        open_folder(tmp_path, crop_padding=16)


def test_digits_are_balanced():
    dataset = open_dataset(DataSpec("digits"))
    assert dataset.name == "digits"
    assert dataset.image_shape == (1, 16, 16)
    assert np.array_equal(np.bincount(dataset.labels["train"]), [144] * 10)
    assert np.array_equal(np.bincount(dataset.labels["test"]), [30] * 10)
    assert dataset.images["train"].max() == 255


def test_the_classes_of_cifar100_have_superclasses(tmp_path, monkeypatch):
    recognized_with(monkeypatch, "cifar100")
    superclasses = open_dataset(DataSpec(str(write_known(tmp_path / "copy", "cifar100")))).superclasses
    assert superclasses == tuple(f"super{label % 20}" for label in range(100))
    assert open_dataset(DataSpec("digits")).superclasses is None


def write_image_folder(folder):
    pixels = {}
    for split in SPLITS:
        for label, kind in enumerate(("cat", "dog")):
            (folder / split / kind).mkdir(parents=True)
            for number in range(3):
                pixels[split, label, number] = RNG.integers(0, 256, (18, 17, 3), dtype=np.uint8)
                PIL.Image.fromarray(pixels[split, label, number]).save(folder / split / kind / f"{number}.png")
    return pixels


def test_a_folder_of_images_is_a_dataset(tmp_path):
    pixels = write_image_folder(tmp_path)
    dataset = open_dataset(DataSpec(str(tmp_path), "image", "label"))
    assert dataset.class_names == ("cat", "dog")
    for split in SPLITS:
        assert dataset.labels[split].tolist() == [0, 0, 0, 1, 1, 1]
        assert np.array_equal(
            dataset.images[split], [p for (image_split, *_), p in pixels.items() if image_split == split]
        )


def test_a_broken_image_of_a_folder_is_named(tmp_path):
    write_image_folder(tmp_path)
    broken = tmp_path / "test" / "dog" / "1.png"
    broken.write_bytes(broken.read_bytes()[:100])
    with config_error("row 4 of its test split", broken):
        open_dataset(DataSpec(str(tmp_path), "image", "label"))


def test_an_image_that_cannot_be_decoded_is_an_error_that_names_its_row(tmp_path):
    write_folder(tmp_path)
    features = Features({"picture": Image(), "kind": ClassLabel(names=[f"c{i}" for i in range(4)])})
    first = Dataset.from_parquet(str(tmp_path / "test.parquet")).cast_column("picture", Image(decode=False))[0]
    for broken in (
        {"bytes": b"no image", "path": None},
        {"bytes": first["picture"]["bytes"][:-200], "path": None},
        {"bytes": b"", "path": None},
        None,
    ):
        cells = {"picture": [first["picture"], broken], "kind": [0, 1]}
        Dataset.from_dict(cells, features=features).to_parquet(tmp_path / "test.parquet")
        with config_error("can be decoded", "row 1 of its test split"):
            open_folder(tmp_path)


def test_images_of_several_sizes_are_an_error(tmp_path):
    images = [np.zeros((16, 16, 3), np.uint8), np.zeros((16, 17, 3), np.uint8)]
    features = Features({"picture": Image(), "kind": ClassLabel(names=["a", "b"])})
    for split in SPLITS:
        data = Dataset.from_dict({"picture": images, "kind": [0, 1]}, features=features)
        data.to_parquet(tmp_path / f"{split}.parquet")
    with config_error("row 1 of its train split", "17×16", "16×16"):
        open_folder(tmp_path)


def test_train_and_test_images_of_different_sizes_are_an_error(tmp_path):
    write_folder(tmp_path, splits=("train",), size=(20, 16))
    write_folder(tmp_path, splits=("test",), size=(16, 16))
    with config_error("row 0 of its test split", "16×16", "16×20"):
        open_folder(tmp_path)


@pytest.mark.parametrize(
    ("modes", "named"),
    [
        (("RGB", "L"), ["colour", "grayscale", "row 1 of its train split", "mode L,", "mode RGB."]),
        (("L", "RGBA"), ["colour", "grayscale", "row 1 of its train split", "mode RGBA,", "mode L."]),
        (("I;16", "L"), ["row 0 of its train split", "I;16", "1, L, LA, RGB"]),
        (("1", "L"), None),
        (("RGB", "P"), None),
    ],
)
def test_images_must_be_all_in_colour_or_all_in_grayscale(tmp_path, modes, named):
    for split in SPLITS:
        for number, mode in enumerate(modes):
            (tmp_path / split / str(number)).mkdir(parents=True)
            PIL.Image.new(mode, (16, 16)).save(tmp_path / split / str(number) / "image.png")
    spec = DataSpec(str(tmp_path), "image", "label")
    if named is None:
        assert open_dataset(spec).images["train"].max() == 0
    else:
        with config_error(*named):
            open_dataset(spec)


@pytest.mark.parametrize(
    ("train_labels", "test_labels", "named"),
    [
        ([0, None, 1], [0, 1, 1], ["'kind'", "row 1 of its train split"]),
        ([*range(11)], [0, 1, 2, 0], ["label-column = 'kind'", "another value", "11 training images"]),
        ([0, 1, 2, 3], [0, -1], ["label -1", "row 1 of its test split", "at least 0"]),
    ],
)
def test_every_label_must_be_the_number_of_a_class(tmp_path, train_labels, test_labels, named):
    write_folder(tmp_path, splits=("train",), num=len(train_labels), labels=train_labels)
    write_folder(tmp_path, splits=("test",), num=len(test_labels), labels=test_labels)
    with config_error(*named):
        open_folder(tmp_path)


@pytest.mark.parametrize("bad_row", [3, 21, 38])
def test_an_error_names_the_row_of_the_original_file_if_a_test_split_is_held_out(tmp_path, bad_row):
    labels = [row % 4 for row in range(40)]
    labels[bad_row] = -7
    write_folder(tmp_path, splits=("train",), labels=labels)
    with config_error("label -7", f"row {bad_row} of its train split"):
        open_folder(tmp_path, test_fraction=0.5)
