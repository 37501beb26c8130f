"""What each scheme cannot divide, and which keys its error names."""

import pytest
from support.errors import config_error
from support.partitions import labelled_dataset, partition_spec

from fedbabu.data.partitions import usable_owners
from fedbabu.data.partitions.partition import make_partition


@pytest.mark.parametrize(
    ("scheme", "options", "named"),
    [
        ("shards", {"shards_per_client": 5}, ["shards-per-client = 5", "4 classes", "from 1 to 4"]),
        (
            "shards",
            {"num_clients": 3, "shards_per_client": 1},
            ["num-clients = 3", "shards-per-client = 1", "4 shards"],
        ),
        ("shards", {"num_clients": 26, "shards_per_client": 4}, ["num-clients = 26", "104 shards", "at most 25"]),
        ("shards", {"num_clients": 50}, ["partition = 'shards'", "2 training and 0 test images", "shards-per-client"]),
        ("iid", {"num_clients": 50}, ["partition = 'iid'", "2 training and 0 test images", "lower num-clients"]),
        *((scheme, {"num_clients": 51}, ["num-clients = 51", "at most 50"]) for scheme in ("shards", "classes", "iid")),
        ("dirichlet", {"num_clients": 51}, ["num-clients = 51", "at most 50"]),
        ("classes", {"num_classes_per_client": 5}, ["num-classes-per-client = 5", "from 1 to 4"]),
        ("classes", {"num_clients": 3}, ["num-clients = 3", "partition = 'classes'", "at least 4"]),
        (
            "classes",
            {"num_clients": 50, "num_classes_per_client": 4},
            ["num-classes-per-client = 4", "num-clients = 50"],
        ),
        (
            "dirichlet",
            {"num_clients": 9, "dirichlet_beta": 0.01},
            ["dirichlet-beta = 0.01", "num-clients = 9", "fewer than 10 training images"],
        ),
        ("natural", {"num_clients": 2}, ["partition = 'natural'", "client-column"]),
    ],
)
def test_a_partition_that_cannot_be_made_is_an_error_that_names_its_keys(scheme, options, named):
    with config_error(*named):
        make_partition(labelled_dataset([25] * 4, [10] * 4), partition_spec(scheme, **({"num_clients": 10} | options)))


def test_there_cannot_be_more_clients_than_owners():
    with config_error("num-clients = 4", "the 3 owners", "at most 3"):
        make_partition(labelled_dataset([50], [20], owners=3), partition_spec("natural", num_clients=4))


def test_owners_with_too_few_images_are_left_out():
    dataset = labelled_dataset([90], [40], owners=4)
    dataset.owners["train"][:] = [0] * 50 + [1] * 30 + [2] * 9 + [3]
    dataset.owners["test"][:] = [0] * 10 + [1] * 10 + [2] * 10 + [3] * 10
    partition = make_partition(dataset, partition_spec("natural", num_clients=3))
    assert sorted(len(rows) for rows in partition.rows["train"].values()) == [9, 30, 50]
    spec = partition_spec("natural", num_clients=2, min_examples_per_owner=10)
    partition = make_partition(dataset, spec)
    assert sorted(len(rows) for rows in partition.rows["train"].values()) == [30, 50]
    assert usable_owners(spec, dataset)[1] == 2
    with config_error("num-clients = 3", "2 owners", "min-examples-per-owner = 10", "2 with fewer are left out"):
        make_partition(dataset, partition_spec("natural", num_clients=3, min_examples_per_owner=10))


def test_an_owner_without_test_images_cannot_be_a_client():
    dataset = labelled_dataset([50], [20], owners=3)
    dataset.owners["test"][:] = 1
    with config_error("the 1 owner ", "a test image", "num-clients must be at most 1"):
        make_partition(dataset, partition_spec("natural", num_clients=3))
