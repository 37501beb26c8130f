"""Cutting every class into shards."""

import numpy as np
import pytest
from datasets import Dataset
from flwr_datasets.partitioner import ShardPartitioner
from support.partitions import labelled_dataset, partition_spec, train_and_test_counts

from fedbabu.data.partitions.label_shards import label_shards
from fedbabu.data.partitions.partition import make_partition


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of pyarrow, about how flwr-datasets sorts
@pytest.mark.parametrize(("num_clients", "shards", "seed"), [(10, 2, 0), (20, 3, 5), (5, 10, 42), (100, 1, 7)])
def test_for_balanced_labels_the_shards_are_those_of_flwr_datasets(num_clients, shards, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(10), 300))
    theirs = ShardPartitioner(num_clients, "label", shards, seed=seed)
    theirs.dataset = Dataset.from_dict({"label": labels, "row": np.arange(len(labels))})
    for client, rows in enumerate(label_shards(labels, num_clients, shards, seed)):
        assert list(rows) == list(theirs.load_partition(client)["row"])
    assert client + 1 == theirs.num_partitions


def test_larger_classes_are_cut_into_more_shards():
    dataset = labelled_dataset([600, 300, 100], [60, 30, 10])
    train, _ = train_and_test_counts(dataset, make_partition(dataset, partition_spec("shards", num_clients=10)))
    assert (train > 0).sum() <= 20
    assert train.sum(axis=1).tolist() == [100] * 10
