"""Loading, decoding, partitioning and augmenting; and what is said of data that cannot be used."""

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value
from pictures import KNOWN, RNG, write_known
from torchvision.transforms import functional as tvf

from fedbabu.data import BatchTransform, DataSpec, client_examples, open_dataset, whole_dataset
from fedbabu.data.cache import cache_dir, cached
from fedbabu.data.known import KNOWN_DATASETS
from fedbabu.errors import ConfigError


def write_folder(folder, splits=("train", "test"), classes=4, size=(20, 16), num=40, channels=3, labels=None, **more):
    """A local dataset: `num` random images a split with the columns `picture` and `kind`, and more of integers.

    The classes have names and take turns, unless `labels` gives them as plain integers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kind = Value("int64") if labels else ClassLabel(names=[f"c{i}" for i in range(classes)])
    features = Features({"picture": Image(), "kind": kind} | {column: Value("int64") for column in more})
    written = {}
    for split in splits:
        pixels = RNG.integers(0, 256, (num, *size, channels), dtype=np.uint8)
        images = [p if channels == 3 else p[..., 0] for p in pixels]
        kinds = labels or [i % classes for i in range(num)]
        data = Dataset.from_dict({"picture": images, "kind": kinds} | more, features=features)
        data.to_parquet(folder / f"{split}.parquet")
        written[split] = pixels, np.array(kinds)
    return written


@pytest.fixture
def folder(tmp_path):
    write_folder(tmp_path / "pets")
    return str(tmp_path / "pets")


def test_a_local_folder_is_decoded_exactly(tmp_path):
    written = write_folder(tmp_path / "pets")
    dataset = open_dataset(DataSpec(str(tmp_path / "pets"), "picture", "kind"))
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
    dataset = open_dataset(DataSpec(str(tmp_path / "gray"), "picture", "kind"))
    assert dataset.image_shape == (1, 20, 16)
    assert np.array_equal(dataset.images["test"], written["test"][0])


def test_images_are_decoded_once_and_again_when_the_files_change(tmp_path):
    write_folder(tmp_path / "pets")
    name = str(tmp_path / "pets")
    first = open_dataset(DataSpec(name, "picture", "kind"))
    open_dataset.cache_clear()
    assert open_dataset(DataSpec(name, "picture", "kind")).folder == first.folder
    changed = write_folder(tmp_path / "pets", num=44)
    open_dataset.cache_clear()
    second = open_dataset(DataSpec(name, "picture", "kind"))
    assert second.folder != first.folder
    assert np.array_equal(second.images["train"], changed["train"][0])


@pytest.mark.parametrize("name", KNOWN)
def test_a_copy_of_a_known_dataset_is_recognized_by_its_columns_and_classes(tmp_path, name):
    dataset = open_dataset(DataSpec(str(write_known(tmp_path / "copy", name))))
    known = KNOWN_DATASETS[name]
    assert dataset.name == name
    assert dataset.class_names == tuple(KNOWN[name][3])
    assert len(dataset.class_names) == dataset.num_classes == known.classes[0]
    pixels = dataset.images["train"] / 255
    mean, std = known.mean or pixels.mean(axis=(0, 1, 2)), known.std or pixels.std(axis=(0, 1, 2))
    assert tuple(dataset.transform.mean) == pytest.approx(tuple(mean))
    assert tuple(dataset.transform.std) == pytest.approx(tuple(std))
    assert dataset.transform.crop_padding == 4
    assert dataset.transform.flip == (name != "emnist")
    assert bool(dataset.clients) == (name == "emnist")


def test_cifar100_keeps_its_superclasses(tmp_path):
    superclasses = open_dataset(DataSpec(str(write_known(tmp_path / "copy", "cifar100")))).superclasses
    assert superclasses == tuple(f"super{label % 20}" for label in range(100))
    assert open_dataset(DataSpec("digits")).superclasses is None


def test_emnist_holds_a_tenth_of_every_writer_out(tmp_path):
    dataset = open_dataset(DataSpec(str(write_known(tmp_path / "copy", "emnist"))))
    assert np.array_equal(np.bincount(dataset.clients["train"]), [36] * 5)
    assert np.array_equal(np.bincount(dataset.clients["test"]), [4] * 5)


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_a_part_of_every_class_can_be_held_out(tmp_path, fraction):
    written = write_folder(tmp_path / "pets", splits=("train",), num=80)["train"]
    dataset = open_dataset(DataSpec(str(tmp_path / "pets"), "picture", "kind", test_fraction=fraction))
    assert np.array_equal(np.bincount(dataset.labels["test"]), [round(20 * fraction)] * 4)
    # Together they are the training split, in its order, each image in one of them.
    rows = {split: [np.flatnonzero((written[0] == image).all(axis=(1, 2, 3))).item() for image in dataset.images[split]]
            for split in ("train", "test")}  # fmt: skip
    assert sorted(rows["train"] + rows["test"]) == list(range(80))
    assert all(of_split == sorted(of_split) for of_split in rows.values())
    assert all(np.array_equal(dataset.labels[split], written[1][rows[split]]) for split in rows)


def test_a_held_out_part_takes_the_place_of_a_test_split(tmp_path):
    write_folder(tmp_path / "pets")
    own, held = (
        open_dataset(DataSpec(str(tmp_path / "pets"), "picture", "kind", test_fraction=fraction))
        for fraction in (0.0, 0.5)
    )
    assert own.folder != held.folder
    assert (len(own.labels["train"]), len(held.labels["train"]), len(held.labels["test"])) == (40, 20, 20)


def test_any_column_can_say_whose_an_image_is(tmp_path):
    write_folder(tmp_path / "pets", whose=[(row * row) % 7 + 100 for row in range(40)])
    dataset = open_dataset(DataSpec(str(tmp_path / "pets"), "picture", "kind", "whose"))
    _, numbers = np.unique([(row * row) % 7 for row in range(40)], return_inverse=True)
    for split in ("train", "test"):
        assert np.array_equal(dataset.clients[split], numbers)
    with pytest.raises(ConfigError, match=r"has no client-column = 'owner': .* columns are picture, kind, whose"):
        open_dataset(DataSpec(str(tmp_path / "pets"), "picture", "kind", "owner"))
    with pytest.raises(ConfigError, match=r"client-column = 'picture' of dataset = .* must hold numbers or text"):
        open_dataset(DataSpec(str(tmp_path / "pets"), "picture", "kind", "picture"))
    write_folder(tmp_path / "lost", whose=[None if row == 9 else row for row in range(40)])
    with pytest.raises(ConfigError, match="has no 'whose' in row 9 of its train split: every row needs one"):
        open_dataset(DataSpec(str(tmp_path / "lost"), "picture", "kind", "whose"))


def write_image_folder(folder):
    pixels = {}
    for split in ("train", "test"):
        for label, kind in enumerate(("cat", "dog")):
            (folder / split / kind).mkdir(parents=True)
            for number in range(3):
                pixels[split, label, number] = RNG.integers(0, 256, (18, 17, 3), dtype=np.uint8)
                PIL.Image.fromarray(pixels[split, label, number]).save(folder / split / kind / f"{number}.png")
    return pixels


def test_a_folder_of_images_is_a_dataset(tmp_path):
    pixels = write_image_folder(tmp_path / "animals")
    dataset = open_dataset(DataSpec(str(tmp_path / "animals"), "image", "label"))
    assert dataset.class_names == ("cat", "dog")
    for split in ("train", "test"):
        assert dataset.labels[split].tolist() == [0, 0, 0, 1, 1, 1]
        assert np.array_equal(dataset.images[split], [p for (of, *_), p in pixels.items() if of == split])


def test_a_broken_image_of_a_folder_is_named(tmp_path):
    write_image_folder(tmp_path / "animals")
    broken = tmp_path / "animals" / "test" / "dog" / "1.png"
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.raises(ConfigError, match=rf"in row 4 of its test split \({broken}\): .* Replace or remove it"):
        open_dataset(DataSpec(str(tmp_path / "animals"), "image", "label"))


def test_only_a_copy_with_its_own_columns_is_recognized(tmp_path):
    names = [str(digit) for digit in range(10)]
    features = Features({"image": Image(), "label": ClassLabel(names=names)})
    for split in ("train", "test"):
        images = list(RNG.integers(0, 256, (10, 28, 28), dtype=np.uint8))
        data = Dataset.from_dict({"image": images, "label": list(range(10))}, features=features)
        data.to_parquet(tmp_path / f"{split}.parquet")
    # MNIST has the columns and classes of scikit-learn's digits and is another dataset.
    assert open_dataset(DataSpec(str(tmp_path), "image", "label")).name == str(tmp_path)


def test_nothing_half_built_stays_behind_an_error(folder):
    before = set(cache_dir().iterdir()) if cache_dir().exists() else set()
    with pytest.raises(ConfigError):
        open_dataset(DataSpec(folder, "nothing", "kind"))
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
        open_dataset(DataSpec(folder, image_column, label_column))


def test_a_missing_folder(tmp_path):
    with pytest.raises(ConfigError, match=f"is a folder that does not exist.*{tmp_path}/nowhere"):
        open_dataset(DataSpec(str(tmp_path / "nowhere")))


def test_a_missing_split(tmp_path):
    write_folder(tmp_path / "pets", splits=("train",))
    with pytest.raises(
        ConfigError, match=r"has no test split; it has train: add one, or set test-fraction, to 0.1 say"
    ):
        open_dataset(DataSpec(str(tmp_path / "pets"), "picture", "kind"))
    write_folder(tmp_path / "more", splits=("test", "validation"))
    with pytest.raises(ConfigError, match="has no train split; it has validation, test: add one") as error:
        open_dataset(DataSpec(str(tmp_path / "more"), "picture", "kind"))
    assert error.value.__cause__ is None


def test_images_of_several_sizes(tmp_path):
    images = [np.zeros((16, 16, 3), np.uint8), np.zeros((16, 17, 3), np.uint8)]
    features = Features({"picture": Image(), "kind": ClassLabel(names=["a", "b"])})
    for split in ("train", "test"):
        data = Dataset.from_dict({"picture": images, "kind": [0, 1]}, features=features)
        data.to_parquet(tmp_path / f"{split}.parquet")
    with pytest.raises(
        ConfigError, match="row 1 of its train split has 17×16 pixels and the first training image 16×16"
    ):
        open_dataset(DataSpec(str(tmp_path), "picture", "kind"))


def test_train_and_test_images_of_different_sizes(tmp_path):
    write_folder(tmp_path, splits=("train",), size=(20, 16))
    write_folder(tmp_path, splits=("test",), size=(16, 16))
    with pytest.raises(
        ConfigError, match="row 0 of its test split has 16×16 pixels and the first training image 16×20"
    ):
        open_dataset(DataSpec(str(tmp_path), "picture", "kind"))


@pytest.mark.parametrize(
    ("modes", "sentence"),
    [
        (
            ("RGB", "L"),
            "images in colour and in grayscale: row 1 of its train split is L and the first training image RGB",
        ),
        (("L", "RGBA"), "images in colour and in grayscale: row 1 of its train split is RGBA and the first .* image L"),
        (("I;16", "L"), r"no image that can be decoded in row 0 .*: its mode is I;16, and 1, L, LA, RGB"),
        (("1", "L"), None),
        (("RGB", "P"), None),
    ],
)
def test_images_of_several_modes(tmp_path, modes, sentence):
    for split in ("train", "test"):
        for number, mode in enumerate(modes):
            (tmp_path / split / str(number)).mkdir(parents=True)
            PIL.Image.new(mode, (16, 16)).save(tmp_path / split / str(number) / "image.png")
    spec = DataSpec(str(tmp_path), "image", "label")
    if sentence is None:
        assert open_dataset(spec).images["train"].max() == 0
    else:
        with pytest.raises(ConfigError, match=sentence):
            open_dataset(spec)


def test_a_missing_label(tmp_path):
    write_folder(tmp_path, num=3, labels=[0, None, 1])
    with pytest.raises(ConfigError, match="has no 'kind' in row 1 of its train split: every row needs one"):
        open_dataset(DataSpec(str(tmp_path), "picture", "kind"))


def test_labels_that_number_no_classes(tmp_path):
    write_folder(tmp_path, num=4, labels=[0, 1, 5_000_000, 2])
    with pytest.raises(ConfigError, match=r"label-column = 'kind' of .* goes up to 5000000 in 8 rows"):
        open_dataset(DataSpec(str(tmp_path), "picture", "kind"))


def test_a_fraction_of_less_than_an_image(tmp_path):
    write_folder(tmp_path, splits=("train",))
    with pytest.raises(ConfigError, match=r"test-fraction = 0.001 of the 40 .* leaves no image to test on: raise it"):
        open_dataset(DataSpec(str(tmp_path), "picture", "kind", test_fraction=0.001))


def test_a_negative_label(tmp_path):
    write_folder(tmp_path, splits=("train",), num=4, labels=[0, 1, 2, 3])
    write_folder(tmp_path, splits=("test",), num=2, labels=[0, -1])
    with pytest.raises(ConfigError, match="label -1 in row 1 of its test split: labels must be from 0 to 3"):
        open_dataset(DataSpec(str(tmp_path), "picture", "kind"))


@pytest.mark.parametrize("bad_row", [3, 21, 38])
def test_a_row_is_counted_as_in_the_file_when_a_part_is_held_out(tmp_path, bad_row):
    labels = [row % 4 for row in range(40)]
    labels[bad_row] = -7
    write_folder(tmp_path, splits=("train",), labels=labels)
    with pytest.raises(ConfigError, match=f"the label -7 in row {bad_row} of its train split"):
        open_dataset(DataSpec(str(tmp_path), "picture", "kind", test_fraction=0.5))


def test_an_image_that_cannot_be_decoded(tmp_path):
    write_folder(tmp_path)
    features = Features({"picture": Image(), "kind": ClassLabel(names=[f"c{i}" for i in range(4)])})
    good = Dataset.from_parquet(str(tmp_path / "test.parquet")).cast_column("picture", Image(decode=False))
    for broken in (
        {"bytes": b"no image", "path": None},
        {"bytes": good[0]["picture"]["bytes"][:-200], "path": None},
        {"bytes": b"", "path": None},
        None,
    ):
        cells = [good[0]["picture"], broken]
        Dataset.from_dict({"picture": cells, "kind": [0, 1]}, features=features).to_parquet(tmp_path / "test.parquet")
        with pytest.raises(ConfigError, match="has no image that can be decoded in row 1 of its test split"):
            open_dataset(DataSpec(str(tmp_path), "picture", "kind"))


@pytest.mark.parametrize("damage", ["truncated", "overwritten", "no parquet"])
def test_a_damaged_parquet_file_is_named(tmp_path, damage):
    write_folder(tmp_path / "pets", num=400)
    file = tmp_path / "pets" / "test.parquet"
    whole = file.read_bytes()
    file.write_bytes({
        "truncated": whole[: len(whole) // 2],
        "overwritten": whole[:4] + b"\xff" * (len(whole) - 2000) + whole[len(whole) - 1996 :],
        "no parquet": b"PAR1 and then nothing of the kind",
    }[damage])  # fmt: skip
    with pytest.raises(ConfigError, match=f"has a damaged file, {file} .*: replace it by an intact copy") as error:
        open_dataset(DataSpec(str(tmp_path / "pets"), "picture", "kind"))
    assert "\n" not in str(error.value)


def test_a_folder_without_data_is_not_taken_for_an_unreachable_hub(tmp_path):
    with pytest.raises(ConfigError, match=f"dataset = '{tmp_path}' cannot be used: ") as error:
        open_dataset(DataSpec(str(tmp_path), "picture", "kind"))
    assert "Hub cannot be reached" not in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dataset", ["cifar10", "someone/some-pictures"])
def test_when_the_hub_is_out_of_reach_both_ways_on_are_named(dataset):
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    with pytest.raises(ConfigError) as error:
        open_dataset(DataSpec(dataset))
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
        open_dataset(DataSpec(str(tmp_path / "pets"), "picture", "kind"))


def test_what_a_killed_process_left_is_cleared_away(tmp_path):
    write_folder(tmp_path / "pets")
    name = str(tmp_path / "pets")
    entry = open_dataset(DataSpec(name, "picture", "kind")).folder
    leftover = entry.with_name(f".{entry.name}.building")
    entry.rename(leftover)
    (leftover / "train-images.npy").write_bytes(b"half")
    open_dataset.cache_clear()
    assert len(open_dataset(DataSpec(name, "picture", "kind")).images["train"]) == 40
    assert not leftover.exists()


@pytest.mark.parametrize("name", ["train-images.npy", "test-images.npy", "train-labels.npy", "meta.json"])
@pytest.mark.parametrize("damage", ["cut", "changed", "emptied", "removed"])
def test_a_damaged_entry_is_built_again(tmp_path, capsys, name, damage):
    written = write_folder(tmp_path / "pets")
    spec = DataSpec(str(tmp_path / "pets"), "picture", "kind")
    file = open_dataset(spec).folder / name
    whole = file.read_bytes()
    if damage == "removed":
        file.unlink()
    else:
        middle = len(whole) // 2
        changed = whole[:middle] + bytes([whole[middle] ^ 32]) + whole[middle + 1 :]
        file.write_bytes({"cut": whole[:-10], "changed": changed, "emptied": b""}[damage])
    open_dataset.cache_clear()
    again = open_dataset(spec)
    assert f"{again.folder} is damaged and built again." in capsys.readouterr().out
    assert file.read_bytes() == whole
    for split, (pixels, kinds) in written.items():
        assert np.array_equal(again.images[split], pixels)
        assert np.array_equal(again.labels[split], kinds)


def test_whoever_waits_for_a_build_does_not_build_again(tmp_path):
    builds = []

    def build(path):
        builds.append(path)
        time.sleep(0.3)
        path.write_text("whole")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: cached(tmp_path / "entry", build, Path.read_text), range(4)))
    assert len(builds) == 1
    assert (tmp_path / "entry").read_text() == "whole"


def test_two_processes_build_an_entry_once(tmp_path):
    """Both ask at once; the one that waits finds what the other made."""
    write_folder(tmp_path / "pets", num=400)
    code = (
        "import sys; from fedbabu.data import DataSpec, open_dataset;"
        "print(open_dataset(DataSpec(sys.argv[1], 'picture', 'kind')).folder)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "pets")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    folders = {process.communicate(timeout=120)[0].strip() for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert len(folders) == 1
    assert Path(folders.pop(), "meta.json").exists()


def test_digits_are_balanced():
    dataset = open_dataset(DataSpec("digits"))
    assert dataset.image_shape == (1, 16, 16)
    assert np.array_equal(np.bincount(dataset.labels["train"]), [144] * 10)
    assert np.array_equal(np.bincount(dataset.labels["test"]), [30] * 10)
    assert dataset.images["train"].max() == 255


def test_an_owner_keeps_its_whole_dataset_in_random_order():
    partition = whole_dataset(open_dataset(DataSpec("digits")), client=5, seed=1)
    assert partition.clients == [5]
    for split, n in (("train", 1440), ("test", 300)):
        assert np.array_equal(np.sort(partition.rows[split][5]), np.arange(n))
        assert not np.array_equal(partition.rows[split][5], np.arange(n))


def test_augmentation_is_torchvisions_crop_and_flip_of_each_image():
    transform = BatchTransform((0.5, 0.4, 0.3), (0.2, 0.3, 0.4), crop_padding=4, flip=True)
    images = torch.from_numpy(RNG.integers(0, 256, (64, 3, 32, 24), dtype=np.uint8))
    got = transform.augment(images, transform.draw(64, torch.Generator().manual_seed(5)))
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
    torch.testing.assert_close(transform.augment(images, transform.draw(8, torch.Generator())), images / 127.5 - 1)


def test_client_examples_are_the_asked_rows_in_order():
    dataset = open_dataset(DataSpec("digits"))
    rows = np.array([7, 3, 11])
    examples = client_examples(dataset.images["train"], dataset.labels["train"], rows, torch.device("cpu"))
    assert examples.images.shape == (3, 1, 16, 16)
    assert np.array_equal(examples.images[1, 0], dataset.images["train"][3, :, :, 0])
    assert examples.labels.tolist() == dataset.labels["train"][rows].tolist()


def test_meta_is_plain_json():
    meta = json.loads((open_dataset(DataSpec("digits")).folder / "meta.json").read_text())
    assert meta["name"] == "digits"
