"""Loading, decoding, partitioning and augmenting; and what is said of data that cannot be used."""

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value
from torchvision.transforms import functional as tvf

from fedbabu.data import BatchTransform, client_examples, open_dataset, open_partition, whole_dataset
from fedbabu.data.cache import build_once, cache_dir
from fedbabu.errors import ConfigError

RNG = np.random.default_rng(0)


def write_folder(folder, splits=("train", "test"), classes=4, size=(20, 16), num=40, channels=3, labels=None):
    """A local dataset: `num` random images a split with the columns `picture` and `kind`.

    The classes have names and take turns, unless `labels` gives them as plain integers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kind = Value("int64") if labels else ClassLabel(names=[f"c{i}" for i in range(classes)])
    features = Features({"picture": Image(), "kind": kind})
    written = {}
    for split in splits:
        pixels = RNG.integers(0, 256, (num, *size, channels), dtype=np.uint8)
        images = [p if channels == 3 else p[..., 0] for p in pixels]
        kinds = labels or [i % classes for i in range(num)]
        data = Dataset.from_dict({"picture": images, "kind": kinds}, features=features)
        data.to_parquet(folder / f"{split}.parquet")
        written[split] = pixels, np.array(kinds)
    return written


@pytest.fixture
def folder(tmp_path):
    write_folder(tmp_path / "pets")
    return str(tmp_path / "pets")


def test_a_local_folder_is_decoded_exactly(tmp_path):
    written = write_folder(tmp_path / "pets")
    dataset = open_dataset(str(tmp_path / "pets"), "picture", "kind")
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
    written = write_folder(tmp_path / "gray", channels=1)
    dataset = open_dataset(str(tmp_path / "gray"), "picture", "kind")
    assert dataset.image_shape == (1, 20, 16)
    assert np.array_equal(dataset.images["test"], written["test"][0])


def test_images_are_decoded_once_and_again_when_the_files_change(tmp_path):
    write_folder(tmp_path / "pets")
    name = str(tmp_path / "pets")
    first = open_dataset(name, "picture", "kind")
    open_dataset.cache_clear()
    assert open_dataset(name, "picture", "kind").folder == first.folder
    changed = write_folder(tmp_path / "pets", num=44)
    open_dataset.cache_clear()
    second = open_dataset(name, "picture", "kind")
    assert second.folder != first.folder
    assert np.array_equal(second.images["train"], changed["train"][0])


def test_a_copy_of_cifar10_is_recognized_by_its_columns_and_classes(tmp_path):
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    features = Features({"img": Image(), "label": ClassLabel(names=names)})
    for split in ("train", "test"):
        images = list(RNG.integers(0, 256, (10, 32, 32, 3), dtype=np.uint8))
        data = Dataset.from_dict({"img": images, "label": list(range(10))}, features=features)
        data.to_parquet(tmp_path / f"{split}.parquet")
    dataset = open_dataset(str(tmp_path))
    assert dataset.name == "cifar10"
    assert tuple(dataset.transform.mean) == (0.485, 0.456, 0.406)


def test_only_a_copy_with_its_own_columns_is_recognized(tmp_path):
    names = [str(digit) for digit in range(10)]
    features = Features({"image": Image(), "label": ClassLabel(names=names)})
    for split in ("train", "test"):
        images = list(RNG.integers(0, 256, (10, 28, 28), dtype=np.uint8))
        data = Dataset.from_dict({"image": images, "label": list(range(10))}, features=features)
        data.to_parquet(tmp_path / f"{split}.parquet")
    # MNIST has the columns and classes of scikit-learn's digits and is another dataset.
    assert open_dataset(str(tmp_path), "image", "label").name == str(tmp_path)


def test_nothing_half_built_stays_behind_an_error(folder):
    before = set(cache_dir().iterdir()) if cache_dir().exists() else set()
    with pytest.raises(ConfigError):
        open_dataset(folder, "nothing", "kind")
    assert {path.suffix for path in set(cache_dir().iterdir()) - before} <= {".lock"}


@pytest.mark.parametrize(
    ("image_column", "label_column", "sentence"),
    [
        ("", "", "needs image-column and label-column to be set: the train split's columns are picture, kind."),
        ("picture", "", "has no label-column = '': the train split's columns are picture, kind."),
        ("photo", "kind", "has no image-column = 'photo': the train split's columns are picture, kind."),
        ("picture", "label", "has no label-column = 'label': the train split's columns are picture, kind."),
        ("kind", "kind", "image-column = 'kind' of .* holds no images"),
        ("picture", "picture", "label-column = 'picture' of .* must hold class labels or integers"),
    ],
)
def test_wrong_columns_are_named_with_those_there_are(folder, image_column, label_column, sentence):
    with pytest.raises(ConfigError, match=sentence):
        open_dataset(folder, image_column, label_column)


def test_a_missing_folder(tmp_path):
    with pytest.raises(ConfigError, match=f"is a folder that does not exist.*{tmp_path}/nowhere"):
        open_dataset(str(tmp_path / "nowhere"))


def test_a_missing_split(tmp_path):
    write_folder(tmp_path / "pets", splits=("train",))
    with pytest.raises(ConfigError, match="'test' is not present in the dataset's splits: '\\['train'\\]'"):
        open_dataset(str(tmp_path / "pets"), "picture", "kind")


def test_images_of_several_sizes(tmp_path):
    images = [np.zeros((16, 16, 3), np.uint8), np.zeros((16, 17, 3), np.uint8)]
    features = Features({"picture": Image(), "kind": ClassLabel(names=["a", "b"])})
    for split in ("train", "test"):
        data = Dataset.from_dict({"picture": images, "kind": [0, 1]}, features=features)
        data.to_parquet(tmp_path / f"{split}.parquet")
    with pytest.raises(
        ConfigError, match="row 1 of its train split has 17×16 pixels and the first training image 16×16"
    ):
        open_dataset(str(tmp_path), "picture", "kind")


def test_train_and_test_images_of_different_sizes(tmp_path):
    write_folder(tmp_path, splits=("train",), size=(20, 16))
    write_folder(tmp_path, splits=("test",), size=(16, 16))
    with pytest.raises(
        ConfigError, match="row 0 of its test split has 16×16 pixels and the first training image 16×20"
    ):
        open_dataset(str(tmp_path), "picture", "kind")


def test_a_negative_label(tmp_path):
    write_folder(tmp_path, splits=("train",), num=4, labels=[0, 1, 2, 3])
    write_folder(tmp_path, splits=("test",), num=2, labels=[0, -1])
    with pytest.raises(ConfigError, match="label -1 in row 1 of its test split: labels must be from 0 to 3"):
        open_dataset(str(tmp_path), "picture", "kind")


def test_an_image_that_cannot_be_decoded(tmp_path):
    write_folder(tmp_path)
    features = Features({"picture": Image(), "kind": ClassLabel(names=[f"c{i}" for i in range(4)])})
    good = Dataset.from_parquet(str(tmp_path / "test.parquet")).cast_column("picture", Image(decode=False))
    for broken in (
        {"bytes": b"no image", "path": None},
        {"bytes": good[0]["picture"]["bytes"][:-200], "path": None},
        None,
    ):
        cells = [good[0]["picture"], broken]
        Dataset.from_dict({"picture": cells, "kind": [0, 1]}, features=features).to_parquet(tmp_path / "test.parquet")
        with pytest.raises(ConfigError, match="has no image that can be decoded in row 1 of its test split"):
            open_dataset(str(tmp_path), "picture", "kind")


@pytest.mark.parametrize("content", [None, b"PAR1 and then nothing of the kind"])
def test_a_folder_without_data_is_not_taken_for_an_unreachable_hub(tmp_path, content):
    if content:
        (tmp_path / "train.parquet").write_bytes(content)
    with pytest.raises(ConfigError, match=f"dataset = '{tmp_path}' cannot be used: ") as error:
        open_dataset(str(tmp_path), "picture", "kind")
    assert "Hub cannot be reached" not in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dataset", ["cifar10", "someone/some-pictures"])
def test_when_the_hub_is_out_of_reach_both_ways_on_are_named(dataset):
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    with pytest.raises(ConfigError) as error:
        open_dataset(dataset)
    sentence = str(error.value)
    assert "The Hub cannot be reached" in sentence
    assert "dataset='/path/to/" in sentence
    assert "conf/quickstart.toml" in sentence
    assert str(Path(dataset).absolute()) in sentence


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FEDBABU_CACHE", str(tmp_path / "file" / "cache"))
    write_folder(tmp_path / "pets")
    with pytest.raises(ConfigError, match=r"/file/cache, cannot be written .* environment variable FEDBABU_CACHE"):
        open_dataset(str(tmp_path / "pets"), "picture", "kind")


def test_what_a_killed_process_left_is_cleared_away(tmp_path):
    write_folder(tmp_path / "pets")
    name = str(tmp_path / "pets")
    entry = open_dataset(name, "picture", "kind").folder
    leftover = entry.with_name(f".{entry.name}.building")
    entry.rename(leftover)
    (leftover / "train-images.npy").write_bytes(b"half")
    open_dataset.cache_clear()
    assert len(open_dataset(name, "picture", "kind").images["train"]) == 40
    assert not leftover.exists()


def test_whoever_waits_for_a_build_does_not_build_again(tmp_path):
    builds = []

    def build(path):
        builds.append(path)
        time.sleep(0.3)
        path.write_text("whole")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: build_once(tmp_path / "entry", build), range(4)))
    assert len(builds) == 1
    assert (tmp_path / "entry").read_text() == "whole"


def test_two_processes_build_an_entry_once(tmp_path):
    """Both ask at once; the one that waits finds what the other made."""
    write_folder(tmp_path / "pets", num=400)
    code = (
        "import sys; from fedbabu.data import open_dataset; print(open_dataset(sys.argv[1], 'picture', 'kind').folder)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "pets")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    folders = {process.communicate(timeout=120)[0].strip() for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert len(folders) == 1
    assert Path(folders.pop(), "meta.json").exists()


def test_digits_are_balanced():
    dataset = open_dataset("digits")
    assert dataset.image_shape == (1, 16, 16)
    assert np.array_equal(np.bincount(dataset.labels["train"]), [144] * 10)
    assert np.array_equal(np.bincount(dataset.labels["test"]), [30] * 10)
    assert dataset.images["train"].max() == 255


@pytest.mark.parametrize(("num_clients", "shards"), [(10, 2), (20, 2), (8, 2), (7, 3), (30, 1), (5, 10)])
def test_clients_test_on_the_classes_they_train_on(num_clients, shards):
    dataset = open_dataset("digits")
    partition = open_partition(dataset, num_clients, shards, seed=3)
    held = {split: np.concatenate(list(partition.rows[split].values())) for split in ("train", "test")}
    assert len(np.unique(held["train"])) == len(held["train"]) == 1440 // (num_clients * shards) * num_clients * shards
    assert sorted(held["test"]) == list(range(300))
    for client in partition.clients:
        classes = {split: set(dataset.labels[split][partition.rows[split][client]]) for split in ("train", "test")}
        assert classes["train"] == classes["test"]


def test_shards_hold_one_class_each_and_clients_are_of_one_size():
    dataset = open_dataset("digits")
    partition = open_partition(dataset, 15, 2, seed=0)
    for client in partition.clients:
        counts = np.bincount(dataset.labels["train"][partition.rows["train"][client]], minlength=10)
        assert set(counts) <= {0, 48, 96}
        tests = np.bincount(dataset.labels["test"][partition.rows["test"][client]], minlength=10)
        assert np.array_equal(tests * 48, counts * 10)


def test_the_seed_decides_the_partition():
    dataset = open_dataset("digits")
    one, again, other = (open_partition(dataset, 10, 2, seed).rows["train"][0] for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_too_many_shards_or_clients():
    dataset = open_dataset("digits")
    with pytest.raises(ConfigError, match="shards-per-client = 11 is more than the labels allow: 'digits' has 10"):
        open_partition(dataset, 10, 11, seed=0)
    with pytest.raises(ConfigError, match=r"num-clients = 2000 .* has only 1440 train images: .* from 1 to 720"):
        open_partition(dataset, 2000, 2, seed=0)
    with pytest.raises(ConfigError, match=r"num-clients = 200 .* has only 300 test images: .* from 1 to 150"):
        open_partition(dataset, 200, 2, seed=0)


def test_an_owner_keeps_its_whole_dataset_in_random_order():
    partition = whole_dataset(open_dataset("digits"), client=5, seed=1)
    assert partition.clients == [5]
    for split, n in (("train", 1440), ("test", 300)):
        assert np.array_equal(np.sort(partition.rows[split][5]), np.arange(n))
        assert not np.array_equal(partition.rows[split][5], np.arange(n))


def test_augmentation_is_torchvisions_crop_and_flip_of_each_image():
    transform = BatchTransform((0.5, 0.4, 0.3), (0.2, 0.3, 0.4), crop_padding=4, flip=True)
    images = torch.from_numpy(RNG.integers(0, 256, (64, 3, 32, 24), dtype=np.uint8))
    got = transform.augment(images, torch.Generator().manual_seed(5))
    draws = torch.Generator().manual_seed(5)
    offsets = torch.randint(9, (2, 64), generator=draws)
    flips = torch.randint(2, (64, 1, 1, 1), generator=draws)
    for index, image in enumerate(images):
        padded = tvf.pad(image, [4])
        expected = tvf.crop(padded, int(offsets[0, index]), int(offsets[1, index]), 32, 24)
        expected = tvf.hflip(expected) if flips[index] else expected
        expected = tvf.normalize(expected / 255, transform.mean, transform.std)
        torch.testing.assert_close(got[index], expected)
    assert set(flips.flatten().tolist()) == {0, 1}
    assert set(offsets.flatten().tolist()) == set(range(9))
    assert got.is_contiguous(memory_format=torch.channels_last)


def test_without_augmentation_images_are_only_normalized():
    transform = BatchTransform((0.5,), (0.5,), crop_padding=0, flip=False)
    images = torch.from_numpy(RNG.integers(0, 256, (8, 1, 16, 16), dtype=np.uint8))
    torch.testing.assert_close(transform.augment(images, torch.Generator()), images / 127.5 - 1)


def test_client_examples_are_the_asked_rows_in_order():
    dataset = open_dataset("digits")
    rows = np.array([7, 3, 11])
    examples = client_examples(dataset.images["train"], dataset.labels["train"], rows, torch.device("cpu"))
    assert examples.images.shape == (3, 1, 16, 16)
    assert np.array_equal(examples.images[1, 0], dataset.images["train"][3, :, :, 0])
    assert examples.labels.tolist() == dataset.labels["train"][rows].tolist()


def test_meta_is_plain_json():
    meta = json.loads((open_dataset("digits").folder / "meta.json").read_text())
    assert meta["name"] == "digits"


@pytest.mark.parametrize("num_clients", [1, 7, 40, 150])
def test_an_iid_test_set_is_spread_evenly(num_clients):
    dataset = open_dataset("digits")
    rows = open_partition(dataset, num_clients, 2, 0, iid_test_set=True).rows
    plain = open_partition(dataset, num_clients, 2, 0).rows
    assert sorted(np.concatenate(list(rows["test"].values()))) == list(range(300))
    assert np.ptp([len(own) for own in rows["test"].values()]) <= 1
    counts = np.stack([np.bincount(dataset.labels["test"][own], minlength=10) for own in rows["test"].values()])
    assert np.ptp(counts, axis=0).max() <= 1
    assert all(np.array_equal(rows["train"][client], plain["train"][client]) for client in plain["train"])
