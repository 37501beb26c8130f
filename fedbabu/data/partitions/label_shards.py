"""A partitioner for flwr-datasets: shards of one class each, for labels that need not be balanced."""

from heapq import heapify, heapreplace

import datasets
import numpy as np
from flwr_datasets.partitioner import Partitioner

from fedbabu.data.partitions.rounding import round_table


class LabelShardPartitioner(Partitioner):
    """Cuts every class into shards and gives each partition the same number of them at random.

    `ShardPartitioner` cuts the sorted labels into shards of one size. Where that divides every class, this one gives
    the same partitions. Where it does not, `ShardPartitioner` drops the remainder and makes shards of two classes;
    this one cuts each class on its own, the larger ones into more shards, so that every example is used and
    no partition has more classes than shards.

    Args:
        num_partitions: of the dataset.
        partition_by: the column of labels.
        num_shards_per_partition: shards that a partition gets.
        seed: of who gets which, and of the order within a partition.
    """

    def __init__(self, num_partitions: int, partition_by: str, num_shards_per_partition: int, seed: int) -> None:
        super().__init__()
        self._num_partitions = num_partitions
        self._partition_by = partition_by
        self._num_shards_per_partition = num_shards_per_partition
        self._seed = seed
        self._rows: list[list[int]] = []

    @property
    def num_partitions(self) -> int:
        """Total number of partitions."""
        return self._num_partitions

    def load_partition(self, partition_id: int) -> datasets.Dataset:
        """Load a partition.

        Raises:
            ValueError: if there are fewer shards than classes, or more than examples.
        """
        self._rows = self._rows or self._cut()
        return self.dataset.select(self._rows[partition_id])

    def _cut(self) -> list[list[int]]:
        """The rows of every partition."""
        labels = np.asarray(self.dataset[self._partition_by][:])
        _, labels, counts = np.unique(labels, return_inverse=True, return_counts=True)
        num_shards = self._num_partitions * self._num_shards_per_partition
        if not len(counts) <= num_shards <= len(labels):
            raise ValueError(f"{len(labels)} examples of {len(counts)} classes cannot make {num_shards} shards.")
        shards = _shards_of_classes(counts, num_shards)
        class_of = np.repeat(np.arange(len(counts)), shards)
        rng = np.random.default_rng(self._seed)
        owned = rng.permutation(num_shards).reshape(self._num_partitions, self._num_shards_per_partition)

        owner = np.empty(num_shards, dtype=np.int64)
        owner[owned.ravel()] = np.repeat(np.arange(self._num_partitions), self._num_shards_per_partition)

        # How many examples a partition gets of a class, so that its size is that of its shards to within one;
        held = np.zeros((self._num_partitions, len(counts)), dtype=np.int64)
        np.add.at(held, (owner, class_of), 1)
        examples = round_table(held * (counts / shards), np.random.default_rng(self._seed))[owner, class_of]
        # its first, second, … shard of a class has their first, second, … part.
        held = held[owner, class_of]
        place = _place_in_group(owner * len(counts) + class_of)
        sizes = (place + 1) * examples // held - place * examples // held
        ends = np.cumsum(sizes)
        order = np.argsort(labels, kind="stable")
        partitions = []
        for own in owned:
            rows = [int(row) for shard in own for row in order[ends[shard] - sizes[shard] : ends[shard]]]
            rng.shuffle(rows)
            partitions.append(rows)
        return partitions


def _place_in_group(groups: np.ndarray) -> np.ndarray:
    """For each element, how many of its group come before it."""
    order = np.argsort(groups, kind="stable")
    place = np.empty_like(groups)
    place[order] = np.arange(len(groups)) - np.searchsorted(groups[order], groups[order])
    return place


def _shards_of_classes(counts: np.ndarray, num_shards: int) -> np.ndarray:
    """How many shards each class is cut into: one, and then one more wherever shards are largest."""
    shards = np.ones_like(counts)
    largest = [(-float(count), label) for label, count in enumerate(counts)]
    heapify(largest)
    for _ in range(num_shards - len(counts)):
        label = largest[0][1]
        shards[label] += 1
        heapreplace(largest, (-counts[label] / shards[label], label))
    return shards
