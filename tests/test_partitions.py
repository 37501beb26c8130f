"""Who gets which image: what holds for every partition, and what is said of those that cannot be made."""

import numpy as np
import pytest
from datasets import Dataset
from flwr_datasets.partitioner import ShardPartitioner
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from fedbabu import show_partition as command
from fedbabu.config import RunConfig, default_run_config
from fedbabu.data import (
    BatchTransform,
    DataSpec,
    ImageDataset,
    class_counts,
    make_partition,
    open_dataset,
    open_partition,
)
from fedbabu.data.partitions import PARTITIONS
from fedbabu.data.partitions.label_shards import LabelShardPartitioner
from fedbabu.data.partitions.rounding import round_table
from fedbabu.errors import ConfigError

SPLITS = ("train", "test")


def configured(partition="shards", **keys):
    keys = {key.replace("_", "-"): value for key, value in keys.items()}
    return RunConfig.from_flower(default_run_config() | {"partition": partition} | keys)


def dataset_of(train_counts, test_counts, owners=0, seed=0):
    """A dataset with so many images of each class, in random order; with owners, each image has one."""
    rng = np.random.default_rng(seed)
    labels = {
        split: rng.permutation(np.repeat(np.arange(len(counts)), counts))
        for split, counts in zip(SPLITS, (train_counts, test_counts), strict=True)
    }
    clients = {split: rng.integers(0, owners, len(of_split)) for split, of_split in labels.items()} if owners else {}
    images = {split: np.zeros((len(of_split), 1, 1, 1), np.uint8) for split, of_split in labels.items()}
    return ImageDataset("made", None, len(train_counts), images, labels, BatchTransform((0.5,), (0.5,)), clients)


def counted(dataset, partition):
    """Images of each client and class, int64 [clients, classes], of the training and of the test split."""
    return (class_counts(dataset, split, partition.rows[split].values()) for split in SPLITS)


def all_rows(partition, split):
    return np.sort(np.concatenate(list(partition.rows[split].values())))


def made(dataset, config):
    """The partition, or no example for hypothesis if a client comes out too small, which has tests of its own."""
    too_small = ("needs at least 2", "is too many for", "more clients than", "each of ten draws")
    try:
        return make_partition(dataset, config)
    except ConfigError as error:
        assume(not any(part in str(error) for part in too_small))
        raise


balanced = st.tuples(st.integers(1, 8), st.integers(2, 40), st.integers(1, 12))
unbalanced = st.lists(st.tuples(st.integers(1, 60), st.integers(0, 20)), min_size=1, max_size=8)
seeds = st.integers(0, 2**63 - 1)


@st.composite
def datasets(draw):
    if draw(st.booleans()):
        classes, train, test = draw(balanced)
        return dataset_of([train] * classes, [test] * classes, seed=draw(st.integers(0, 99)))
    return dataset_of(*zip(*draw(unbalanced), strict=True), seed=draw(st.integers(0, 99)))


@st.composite
def settings_for(draw, dataset):
    """A run config that can partition the dataset, by any scheme that goes by labels."""
    partition = draw(st.sampled_from(["shards", "classes", "dirichlet", "iid"]))
    classes, images = dataset.num_classes, len(dataset.labels["train"])
    if partition == "shards":
        s = draw(st.integers(1, classes))
        low, high = -(-classes // s), images // s
        assume(low <= high)
        return configured(partition, shards_per_client=s, num_clients=draw(st.integers(low, high)), seed=draw(seeds))
    if partition == "classes":
        k = draw(st.integers(1, classes))
        assume(images >= classes)
        num_clients = draw(st.integers(classes, 3 * classes))
        return configured(partition, num_classes_per_client=k, num_clients=num_clients, seed=draw(seeds))
    assume(images >= 60)
    num_clients = draw(st.integers(1, min(5, images // 30)))
    return configured(partition, dirichlet_beta=5.0, num_clients=num_clients, seed=draw(seeds))


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_what_holds_for_every_partition_by_labels(data):
    dataset = data.draw(datasets())
    config = data.draw(settings_for(dataset))
    partition = made(dataset, config)
    train, test = counted(dataset, partition)
    labels = dataset.labels
    # Every training image exactly once, and every test image of a class that somebody trains on.
    assert np.array_equal(all_rows(partition, "train"), np.arange(len(labels["train"])))
    taken = np.flatnonzero(np.isin(labels["test"], labels["train"]))
    assert np.array_equal(all_rows(partition, "test"), taken)
    # Test images in proportion to training images, to within one: by client and class, and by client.
    share = train * (test.sum(axis=0) / train.sum(axis=0))
    assert np.abs(test - share).max() < 1
    assert np.abs((test - share).sum(axis=1)).max() < 1
    # A client is tested on no class that it does not train on, and on every class of which it is due an image.
    assert not (test[train == 0]).any()
    assert (test[share >= 1] > 0).all()
    # The same seed, the same split.
    again = make_partition(dataset, config)
    assert all(np.array_equal(partition.rows[s][c], again.rows[s][c]) for s in SPLITS for c in partition.clients)

    sizes, per_client = train.sum(axis=1), (train > 0).sum(axis=1)
    if config.partition == "shards":
        assert per_client.max() <= config.shards_per_client
        if np.ptp(train.sum(axis=0)) == 0 and config.num_clients * config.shards_per_client % dataset.num_classes == 0:
            assert np.ptp(sizes) <= 1
            if np.ptp(sizes) == np.ptp(test.sum(axis=0)) == 0:
                assert np.ptp(test.sum(axis=1)) <= 1
    elif config.partition == "classes":
        assert (per_client == config.num_classes_per_client).all()
    elif config.partition == "iid":
        assert np.ptp(sizes) <= 1


@settings(deadline=None, max_examples=100)
@given(st.integers(2, 12), st.data())
def test_a_natural_partition_leaves_everybody_what_is_theirs(owners, data):
    dataset = dataset_of([40, 25, 60], [30, 20, 30], owners, seed=data.draw(st.integers(0, 99)))
    present = np.unique(dataset.clients["train"])
    config = configured("natural", num_clients=data.draw(st.integers(1, len(present))), seed=data.draw(seeds))
    partition = made(dataset, config)
    drawn = set()
    for client in partition.clients:
        (owner,) = set(dataset.clients["train"][partition.rows["train"][client]])
        drawn.add(owner)
        for split in SPLITS:
            rows = np.flatnonzero(dataset.clients[split] == owner)
            assert np.array_equal(np.sort(partition.rows[split][client]), rows)
    assert len(drawn) == config.num_clients


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_a_rounded_table_keeps_its_sums(data):
    shape = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 8))
    rng = np.random.default_rng(data.draw(st.integers(0, 9999)))
    weights = rng.random(shape) * (rng.random(shape) < data.draw(st.floats(0.1, 1)))
    totals = rng.integers(0, data.draw(st.integers(1, 50)), shape[1]) * (weights.sum(axis=0) > 0)
    table = weights * (totals / np.maximum(weights.sum(axis=0), 1e-300))
    rounded = round_table(table, rng)
    assert np.array_equal(rounded.sum(axis=0), totals)
    assert np.abs(rounded - table).max() < 1
    assert np.abs((rounded - table).sum(axis=1)).max() < 1
    assert np.array_equal(round_table(rounded.astype(float), rng), rounded)


def test_a_table_whose_columns_are_no_integers_is_refused():
    with pytest.raises(ValueError, match="does not sum to an integer"):
        round_table(np.array([[0.5], [0.4]]), np.random.default_rng(0))


def test_nobody_is_favoured_by_rounding():
    """A half for each of a thousand clients: the first five hundred get no more than chance would have it."""
    rounded = round_table(np.full((1000, 4), 0.5), np.random.default_rng(0))
    assert np.array_equal(rounded.sum(axis=1), np.full(1000, 2))
    assert all(200 < rounded[:500, label].sum() < 300 for label in range(4))


@pytest.mark.parametrize(("num_clients", "shards", "seed"), [(10, 2, 0), (20, 3, 5), (5, 10, 42), (100, 1, 7)])
def test_where_all_is_even_the_shards_are_flowers(num_clients, shards, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(10), 300))
    ours = LabelShardPartitioner(num_clients, "label", shards, seed)
    theirs = ShardPartitioner(num_clients, "label", shards, seed=seed)
    for partitioner in (ours, theirs):
        partitioner.dataset = Dataset.from_dict({"label": labels, "row": np.arange(len(labels))})
    assert ours.num_partitions == theirs.num_partitions
    for client in range(num_clients):
        assert list(ours.load_partition(client)["row"]) == list(theirs.load_partition(client)["row"])


def test_larger_classes_are_cut_into_more_shards():
    train, _ = counted(dataset := dataset_of([600, 300, 100], [60, 30, 10]), made(dataset, configured(num_clients=10)))
    assert (train > 0).sum() <= 20
    assert train.sum(axis=1).tolist() == [100] * 10


def test_shards_need_examples_and_classes():
    partitioner = LabelShardPartitioner(2, "label", 2, seed=0)
    partitioner.dataset = Dataset.from_dict({"label": [0, 0, 1]})
    with pytest.raises(ValueError, match="3 examples of 2 classes cannot make 4 shards"):
        partitioner.load_partition(0)


def test_the_seed_decides_the_partition():
    dataset = dataset_of([30] * 5, [20] * 5, owners=4)
    for partition in PARTITIONS:
        size = {"num_clients": 3 if partition == "natural" else 5, "dirichlet_beta": 5.0}
        one, again, other = (
            make_partition(dataset, configured(partition, seed=seed, **size)).rows["train"][0] for seed in (1, 1, 2)
        )
        assert np.array_equal(one, again)
        assert not np.array_equal(one, other)


def test_rows_are_in_random_order():
    """Evaluation takes them as they come, and BatchNorm wants its batches mixed."""
    dataset = dataset_of([50] * 4, [30] * 4, owners=2)
    for partition in PARTITIONS:
        rows = make_partition(dataset, configured(partition, num_clients=2 if partition == "natural" else 4)).rows
        for split in SPLITS:
            labels = dataset.labels[split][rows[split][0]]
            assert not np.array_equal(rows[split][0], np.sort(rows[split][0]))
            assert len(set(labels)) == 1 or not np.array_equal(labels, np.sort(labels))


CANNOT = [
    ("shards", {"shards_per_client": 5}, "shards-per-client = 5 is more than the labels allow: 'made' has 4 classes"),
    (
        "shards",
        {"num_clients": 3, "shards_per_client": 1},
        "num-clients = 3 with shards-per-client = 1 makes 3 shards of one class each, which leaves some of the 4 "
        "classes of 'made' out: raise either, to 4 shards or more",
    ),
    (
        "shards",
        {"num_clients": 26, "shards_per_client": 4},
        "makes 104 shards, but 'made' has only 100 training images: num-clients must be at most 25",
    ),
    *(
        (scheme, {"num_clients": 51}, "num-clients = 51 is too many for the 100 training images of 'made', .* most 50")
        for scheme in ("shards", "classes", "dirichlet", "iid")
    ),
    (
        "shards",
        {"num_clients": 50},
        r"partition = 'shards': client \d+ has 2 training and 0 test images and needs at least 2, since BatchNorm "
        "compares the images of a batch, and 1: lower num-clients or shards-per-client",
    ),
    ("iid", {"num_clients": 50}, r"partition = 'iid': client \d+ has 2 training and 0 .* and 1: lower num-clients"),
    ("classes", {"num_classes_per_client": 5}, "num-classes-per-client = 5 is more than there are: 'made' has 4"),
    ("classes", {"num_clients": 3}, "num-clients = 3 is too few for partition = 'classes', .* be at least 4"),
    (
        "classes",
        {"num_clients": 50, "num_classes_per_client": 4},
        "num-classes-per-client = 4 with num-clients = 50 gives a class of 'made' to more clients than it has "
        "training images: lower either",
    ),
    (
        "dirichlet",
        {"num_clients": 9, "dirichlet_beta": 0.01},
        r"dirichlet-beta = 0.01 with num-clients = 9 leaves clients of 'made' with fewer than 10 training images in "
        r"each of ten draws \(client \d with 0 in the first\): raise dirichlet-beta or lower num-clients",
    ),
    ("natural", {"num_clients": 2}, "partition = 'natural' needs client-column to be set"),
]


@pytest.mark.parametrize(("partition", "keys", "sentence"), CANNOT)
def test_what_cannot_be_partitioned_is_one_sentence(partition, keys, sentence):
    with pytest.raises(ConfigError, match=sentence) as error:
        make_partition(dataset_of([25] * 4, [10] * 4), configured(partition, **({"num_clients": 10} | keys)))
    assert "\n" not in str(error.value)


def test_more_clients_than_there_are_owners():
    with pytest.raises(ConfigError, match=r"num-clients = 4 is more than 'made' has in its client column: .* 1 to 3"):
        make_partition(dataset_of([50], [20], owners=3), configured("natural", num_clients=4))


def test_an_owner_without_test_images():
    dataset = dataset_of([50], [20], owners=3)
    dataset.clients["test"][:] = 1
    with pytest.raises(ConfigError, match=r"'natural': client \d has \d+ training and 0 test images .* test-fraction"):
        make_partition(dataset, configured("natural", num_clients=3))


@pytest.mark.parametrize("num_clients", [5, 7, 40, 150])
@pytest.mark.parametrize("partition", PARTITIONS)
def test_an_iid_test_set_is_spread_evenly(num_clients, partition):
    dataset = dataset_of([600] * 5, [60] * 5, owners=200)
    config = {"num_clients": num_clients, "dirichlet_beta": 5.0}
    rows = make_partition(dataset, configured(partition, iid_test_set=True, **config)).rows
    assert sorted(np.concatenate(list(rows["test"].values()))) == list(range(300))
    assert np.ptp([len(own) for own in rows["test"].values()]) <= 1
    counts = np.stack([np.bincount(dataset.labels["test"][own], minlength=5) for own in rows["test"].values()])
    assert np.ptp(counts, axis=0).max() <= 1
    if num_clients < 40 and partition != "natural":  # else there are too few test images to follow the training set
        plain = make_partition(dataset, configured(partition, **config)).rows
        assert all(np.array_equal(rows["train"][client], plain["train"][client]) for client in plain["train"])


def test_a_partition_is_made_once_and_again_if_its_file_is_damaged(capsys):
    dataset, config = open_dataset(DataSpec("digits")), configured(num_clients=12, seed=5)
    first = open_partition(dataset, config).rows
    (path,) = dataset.folder.parent.glob("digits-*-shards-2-of-12-seed-5.npz")
    changed = path.stat().st_mtime_ns
    open_partition(dataset, config)
    assert path.stat().st_mtime_ns == changed
    whole = path.read_bytes()
    for damaged in (
        whole[:6] + b"\1" + whole[7:],
        whole[:-100],
        whole[:300] + b"\0" * 8 + whole[308:],
        b"",
        b"not a zip file",
    ):
        path.write_bytes(damaged)
        again = open_partition(dataset, config).rows
        assert all(
            np.array_equal(first[split][client], again[split][client]) for split in SPLITS for client in range(12)
        )
        assert path.read_bytes() == whole
        assert f"{path} is damaged and built again." in capsys.readouterr().out


def test_every_scheme_has_its_own_file():
    dataset = open_dataset(DataSpec("digits"))
    names = set()
    for keys in (
        {}, {"shards_per_client": 3}, {"seed": 1}, {"num_clients": 21}, {"iid_test_set": True},
        {"partition": "classes"}, {"partition": "classes", "num_classes_per_client": 3},
        {"partition": "dirichlet", "dirichlet_beta": 9.0}, {"partition": "dirichlet", "dirichlet_beta": 8.0},
        {"partition": "iid"},
    ):  # fmt: skip
        before = set(dataset.folder.parent.glob("*.npz"))
        open_partition(dataset, configured(**({"num_clients": 20, "seed": 77} | keys)))
        names |= set(dataset.folder.parent.glob("*.npz")) - before
    assert len(names) == 10


def test_the_command_prints_and_draws_a_partition(tmp_path, capsys):
    picture = tmp_path / "folder" / "picture.png"
    keys = "dataset='digits' num-clients=20 partition='dirichlet' dirichlet-beta=2.0"
    command.main(["--run-config", keys, "--output", str(picture)])
    printed = capsys.readouterr().out
    assert "digits: 20 clients (Dirichlet, β = 2.0)" in printed
    assert "1440 of 1440 training images and 300 of 300 test images" in printed
    assert "training images          │ 72.0" in printed
    assert f"Picture: {picture}" in printed
    assert Image.open(picture).size[0] > 1000


def test_the_command_puts_its_picture_beside_the_results(tmp_path, capsys):
    command.main(["--run-config", f"dataset='digits' num-clients=20 results-dir='{tmp_path}'"])
    assert (tmp_path / "partitions" / "digits-shards-2-of-20-seed-42.png").exists()
    assert str(tmp_path) in capsys.readouterr().out


def test_the_command_completes_the_name_of_its_picture(tmp_path, capsys):
    keys = "dataset='digits' num-clients=20"
    for output, written in ((tmp_path, "digits-shards-2-of-20-seed-42.png"), (tmp_path / "some", "some.png")):
        command.main(["--run-config", keys, "--output", str(output)])
        assert f"Picture: {tmp_path / written}" in capsys.readouterr().out
        assert (tmp_path / written).exists()
    for output, sentence in (("a.xyz", "cannot be written: Format 'xyz'"), ("some.png/a.png", "cannot be written: ")):
        with pytest.raises(SystemExit) as error:
            command.main(["--run-config", keys, "--output", str(tmp_path / output)])
        assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--run-config", "partition='even'"], "partition = 'even' is not allowed: it must be 'shards' or"),
        (["--run-config", "dataset='digits' shards-per-client=11"], "shards-per-client = 11 is more than"),
        (["--run-config", "some.toml", "--run-config", "seed=1"], "TOML files cannot be passed alongside"),
        (["--run-config", "nowhere.toml"], "No such file"),
        (["--run-config", "seed=1 dataset=digits"], "invalid format"),
    ],
)
def test_what_is_wrong_with_a_command_is_one_sentence(arguments, sentence):
    with pytest.raises(SystemExit) as error:
        command.main(arguments)
    assert sentence in str(error.value)
