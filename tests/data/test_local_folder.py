"""Local folders: the layout alone says what the split and the class of an image are, or the folder is refused."""

import csv
import json
import os
import unicodedata
from collections import Counter

import numpy as np
import PIL.Image
import pyarrow.parquet
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from flwr_datasets.cli.create import create
from hypothesis import given, settings
from hypothesis import strategies as st
from support.errors import config_error
from support.partitions import partition_spec
from support.pictures import RNG, write_folder, write_images

from fedbabu.data.dataset import open_dataset
from fedbabu.data.partitions.partition import make_partition
from fedbabu.data.source import SPLITS, DataSpec
from fedbabu.data.split_names import split_of
from fedbabu.errors import ConfigError


def held_by_clients(spec: DataSpec, num_clients: int = 2) -> dict[str, Counter]:
    """How often each pair of a class and the pixels of an image is held by a client, in each split."""
    dataset = open_dataset(spec)
    partition = make_partition(dataset, partition_spec("iid", num_clients=num_clients))
    return {
        split: Counter(
            (dataset.class_names[dataset.labels[split][row]], dataset.images[split][row].tobytes())
            for rows in partition.rows[split].values()
            for row in rows
        )
        for split in SPLITS
    }


def on_disk(written: dict[str, list[bytes]], split: str = "") -> Counter:
    """The same of what `write_images` wrote into the class folders of a split's folder."""
    parts = {place: place.split("/") for place in written}
    return Counter(
        (parts[place][-1], pixels)
        for place, images in written.items()
        if not split or parts[place][-2] == split
        for pixels in images
    )


def count_classes(dataset, split):
    return {dataset.class_names[label]: n for label, n in enumerate(np.bincount(dataset.labels[split])) if n}


def test_a_class_named_train_keeps_its_images_in_both_splits(tmp_path):
    classes = ("bus", "tram", "train")
    write_images(tmp_path, {f"train/{name}": 30 for name in classes} | {f"test/{name}": 10 for name in classes})
    dataset = open_dataset(DataSpec(str(tmp_path)))
    assert count_classes(dataset, "train") == dict.fromkeys(classes, 30)
    assert count_classes(dataset, "test") == dict.fromkeys(classes, 10)


def test_a_class_whose_name_contains_train_is_read_once(tmp_path):
    classes = ("harbour", "airport", "bullet_train")
    write_images(tmp_path, {f"train/{name}": 30 for name in classes} | {f"test/{name}": 10 for name in classes})
    dataset = open_dataset(DataSpec(str(tmp_path)))
    assert {split: len(dataset.labels[split]) for split in SPLITS} == {"train": 90, "test": 30}


def test_no_class_vanishes_without_folders_of_splits(tmp_path):
    classes = ("bus", "car", "steam_train", "bullet_train", "test", "train")
    write_images(tmp_path, dict.fromkeys(classes, 10))
    dataset = open_dataset(DataSpec(str(tmp_path), test_fraction=0.2))
    assert count_classes(dataset, "train") == dict.fromkeys(sorted(classes), 8)
    assert count_classes(dataset, "test") == dict.fromkeys(sorted(classes), 2)


def move_classes_to_metadata(place):
    """Put the images of the class folders in a place into the place itself, and their classes into a metadata file."""
    rows = []
    for number, image in enumerate(sorted(place.rglob("*.png"))):
        rows.append({"file_name": f"train-{number}.png", "kind": image.parent.name})
        image.rename(place / f"train-{number}.png")
    write_metadata(place, rows)


WORDS = [
    "train", "test", "val", "Train", "eval", "bullet train", "test_tube", "steam-train", "validation", "training set",
    "latest", "[cat]", "d*g", "été", "地下鉄", "x.train", "dev", "emu",
]  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_what_the_clients_hold_is_what_is_on_disk_or_the_cause_is_named(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp(data.draw(st.sampled_from(["pets", "my [pets]", "train", "тест"])))
    classes = data.draw(st.lists(st.sampled_from(WORDS), min_size=1, max_size=4, unique=True))
    modes = data.draw(st.sampled_from([("RGB",), ("L",), ("RGB", "P", "RGBA"), ("L", "1", "LA")]))
    number = st.integers(2, 5)
    by_metadata = data.draw(st.booleans())  # instead of class folders
    if data.draw(st.booleans()):  # two splits
        train, test = data.draw(st.sampled_from([("train", "test"), ("Training", "EVAL"), ("TRAIN", "testing")]))
        wrapping = data.draw(st.sampled_from(["", "data/", "all of it/"]))
        tested = data.draw(st.lists(st.sampled_from(WORDS), min_size=1, max_size=3, unique=True))
        numbers = {f"{wrapping}{train}/{name}": data.draw(number) + 2 for name in classes}
        numbers |= {f"{wrapping}{test}/{name}": data.draw(number) for name in tested}
        written = write_images(folder, numbers, modes=modes)
        if by_metadata:
            for split in (train, test):
                move_classes_to_metadata(folder / wrapping / split)
        if unknown := sorted(set(tested).difference(classes)):
            with config_error("without training images", *unknown):
                held_by_clients(DataSpec(str(folder)))
            return
        held = held_by_clients(DataSpec(str(folder)))
        assert held["train"] == on_disk(written, train)
        assert held["test"] == on_disk(written, test)
    else:
        written = write_images(folder, {name: data.draw(number) + 6 for name in classes}, modes=modes)
        spec = DataSpec(str(folder), test_fraction=0.3)
        if by_metadata:
            move_classes_to_metadata(folder)
        elif all(map(split_of, classes)):
            with config_error("nothing in them says the class", classes[0]):
                open_dataset(spec)
            return
        held = held_by_clients(spec)
        assert held["train"] + held["test"] == on_disk(written)


def test_images_of_several_modes_are_read_alike(tmp_path):
    for split in SPLITS:
        for mode in ("RGB", "P", "RGBA", "CMYK"):
            place = tmp_path / split / mode
            place.mkdir(parents=True)
            for index in range(4):
                PIL.Image.new("RGB", (16, 16), (index, 50, 200)).convert(mode).save(
                    place / f"{index}.{'tiff' if mode == 'CMYK' else 'png'}"
                )
    held = held_by_clients(DataSpec(str(tmp_path)))
    assert Counter(name for name, _ in held["train"].elements()) == dict.fromkeys(("RGB", "P", "RGBA", "CMYK"), 4)


def test_the_class_of_an_image_in_a_folder_within_its_class_folder_is_the_class_folder(tmp_path):
    """As in Tiny ImageNet: train/n01443537/images/n01443537_0.JPEG."""
    write_images(tmp_path, {f"{split}/{name}/images": 5 for split in SPLITS for name in ("n01", "n02")})
    assert open_dataset(DataSpec(str(tmp_path))).class_names == ("n01", "n02")


def test_an_owner_may_have_one_class(tmp_path):
    write_images(tmp_path, {"dog": 10})
    dataset = open_dataset(DataSpec(str(tmp_path), test_fraction=0.2))
    assert dataset.class_names == ("dog",)


def test_hidden_files_are_nothing_and_other_files_are_said_to_be_left_out(tmp_path):
    write_images(tmp_path, {f"{split}/cat": 4 for split in SPLITS} | {"validation/cat": 3, ".cache/train": 2})
    for name in ("README.md", "train/.DS_Store", "train/cat/notes.txt", "test/Thumbs.db"):
        (tmp_path / name).write_text("")
    dataset = open_dataset(DataSpec(str(tmp_path)))
    assert len(dataset.labels["train"]) == len(dataset.labels["test"]) == 4
    assert dataset.notes == (
        "2 files left out, not named like an image: README.md, train/cat/notes.txt",
        "The 3 images of the split validation are left out",
        "All images are of one class, cat",
    )


@pytest.mark.parametrize(
    ("numbers", "named"),
    [
        ({"": 4}, ["is in no class folder, 0.png"]),
        ({"train/cat": 4, "test/cat": 4, "train": 1}, ["is in no class folder, train/0.png"]),
        ({"train/cat": 4, "test/cat": 4, "": 1}, ["splits test, train", "images in none of them"]),
        ({"train/cat": 4, "test/cat": 4, "extra/cat": 1}, ["splits test, train", "beside them extra"]),
        ({"train/cat": 4, "test": 4}, ["splits train", "beside them test"]),
        ({"train/cat": 4, "Training/cat": 4}, ["several folders of the train split: Training, train"]),
        ({"train": 4, "test": 4}, ["folders test, train", "nothing in them says the class"]),
        ({"train/pets/cat": 4, "train/pets/dog": 4}, ["class folder train/pets", "train/pets/cat, train/pets/dog"]),
        ({"train/cat": 4, "test/dog": 4}, ["4 test images of classes without training images (dog)"]),
    ],
)
def test_a_layout_that_is_not_clear_is_refused_with_what_is_there(tmp_path, numbers, named):
    write_images(tmp_path, numbers)
    with config_error(*named):
        held_by_clients(DataSpec(str(tmp_path)))


@pytest.mark.parametrize(
    ("files", "named"),
    [
        (["train.zip", "test.zip"], [".zip", "unpack the archives"]),
        (["train/cat/0.heic"], [".heic", ".png"]),
        (["train.csv"], ["neither parquet files nor images", ".csv"]),
    ],
)
def test_a_folder_of_other_files_is_refused_with_their_kinds(tmp_path, files, named):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"PK")
    with config_error(*named):
        open_dataset(DataSpec(str(tmp_path)))


def test_parquet_files_and_images_are_not_mixed(tmp_path):
    write_folder(tmp_path)
    write_images(tmp_path, {"train/cat": 1})
    with config_error("test.parquet", "train/cat/0.png", "only one kind"):
        open_dataset(DataSpec(str(tmp_path)))


def test_a_folder_that_is_all_there_is_is_looked_through(tmp_path):
    written = write_images(tmp_path, {f"a/b/{split}/{name}": 4 for split in SPLITS for name in ("cat", "dog")})
    assert held_by_clients(DataSpec(str(tmp_path)))["test"] == on_disk(written, "test")


def test_names_of_sets_are_splits_too(tmp_path):
    write_images(tmp_path, {f"{split}/cat": 4 for split in ("training_set", "Test-Set")})
    dataset = open_dataset(DataSpec(str(tmp_path)))
    assert {split: len(dataset.labels[split]) for split in SPLITS} == {"train": 4, "test": 4}


def test_a_single_class_is_said(tmp_path):
    """As in a layout for detection: train/images/1.png, with the labels elsewhere."""
    write_images(tmp_path, {f"{split}/images": 4 for split in SPLITS})
    assert open_dataset(DataSpec(str(tmp_path))).notes == ("All images are of one class, images",)


def test_a_class_may_begin_with_underscores_and_what_systems_add_may_not(tmp_path):
    write_images(tmp_path, {f"{split}/{name}": 4 for split in SPLITS for name in ("__other__", "cat")})
    write_images(tmp_path, {"__MACOSX/train/cat": 1})
    assert open_dataset(DataSpec(str(tmp_path))).class_names == ("__other__", "cat")


def test_accents_of_two_encodings_are_one_class(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    write_images(tmp_path, {f"train/{composed}": 4, f"test/{decomposed}": 4})
    assert open_dataset(DataSpec(str(tmp_path))).class_names == (composed,)


def test_a_name_that_is_not_utf8_is_named(tmp_path):
    write_images(tmp_path, {f"{split}/cat": 4 for split in SPLITS})
    (tmp_path / "train" / "cat" / "0.png").rename(os.fsdecode(os.fsencode(tmp_path / "train/cat") + b"/caf\xe9.png"))
    with config_error("not in UTF-8", "udce9", "rename"):
        open_dataset(DataSpec(str(tmp_path)))


def test_the_same_folder_may_be_behind_several_links(tmp_path):
    write_images(tmp_path / "pool", {"cat": 4, "dog": 3})
    for split in SPLITS:
        (tmp_path / "pets" / split).mkdir(parents=True)
        for name in ("cat", "dog"):
            (tmp_path / "pets" / split / name).symlink_to(tmp_path / "pool" / name)
    dataset = open_dataset(DataSpec(str(tmp_path / "pets")))
    assert count_classes(dataset, "train") == count_classes(dataset, "test") == {"cat": 4, "dog": 3}


def test_files_behind_a_link_that_have_changed_are_read_again(tmp_path):
    write_images(tmp_path / "real", {f"{split}/cat": 4 for split in SPLITS})
    (tmp_path / "linked").mkdir()
    for split in SPLITS:
        (tmp_path / "linked" / split).symlink_to(tmp_path / "real" / split)
    assert len(open_dataset(DataSpec(str(tmp_path / "linked"))).labels["train"]) == 4
    write_images(tmp_path / "real", {"train/dog": 5})
    open_dataset.cache_clear()
    assert len(open_dataset(DataSpec(str(tmp_path / "linked"))).labels["train"]) == 9


# Metadata files


def write_metadata(folder, rows, name="metadata.csv"):
    """Write a metadata file from rows like {"file_name": …, "kind": …}."""
    if name.endswith(".csv"):
        with (folder / name).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([list(rows[0]), *(list(row.values()) for row in rows)])
    elif name.endswith(".jsonl"):
        (folder / name).write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    else:
        Dataset.from_list(rows).to_parquet(folder / name)


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl", "metadata.parquet"])
def test_metadata_say_the_class_of_each_image(tmp_path, name):
    written = write_images(tmp_path, {"Train": 6, "Test": 4})
    for split in ("Train", "Test"):
        rows = [{"file_name": f"{i}.png", "kind": ("dog", "cat")[i % 2]} for i in range(len(written[split]))]
        write_metadata(tmp_path / split, rows, name)
    held = held_by_clients(DataSpec(str(tmp_path)))
    assert held["train"] == Counter((("dog", "cat")[i % 2], pixels) for i, pixels in enumerate(written["Train"]))
    assert held["test"] == Counter((("dog", "cat")[i % 2], pixels) for i, pixels in enumerate(written["Test"]))


def test_one_metadata_file_may_list_the_images_of_all_splits(tmp_path):
    written = write_images(tmp_path, {"train": 6, "test": 4})
    rows = [
        {"file_name": f"{split}/{i}.png", "kind": ("dog", "cat")[i % 2], "owner": i // 3}
        for split in written
        for i in range(len(written[split]))
    ]
    write_metadata(tmp_path, rows)
    dataset = open_dataset(DataSpec(str(tmp_path), "image", "kind", "owner"))
    assert {split: len(dataset.labels[split]) for split in SPLITS} == {"train": 6, "test": 4}
    assert dataset.owners["train"].tolist() == [0, 0, 0, 1, 1, 1]


def test_images_that_no_metadata_list_are_left_out_and_counted(tmp_path):
    write_images(tmp_path, {"train": 6, "test": 4})
    for split, number in (("train", 4), ("test", 4)):
        write_metadata(tmp_path / split, [{"file_name": f"{i}.png", "kind": i % 2} for i in range(number)])
    dataset = open_dataset(DataSpec(str(tmp_path)))
    assert len(dataset.labels["train"]) == 4
    assert dataset.notes == ("2 images left out, which no metadata file lists: train/4.png, train/5.png",)


def test_labels_in_csv_are_texts_unless_all_are_integers(tmp_path):
    written = write_images(tmp_path, {"train": 4, "test": 4})
    for labels, names in (
        (["007", "7", "7", "007"], ("007", "7")),
        (["true", "false", "NA", "1.0"], ("1.0", "NA", "false", "true")),
        (["3", "3", "20", "20"], (3, 20)),
    ):
        for split in written:
            write_metadata(tmp_path / split, [{"file_name": f"{i}.png", "kind": labels[i]} for i in range(4)])
        open_dataset.cache_clear()
        dataset = open_dataset(DataSpec(str(tmp_path)))
        assert dataset.class_names == names
        assert [str(names[label]) for label in dataset.labels["train"]] == labels


def test_metadata_written_on_another_system_are_read(tmp_path):
    """With backslashes, a byte-order mark and decomposed accents."""
    write_images(tmp_path, {"train/café": 2, "test/café": 2})
    for split in SPLITS:
        name = unicodedata.normalize("NFD", "café")
        rows = [{"file_name": f"{name}\\{i}.png", "kind": i} for i in range(2)]
        write_metadata(tmp_path / split, rows)
        text = (tmp_path / split / "metadata.csv").read_text(encoding="utf-8")
        (tmp_path / split / "metadata.csv").write_text(text, encoding="utf-8-sig")
    assert open_dataset(DataSpec(str(tmp_path))).labels["test"].tolist() == [0, 1]


def test_metadata_in_the_only_folder_are_read(tmp_path):
    write_images(tmp_path, {"images": 10})
    write_metadata(
        tmp_path / "images", [{"file_name": f"{i}.png", "kind": "cat" if i % 2 else "dog"} for i in range(10)]
    )
    assert open_dataset(DataSpec(str(tmp_path), test_fraction=0.2)).class_names == ("cat", "dog")


@pytest.mark.parametrize(
    ("numbers", "metadata", "named"),
    [
        ({"train": 4, "test": 4, "extra": 1}, "", ["splits test, train", "beside them extra"]),
        ({"train/cat": 4, "test/cat": 4}, "train/cat", ["where they are not looked for", "train/cat/metadata.csv"]),
        ({"train/images": 4, "test/images": 4}, "train/images", ["not looked for", "train/images/metadata.csv"]),
    ],
)
def test_metadata_that_are_not_clear_are_refused(tmp_path, numbers, metadata, named):
    write_images(tmp_path, numbers)
    images = sorted((tmp_path / metadata).rglob("*.png"))
    rows = [{"file_name": image.relative_to(tmp_path / metadata), "kind": 0} for image in images]
    write_metadata(tmp_path / metadata, rows)
    with config_error(*named):
        open_dataset(DataSpec(str(tmp_path)))


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ([{"file_name": "0.png"}], ["no column besides file_name"]),
        ([{"file_name": "0.png", "image": "1.png", "kind": 0}], ["column image", "rename"]),
        ([{"file_name": "0.png", "split": "train", "kind": 0}], ["column split", "folders say the split"]),
        ([{"file_name": "0.png", "kind": ""}], ["an empty label", "row 0 of its train split"]),
        ([{"file_name": "9.png", "kind": 0}], ["metadata.csv", "lists 9.png", "no such images"]),
        ([{"file_name": "0.png", "kind": 0}] * 2, ["twice", "0.png"]),
        ([{"image": "0.png", "kind": 0}], ["metadata.csv without a column file_name", "image, kind"]),
    ],
)
def test_metadata_that_do_not_fit_are_refused(tmp_path, rows, named):
    write_images(tmp_path, {"train": 4, "test": 4})
    for split in SPLITS:
        write_metadata(tmp_path / split, rows)
    with config_error(*named):
        open_dataset(DataSpec(str(tmp_path)))


@pytest.mark.parametrize(("name", "content"), [("csv", ""), ("csv", "\n"), ("csv", "file_name,kind\n"), ("jsonl", "")])
def test_metadata_that_list_no_images_are_refused(tmp_path, name, content):
    write_images(tmp_path, {"train": 4, "test": 4})
    for split in SPLITS:
        (tmp_path / split / f"metadata.{name}").write_text(content)
    with config_error(f"metadata.{name}", "lists no images"):
        open_dataset(DataSpec(str(tmp_path)))


# Parquet files and saved datasets


def write_parquet(path, labels, feature=None, image=None):
    """Write random images with these labels into a parquet file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    features = Features({"image": image or Image(), "label": feature or ClassLabel(names=["cat", "dog"])})
    images = list(RNG.integers(0, 256, (len(labels), 16, 16, 3), dtype=np.uint8))
    rows = Dataset.from_dict({"image": images, "label": labels}, features=features)
    pyarrow.parquet.write_table(rows.data.table, path)


@pytest.mark.parametrize(
    ("train", "test"),
    [
        (["train-00000-of-00002", "train-00001-of-00002"], ["test-00000-of-00001"]),
        (["default/train/0000", "default/train/0001"], ["default/test/0000"]),
        (["data/Training_1", "data/Training_2"], ["data/my-eval"]),
        (["bullet_train"], ["bullet_test"]),
    ],
)
def test_the_names_of_parquet_files_or_of_their_folders_say_the_split(tmp_path, train, test):
    folder = tmp_path / "latest [1] train"  # not what is above the dataset
    for name in train:
        write_parquet(folder / f"{name}.parquet", [0, 1, 1])
    for name in test:
        write_parquet(folder / f"{name}.parquet", [1, 0])
    dataset = open_dataset(DataSpec(str(folder)))
    assert dataset.labels["train"].tolist() == [0, 1, 1] * len(train)
    assert dataset.labels["test"].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("files", "named"),
    [
        (["train_test", "test"], ["train_test.parquet", "several splits"]),
        (["train", "test", "eval"], ["several names for the test split", "eval.parquet, test.parquet"]),
        (["small/train", "small/test", "big/train", "big/test"], ["split in several folders: big, small"]),
    ],
)
def test_parquet_files_whose_split_is_not_clear_are_refused(tmp_path, files, named):
    for name in files:
        write_parquet(tmp_path / f"{name}.parquet", [0, 1])
    with config_error(*named):
        open_dataset(DataSpec(str(tmp_path)))


def test_a_word_in_the_middle_of_a_name_says_the_split(tmp_path):
    for split, labels in (("train", [0, 1, 1]), ("test", [1, 0])):
        write_parquet(tmp_path / f"pets_{split}_v2.parquet", labels)
    dataset = open_dataset(DataSpec(str(tmp_path)))
    assert {split: len(dataset.labels[split]) for split in SPLITS} == {"train": 3, "test": 2}


@pytest.mark.parametrize("other", [Value("string"), Value("int32")])
def test_files_of_a_split_may_write_labels_in_two_types(tmp_path, other):
    texts = other == Value("string")
    write_parquet(tmp_path / "train-0.parquet", [0, 1], feature=None if texts else Value("int64"))
    write_parquet(tmp_path / "train-1.parquet", ["dog", "emu"] if texts else [1, 2], feature=other)
    write_parquet(tmp_path / "test.parquet", ["dog"] if texts else [1], feature=other)
    dataset = open_dataset(DataSpec(str(tmp_path)))
    names = ("cat", "dog", "emu") if texts else (0, 1, 2)
    assert [dataset.class_names[label] for label in dataset.labels["train"]] == [names[i] for i in (0, 1, 1, 2)]


def test_parquet_files_without_a_split_among_others_are_refused(tmp_path):
    for name in ("harbour", "bullet_train"):
        write_parquet(tmp_path / f"{name}.parquet", [0, 1])
    with config_error("to which split they belong: harbour.parquet"):
        open_dataset(DataSpec(str(tmp_path)))


def test_parquet_files_without_splits_are_all_for_training(tmp_path):
    for name in ("harbour", "airport"):
        write_parquet(tmp_path / f"{name}.parquet", [0, 1] * 5)
    dataset = open_dataset(DataSpec(str(tmp_path), test_fraction=0.2))
    assert {split: len(dataset.labels[split]) for split in SPLITS} == {"train": 16, "test": 4}


def test_parquet_files_of_a_split_must_have_the_same_columns(tmp_path):
    write_parquet(tmp_path / "train-0.parquet", [0, 1])
    write_folder(tmp_path / "other")
    (tmp_path / "other" / "train.parquet").rename(tmp_path / "train-1.parquet")
    (tmp_path / "other" / "test.parquet").rename(tmp_path / "test.parquet")
    with config_error("train-0.parquet has image, label", "train-1.parquet has kind, picture"):
        open_dataset(DataSpec(str(tmp_path)))


def test_the_bytes_of_image_files_are_images(tmp_path):
    written = write_images(tmp_path / "png", {"cat": 4})["cat"]
    cells = [(tmp_path / "png" / "cat" / f"{i}.png").read_bytes() for i in range(4)]
    folder = tmp_path / "bytes"
    folder.mkdir()
    for split in SPLITS:
        features = Features({"image": Value("binary"), "label": Value("int64")})
        Dataset.from_dict({"image": cells, "label": [0, 1] * 2}, features=features).to_parquet(
            folder / f"{split}.parquet"
        )
    dataset = open_dataset(DataSpec(str(folder)))
    assert [image.tobytes() for image in dataset.images["train"]] == written


def test_an_empty_split_is_named(tmp_path):
    write_parquet(tmp_path / "parquet" / "train.parquet", [0, 1])
    write_parquet(tmp_path / "parquet" / "test.parquet", [])
    write_images(tmp_path / "images", {"train/cat": 2, "test": 0})
    for name in ("parquet", "images"):
        with config_error("no images in its test split", "test-fraction"):
            open_dataset(DataSpec(str(tmp_path / name)))


def test_a_saved_dataset_is_read(tmp_path):
    write_folder(tmp_path / "pets")
    splits = {split: Dataset.from_parquet(str(tmp_path / "pets" / f"{split}.parquet")) for split in SPLITS}
    DatasetDict(splits).save_to_disk(tmp_path / "saved")
    saved, parquet = (open_dataset(DataSpec(str(tmp_path / name))) for name in ("saved", "pets"))
    assert np.array_equal(saved.images["train"], parquet.images["train"])
    assert saved.class_names == parquet.class_names


def test_what_flower_datasets_creates_for_each_owner_is_read(tmp_path):
    write_folder(tmp_path / "pets", splits=("train",), num=40)
    create(str(tmp_path / "pets"), num_partitions=2, out_dir=tmp_path / "owners")
    owners = [open_dataset(DataSpec(str(tmp_path / "owners" / f"partition_{n}"), test_fraction=0.25)) for n in (0, 1)]
    assert [len(owner.labels[split]) for owner in owners for split in SPLITS] == [15, 5, 15, 5]
    assert {owner.class_names for owner in owners} == {("c0", "c1", "c2", "c3")}


def test_a_damaged_saved_dataset_is_named(tmp_path):
    write_folder(tmp_path / "pets")
    Dataset.from_parquet(str(tmp_path / "pets" / "train.parquet")).save_to_disk(tmp_path / "saved")
    for file in (tmp_path / "saved").glob("*.arrow"):
        file.write_bytes(b"no arrow")
    with config_error("was saved by the library datasets, but cannot be read", tmp_path / "saved"):
        open_dataset(DataSpec(str(tmp_path / "saved"), test_fraction=0.5))


def test_a_link_to_a_folder_is_followed_once(tmp_path):
    write_images(tmp_path / "real", {f"{split}/cat": 3 for split in SPLITS})
    (tmp_path / "linked").mkdir()
    for split in SPLITS:
        (tmp_path / "linked" / split).symlink_to(tmp_path / "real" / split)
    (tmp_path / "real" / "train" / "cat" / "loop").symlink_to(tmp_path / "real" / "train")
    assert len(open_dataset(DataSpec(str(tmp_path / "linked"))).labels["train"]) == 3


def test_any_other_error_of_reading_is_not_hidden(tmp_path):
    write_parquet(tmp_path / "train.parquet", [0, 1])
    write_parquet(tmp_path / "test.parquet", [0, 1], feature=Value("float64"))
    with pytest.raises(ConfigError, match="class labels, texts or integers"):
        open_dataset(DataSpec(str(tmp_path)))
