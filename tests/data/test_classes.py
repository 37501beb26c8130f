"""Classes: one numbering for both splits, by name where there are names."""

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value
from support.errors import config_error
from support.pictures import RNG, write_folder

from fedbabu.data.dataset import open_dataset
from fedbabu.data.source import SPLITS, DataSpec


def write_labels(folder, labels_of_split, feature_of_split):
    """Write random images with these labels, one parquet file a split."""
    folder.mkdir(exist_ok=True)
    for split, labels in labels_of_split.items():
        features = Features({"image": Image(), "label": feature_of_split[split]})
        images = list(RNG.integers(0, 256, (len(labels), 16, 16, 3), dtype=np.uint8))
        data = Dataset.from_dict({"image": images, "label": labels}, features=features)
        data.to_parquet(folder / f"{split}.parquet")
    return open_dataset(DataSpec(str(folder)))


def names_of(dataset, split):
    return [dataset.class_names[label] for label in dataset.labels[split]]


def test_splits_that_number_their_classes_apart_are_matched_by_name(tmp_path):
    features = {"train": ClassLabel(names=["cat", "dog", "emu"]), "test": ClassLabel(names=["dog", "emu"])}
    labels = {"train": ["cat", "dog", "emu", "emu"] * 2, "test": ["dog", "emu", "emu"]}
    dataset = write_labels(tmp_path, labels, features)
    assert dataset.class_names == ("cat", "dog", "emu")
    assert {split: names_of(dataset, split) for split in SPLITS} == labels
    assert dataset.notes == ()


def test_of_classes_that_only_overlap_there_are_all_in_sorted_order(tmp_path):
    features = {"train": ClassLabel(names=["emu", "cat"]), "test": ClassLabel(names=["dog", "emu"])}
    dataset = write_labels(tmp_path, {"train": ["emu", "cat"], "test": ["dog", "emu"]}, features)
    assert dataset.class_names == ("cat", "dog", "emu")
    assert names_of(dataset, "test") == ["dog", "emu"]
    assert dataset.notes == ("The splits list their classes differently, so that the classes are matched by name",)


def test_files_of_one_split_that_number_their_classes_apart_are_matched_by_name(tmp_path):
    for file, names in (("train-0", ["cat", "dog"]), ("train-1", ["dog", "emu"]), ("test", ["cat", "dog", "emu"])):
        features = Features({"image": Image(), "label": ClassLabel(names=names)})
        images = list(RNG.integers(0, 256, (6, 16, 16, 3), dtype=np.uint8))
        Dataset.from_dict({"image": images, "label": names * (6 // len(names))}, features=features).to_parquet(
            tmp_path / f"{file}.parquet"
        )
    dataset = open_dataset(DataSpec(str(tmp_path)))
    assert names_of(dataset, "train") == ["cat", "dog"] * 3 + ["dog", "emu"] * 3
    assert names_of(dataset, "test") == ["cat", "dog", "emu"] * 2


def test_texts_are_classes_in_sorted_order(tmp_path):
    labels = {"train": ["emu", "cat", "dog"] * 3, "test": ["dog", "cat"]}
    dataset = write_labels(tmp_path, labels, dict.fromkeys(SPLITS, Value("string")))
    assert dataset.class_names == ("cat", "dog", "emu")
    assert {split: names_of(dataset, split) for split in SPLITS} == labels
    assert dataset.notes == ("The labels are texts; the classes are in sorted order: cat, dog, emu",)


def test_texts_in_one_split_match_the_class_names_of_the_other(tmp_path):
    features = {"train": ClassLabel(names=["dog", "cat"]), "test": Value("string")}
    labels = {"train": ["dog", "cat"] * 3, "test": ["cat", "dog", "dog"]}
    dataset = write_labels(tmp_path, labels, features)
    assert {split: names_of(dataset, split) for split in SPLITS} == labels


def test_numbers_cannot_be_matched_with_names(tmp_path):
    features = {"train": ClassLabel(names=["cat", "dog"]), "test": Value("int64")}
    with config_error("names of classes in its train split", "only numbers in its test split"):
        write_labels(tmp_path, {"train": ["cat", "dog"], "test": [0, 1]}, features)


@pytest.mark.parametrize(
    ("numbers", "note"),
    [
        ([0, 1, 2], None),
        ([1, 2, 3], "The labels 1, 2, 3 are the classes 0 to 2"),
        ([0, 10, 20], "The labels 0, 10, 20 are the classes 0 to 2"),
        (list(range(1, 13)), "The labels 1, 2, 3, 4, 5, 6, 7, 8, …, 12 are the classes 0 to 11"),
    ],
)
def test_numbers_without_names_make_no_classes_without_images(tmp_path, numbers, note):
    labels = {split: numbers * 3 for split in SPLITS}
    dataset = write_labels(tmp_path, labels, dict.fromkeys(SPLITS, Value("int64")))
    assert dataset.class_names == tuple(numbers)
    assert {split: names_of(dataset, split) for split in SPLITS} == labels
    assert dataset.notes == ((note,) if note else ())


def test_class_labels_keep_their_numbers_and_classes_without_images(tmp_path):
    labels = {"train": [1, 3, 3, 1], "test": [3, 1]}
    dataset = write_labels(tmp_path, labels, dict.fromkeys(SPLITS, ClassLabel(names=list("abcde"))))
    assert dataset.num_classes == 5
    assert dataset.labels["train"].tolist() == labels["train"]


def test_a_column_with_another_value_in_every_row_holds_no_classes(tmp_path):
    write_folder(tmp_path, number=list(range(40)))
    with config_error("label-column = 'number'", "another value for each of its 40 training images"):
        open_dataset(DataSpec(str(tmp_path), "picture", "number"))
