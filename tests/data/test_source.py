"""Loading a dataset: which one it is, its columns and splits, and errors that say what is wrong with it."""

import os
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from datasets import ClassLabel, Dataset, Features, Image, load_dataset
from support.errors import config_error
from support.pictures import KNOWN, RNG, recognized_with, write_folder, write_known

from fedbabu.data.cache import cache_dir
from fedbabu.data.dataset import open_dataset
from fedbabu.data.known import KNOWN_DATASETS
from fedbabu.data.source import SPLITS, DataSpec


@pytest.fixture
def folder(tmp_path):
    write_folder(tmp_path / "pets")
    return str(tmp_path / "pets")


@pytest.mark.parametrize("name", KNOWN)
def test_a_copy_of_a_known_dataset_is_recognized(tmp_path, monkeypatch, name):
    recognized_with(monkeypatch, name)
    dataset = open_dataset(DataSpec(str(write_known(tmp_path / "copy", name))))
    known = KNOWN_DATASETS[name]
    assert dataset.name == name
    assert dataset.class_names == tuple(KNOWN[name][3])
    assert dataset.num_classes == {"cifar10": 10, "cifar100": 100, "emnist": 62, "fashion-mnist": 10}[name]
    pixels = dataset.images["train"] / 255
    mean, std = known.mean or pixels.mean(axis=(0, 1, 2)), known.std or pixels.std(axis=(0, 1, 2))
    assert tuple(dataset.transform.mean) == pytest.approx(tuple(mean))
    assert tuple(dataset.transform.std) == pytest.approx(tuple(std))
    assert dataset.transform.crop_padding == 4
    assert dataset.transform.flip  # EMNIST too, as Appendix A.2 says
    assert bool(dataset.owners) == (name == "emnist")


def test_a_dataset_with_the_columns_and_classes_of_digits_is_not_taken_for_digits(tmp_path):
    """It may be MNIST."""
    features = Features({"image": Image(), "label": ClassLabel(names=[str(digit) for digit in range(10)])})
    for split in SPLITS:
        images = list(RNG.integers(0, 256, (10, 28, 28), dtype=np.uint8))
        data = Dataset.from_dict({"image": images, "label": list(range(10))}, features=features)
        data.to_parquet(tmp_path / f"{split}.parquet")
    assert open_dataset(DataSpec(str(tmp_path), "image", "label")).name == str(tmp_path)


@pytest.mark.parametrize(
    "differs", ["a class name", "the order of classes", "the number of images", "the shape", "colour"]
)
def test_what_merely_resembles_cifar10_is_not_taken_for_it(tmp_path, monkeypatch, differs):
    """STL-10, say, whose first and last classes are CIFAR-10's."""
    recognized_with(monkeypatch, "cifar10", num=100 if differs == "the number of images" else 200)
    shape, image, label, names, others = KNOWN["cifar10"]
    if differs == "a class name":
        names = [*names[:4], "monkey", *names[5:]]
    if differs == "the order of classes":
        names = [*names[:4], names[5], names[4], *names[6:]]
    shape = {"the shape": (96, 96, 3), "colour": (32, 32)}.get(differs, shape)
    monkeypatch.setitem(KNOWN, "cifar10", (shape, image, label, names, others))
    dataset = open_dataset(DataSpec(str(write_known(tmp_path / "copy", "cifar10"))))
    assert dataset.name == str(tmp_path / "copy")
    pixels = dataset.images["train"] / 255
    assert tuple(dataset.transform.mean) == pytest.approx(tuple(pixels.mean(axis=(0, 1, 2))))


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_the_class_names_of_cifar_are_those_of_the_hub(name):
    """Checked by hand once against the Hub's files; the first five, and how many there are."""
    first = {"cifar10": "airplane automobile bird cat deer", "cifar100": "apple aquarium_fish baby bear beaver"}[name]
    names = KNOWN_DATASETS[name].class_names
    assert list(names[:5]) == first.split()
    assert len(set(names)) == {"cifar10": 10, "cifar100": 100}[name]


def test_a_damaged_first_image_of_a_copy_is_named(tmp_path, monkeypatch):
    recognized_with(monkeypatch, "cifar10", num=20)
    folder = write_known(tmp_path / "copy", "cifar10", num=20)
    table = pyarrow.parquet.read_table(folder / "train.parquet")
    cells = [{"bytes": b"no image", "path": None}, *table["img"].to_pylist()[1:]]
    column = pyarrow.array(cells, table.schema.field("img").type)
    pyarrow.parquet.write_table(table.set_column(0, table.schema.field("img"), column), folder / "train.parquet")
    with config_error("row 0 of its train split", "it is no image file"):
        open_dataset(DataSpec(str(folder)))


def test_the_numbers_of_digits_are_those_of_its_data():
    known, dataset = KNOWN_DATASETS["digits"], open_dataset(DataSpec("digits"))
    assert known.num_examples == tuple(len(dataset.labels[split]) for split in SPLITS)
    assert known.image_shape == dataset.image_shape


def test_a_tenth_of_every_emnist_writer_is_held_out(tmp_path, monkeypatch):
    recognized_with(monkeypatch, "emnist")
    dataset = open_dataset(DataSpec(str(write_known(tmp_path / "copy", "emnist"))))
    assert np.array_equal(np.bincount(dataset.owners["train"]), [36] * 5)
    assert np.array_equal(np.bincount(dataset.owners["test"]), [4] * 5)


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_a_fraction_of_every_class_can_be_held_out(tmp_path, fraction):
    pixels, kinds = write_folder(tmp_path / "pets", splits=("train",), num=80)["train"]
    dataset = open_dataset(DataSpec(str(tmp_path / "pets"), "picture", "kind", test_fraction=fraction))
    assert np.array_equal(np.bincount(dataset.labels["test"]), [round(20 * fraction)] * 4)
    # Each image of the original training split is in one of the two splits, in the original order.
    rows = {
        split: [np.flatnonzero((pixels == image).all(axis=(1, 2, 3))).item() for image in dataset.images[split]]
        for split in SPLITS
    }
    assert sorted(rows["train"] + rows["test"]) == list(range(80))
    assert all(rows_of_split == sorted(rows_of_split) for rows_of_split in rows.values())
    assert all(np.array_equal(dataset.labels[split], kinds[rows[split]]) for split in SPLITS)


def test_a_held_out_fraction_replaces_the_test_split(folder):
    theirs, held_out = (open_dataset(DataSpec(folder, "picture", "kind", test_fraction=f)) for f in (0.0, 0.5))
    assert theirs.folder != held_out.folder
    assert len(theirs.labels["train"]) == 40
    assert len(held_out.labels["train"]) == len(held_out.labels["test"]) == 20


def test_a_fraction_of_less_than_an_image_is_an_error(folder):
    with config_error("test-fraction = 0.001", "raise"):
        open_dataset(DataSpec(folder, "picture", "kind", test_fraction=0.001))


def test_any_column_of_numbers_or_text_can_name_the_owners(tmp_path):
    write_folder(tmp_path / "pets", person=[(row * row) % 7 + 100 for row in range(40)])
    folder = str(tmp_path / "pets")
    dataset = open_dataset(DataSpec(folder, "picture", "kind", "person"))
    _, numbers = np.unique([(row * row) % 7 for row in range(40)], return_inverse=True)
    for split in SPLITS:
        assert np.array_equal(dataset.owners[split], numbers)
    with config_error("client-column = 'owner'", "picture, kind, person"):
        open_dataset(DataSpec(folder, "picture", "kind", "owner"))
    with config_error("client-column = 'picture'", "numbers or text"):
        open_dataset(DataSpec(folder, "picture", "kind", "picture"))


def test_an_image_without_an_owner_is_an_error(tmp_path):
    write_folder(tmp_path, person=[None if row == 9 else row for row in range(40)])
    with config_error("'person'", "row 9 of its train split"):
        open_dataset(DataSpec(str(tmp_path), "picture", "kind", "person"))


@pytest.mark.parametrize(
    ("image_column", "label_column", "named"),
    [
        ("photo", "kind", ["image-column = 'photo'", "picture, kind"]),
        ("picture", "label", ["label-column = 'label'", "picture, kind"]),
        ("kind", "kind", ["image-column = 'kind'", "no images"]),
        ("picture", "picture", ["label-column = 'picture'", "class labels, texts or integers"]),
    ],
)
def test_an_error_about_a_column_names_its_key_and_the_columns_that_exist(folder, image_column, label_column, named):
    with config_error(*named):
        open_dataset(DataSpec(folder, image_column, label_column))


def test_after_an_error_no_part_of_an_entry_is_left(folder):
    before = set(cache_dir().iterdir()) if cache_dir().exists() else set()
    with config_error():
        open_dataset(DataSpec(folder, "nothing", "kind"))
    assert {path.suffix for path in set(cache_dir().iterdir()) - before} <= {".lock"}


def test_a_missing_folder_is_an_error(tmp_path):
    with config_error(f"dataset = '{tmp_path}/nowhere'", "does not exist"):
        open_dataset(DataSpec(str(tmp_path / "nowhere")))


@pytest.mark.parametrize(
    ("splits", "named"),
    [
        (("train",), ["no test split", "it has train:", "test-fraction"]),
        (("test", "validation"), ["no train split", "it has test, validation:"]),
    ],
)
def test_a_missing_split_is_an_error_that_names_the_splits_that_exist(tmp_path, splits, named):
    write_folder(tmp_path, splits=splits)
    with config_error(f"dataset = '{tmp_path}'", *named):
        open_dataset(DataSpec(str(tmp_path), "picture", "kind"))


@pytest.mark.parametrize("damage", ["truncated", "overwritten", "no parquet"])
def test_a_damaged_parquet_file_is_named(tmp_path, damage):
    write_folder(tmp_path / "pets", num=400)
    file = tmp_path / "pets" / "test.parquet"
    whole = file.read_bytes()
    damaged = {
        "truncated": whole[: len(whole) // 2],
        "overwritten": whole[:4] + b"\xff" * (len(whole) - 2000) + whole[len(whole) - 1996 :],
        "no parquet": b"PAR1 and then something else",
    }
    file.write_bytes(damaged[damage])
    with config_error(f"damaged file, {file}"):
        open_dataset(DataSpec(str(tmp_path / "pets"), "picture", "kind"))


def test_a_folder_without_data_is_not_taken_for_an_unreachable_hub(tmp_path):
    with config_error(f"dataset = '{tmp_path}' has neither parquet files nor images (it is empty)"):
        open_dataset(DataSpec(str(tmp_path), "picture", "kind"))


def test_columns_that_are_not_given_are_found_if_only_one_can_be_meant(folder):
    dataset = open_dataset(DataSpec(folder))
    assert dataset.num_classes == 4
    assert len(dataset.labels["train"]) == 40


def test_columns_that_are_not_given_must_be_clear(tmp_path):
    write_known(tmp_path / "copy", "cifar100")
    with config_error("needs label-column to be set", "img, fine_label, coarse_label"):
        open_dataset(DataSpec(str(tmp_path / "copy")))


def test_a_name_is_not_answered_from_the_cache_of_a_folder_that_was_read_elsewhere(tmp_path, monkeypatch):
    write_folder(tmp_path / "elsewhere" / "mypets")
    load_dataset(str(tmp_path / "elsewhere" / "mypets"))  # as earlier versions did, and as the user may have done
    monkeypatch.chdir(tmp_path)
    assert len(load_dataset("mypets")["train"]) == 40  # what `datasets` does
    with config_error("Hub cannot be reached", tmp_path / "mypets"):
        open_dataset(DataSpec("mypets"))


def test_a_file_is_not_a_dataset(tmp_path):
    write_folder(tmp_path / "pets")
    with config_error("is a file", f"give the folder that it is in, {tmp_path / 'pets'}."):
        open_dataset(DataSpec(str(tmp_path / "pets" / "train.parquet")))


@pytest.mark.parametrize("dataset", ["cifar10", "someone/some-pictures"])
def test_if_the_hub_cannot_be_reached_the_error_names_both_alternatives(dataset):
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    with config_error("Hub cannot be reached", "dataset='/path/to/", "conf/quickstart.toml", Path(dataset).absolute()):
        open_dataset(DataSpec(dataset))
