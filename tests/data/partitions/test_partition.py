"""What holds for every partition, and how partitions are stored."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.partitions import assert_same_partition, labelled_dataset, partition_spec, train_and_test_counts

from fedbabu.data.dataset import open_dataset
from fedbabu.data.partitions import PARTITIONS
from fedbabu.data.partitions.partition import make_partition, open_partition, partition_name, whole_dataset
from fedbabu.data.source import SPLITS, DataSpec
from fedbabu.errors import ConfigError

seeds = st.integers(0, 2**63 - 1)


def all_rows(partition, split):
    return np.sort(np.concatenate(list(partition.rows[split].values())))


def make_or_skip(dataset, spec):
    """The partition; hypothesis takes another example if a client gets too few images, which has tests of its own."""
    try:
        return make_partition(dataset, spec)
    except ConfigError as error:
        too_small = ("needs at least 2", "is too many for", "more clients than", "each of ten draws")
        assume(not any(part in str(error) for part in too_small))
        raise


@st.composite
def datasets(draw):
    """A dataset with balanced or unbalanced labels."""
    if draw(st.booleans()):
        classes, train, test = draw(st.integers(1, 8)), draw(st.integers(2, 40)), draw(st.integers(1, 12))
        counts = [(train, test)] * classes
    else:
        counts = draw(st.lists(st.tuples(st.integers(1, 60), st.integers(0, 20)), min_size=1, max_size=8))
    return labelled_dataset(*zip(*counts, strict=True), seed=draw(st.integers(0, 99)))


@st.composite
def specs(draw, dataset):
    """A specification that suits the dataset, of any scheme that divides by labels."""
    scheme = draw(st.sampled_from(["shards", "classes", "dirichlet", "iid"]))
    classes, images = dataset.num_classes, len(dataset.labels["train"])
    if scheme == "shards":
        s = draw(st.integers(1, classes))
        low, high = -(-classes // s), images // s
        assume(low <= high)
        return partition_spec(scheme, shards_per_client=s, num_clients=draw(st.integers(low, high)), seed=draw(seeds))
    if scheme == "classes":
        k = draw(st.integers(1, classes))
        assume(images >= classes)
        num_clients = draw(st.integers(classes, 3 * classes))
        return partition_spec(scheme, num_classes_per_client=k, num_clients=num_clients, seed=draw(seeds))
    assume(images >= 60)
    num_clients = draw(st.integers(1, min(5, images // 30)))
    return partition_spec(scheme, dirichlet_beta=5.0, num_clients=num_clients, seed=draw(seeds))


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_what_holds_for_every_partition_by_labels(data):
    dataset = data.draw(datasets())
    spec = data.draw(specs(dataset))
    partition = make_or_skip(dataset, spec)
    train, test = train_and_test_counts(dataset, partition)
    labels = dataset.labels
    # Every training image has one client, and so has every test image of a class that some client trains on.
    assert np.array_equal(all_rows(partition, "train"), np.arange(len(labels["train"])))
    assert np.array_equal(all_rows(partition, "test"), np.flatnonzero(np.isin(labels["test"], labels["train"])))
    # Test images are in proportion to training images, to within one: for a client and class, and for a client.
    share = train * (test.sum(axis=0) / train.sum(axis=0))
    assert np.abs(test - share).max() < 1
    assert np.abs((test - share).sum(axis=1)).max() < 1
    # A client is tested on no class that it does not train on, and on every class of which its share is an image.
    assert not (test[train == 0]).any()
    assert (test[share >= 1] > 0).all()
    assert_same_partition(partition, make_partition(dataset, spec))

    sizes, classes_per_client = train.sum(axis=1), (train > 0).sum(axis=1)
    if spec.scheme == "shards":
        assert classes_per_client.max() <= spec.shards_per_client
        if np.ptp(train.sum(axis=0)) == 0 and spec.num_clients * spec.shards_per_client % dataset.num_classes == 0:
            assert np.ptp(sizes) <= 1
            if np.ptp(sizes) == np.ptp(test.sum(axis=0)) == 0:
                assert np.ptp(test.sum(axis=1)) <= 1
    elif spec.scheme == "classes":
        assert (classes_per_client == spec.num_classes_per_client).all()
    elif spec.scheme == "iid":
        assert np.ptp(sizes) <= 1


@settings(deadline=None, max_examples=50)
@given(st.integers(2, 12), st.data())
def test_in_a_natural_partition_every_client_holds_all_images_of_one_owner(num_owners, data):
    dataset = labelled_dataset([40, 25, 60], [30, 20, 30], num_owners, seed=data.draw(st.integers(0, 99)))
    num_clients = data.draw(st.integers(1, len(np.unique(dataset.owners["train"]))))
    partition = make_or_skip(dataset, partition_spec("natural", num_clients=num_clients, seed=data.draw(seeds)))
    owners = set()
    for client in partition.clients:
        (owner,) = set(dataset.owners["train"][partition.rows["train"][client]])
        owners.add(owner)
        for split in SPLITS:
            rows = np.flatnonzero(dataset.owners[split] == owner)
            assert np.array_equal(np.sort(partition.rows[split][client]), rows)
    assert len(owners) == num_clients


@pytest.mark.parametrize("scheme", PARTITIONS)
def test_the_seed_decides_the_partition(scheme):
    dataset = labelled_dataset([30] * 5, [20] * 5, owners=4)
    options = {"num_clients": 3 if scheme == "natural" else 5, "dirichlet_beta": 5.0}
    one, again, other = (make_partition(dataset, partition_spec(scheme, seed=seed, **options)) for seed in (1, 1, 2))
    assert_same_partition(one, again)
    assert not np.array_equal(one.rows["train"][0], other.rows["train"][0])


@pytest.mark.parametrize("scheme", PARTITIONS)
def test_rows_are_in_random_order(scheme):
    """Evaluation takes images in order, and BatchNorm needs batches of mixed classes."""
    dataset = labelled_dataset([50] * 4, [30] * 4, owners=2)
    rows = make_partition(dataset, partition_spec(scheme, num_clients=2 if scheme == "natural" else 4)).rows
    for split in SPLITS:
        labels = dataset.labels[split][rows[split][0]]
        assert not np.array_equal(rows[split][0], np.sort(rows[split][0]))
        assert len(set(labels)) == 1 or not np.array_equal(labels, np.sort(labels))


@pytest.mark.parametrize("num_clients", [5, 7, 40, 150])
@pytest.mark.parametrize("scheme", PARTITIONS)
def test_an_iid_test_set_is_spread_evenly(num_clients, scheme):
    dataset = labelled_dataset([600] * 5, [60] * 5, owners=200)
    options = {"num_clients": num_clients, "dirichlet_beta": 5.0}
    partition = make_partition(dataset, partition_spec(scheme, iid_test_set=True, **options))
    _, test = train_and_test_counts(dataset, partition)
    assert np.array_equal(all_rows(partition, "test"), np.arange(300))
    assert np.ptp(test.sum(axis=1)) <= 1
    assert np.ptp(test, axis=0).max() <= 1
    if num_clients < 40 and scheme != "natural":  # with more clients, there are too few test images for the other way
        rows = make_partition(dataset, partition_spec(scheme, **options)).rows["train"]
        assert all(np.array_equal(partition.rows["train"][client], rows[client]) for client in rows)


def test_a_partition_is_made_once_and_again_if_its_file_is_damaged(capsys):
    dataset, spec = open_dataset(DataSpec("digits")), partition_spec(num_clients=12, seed=5)
    first = open_partition(dataset, spec)
    (path,) = dataset.folder.parent.glob("digits-*-shards-2-of-12-seed-5.npz")
    made = path.stat().st_mtime_ns
    assert_same_partition(first, open_partition(dataset, spec))
    assert path.stat().st_mtime_ns == made
    whole = path.read_bytes()
    for damaged in (whole[:-100], whole[:300] + b"\0" * 8 + whole[308:], b"", b"not a zip file"):
        path.write_bytes(damaged)
        assert_same_partition(first, open_partition(dataset, spec))
        assert path.read_bytes() == whole
        assert f"{path} is damaged" in capsys.readouterr().out


def test_no_changed_byte_of_its_file_changes_a_partition():
    dataset, spec = open_dataset(DataSpec("digits")), partition_spec(num_clients=12, seed=6)
    first = open_partition(dataset, spec)
    (path,) = dataset.folder.parent.glob("digits-*-shards-2-of-12-seed-6.npz")
    whole = path.read_bytes()
    headers = [*range(200), *range(len(whole) - 400, len(whole))]  # of an array and of the archive
    for position in [*headers[::3], *range(200, len(whole), 1000)]:
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        assert_same_partition(first, open_partition(dataset, spec))


def test_partitions_that_differ_have_files_of_their_own():
    dataset = open_dataset(DataSpec("digits"))
    specs = [
        partition_spec(**({"num_clients": 20, "seed": 77} | options))
        for options in (
            {}, {"shards_per_client": 3}, {"seed": 1}, {"num_clients": 21}, {"iid_test_set": True},
            {"scheme": "classes"}, {"scheme": "classes", "num_classes_per_client": 3},
            {"scheme": "dirichlet", "dirichlet_beta": 9.0}, {"scheme": "dirichlet", "dirichlet_beta": 8.0},
            {"scheme": "iid"},
        )
    ]  # fmt: skip
    before = set(dataset.folder.parent.glob("*.npz"))
    for spec in specs:
        open_partition(dataset, spec)
    assert len(set(dataset.folder.parent.glob("*.npz")) - before) == len(specs)


def test_the_name_of_a_column_may_have_characters_that_a_file_name_must_not():
    assert "/" not in partition_name(partition_spec("natural", client_column="owner/id: a"))


def test_a_node_with_local_data_holds_its_whole_dataset_in_random_order():
    partition = whole_dataset(open_dataset(DataSpec("digits")), client=5, seed=1)
    assert partition.clients == [5]
    for split, n in (("train", 1440), ("test", 300)):
        assert np.array_equal(np.sort(partition.rows[split][5]), np.arange(n))
        assert not np.array_equal(partition.rows[split][5], np.arange(n))
