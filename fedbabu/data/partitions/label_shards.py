"""Shards of one class each, for labels that need not be balanced."""

import numpy as np

from fedbabu.data.partitions.rounding import round_table
from fedbabu.data.source import IntArray


def label_shards(labels: IntArray, num_clients: int, shards_per_client: int, seed: int) -> list[IntArray]:
    """Cut every class into shards, and give each client the rows of the same number of shards, in random order.

    flwr-datasets' `ShardPartitioner` cuts the sorted labels into shards of one size. If that size divides every class,
    this function gives the same partitions. If not, `ShardPartitioner` drops the remainder and makes shards of two
    classes; this function cuts each class by itself, the larger ones into more shards, so that every row is used and no
    client has more classes than shards. There must be at least as many shards as classes, and as many rows as shards.
    """
    _, labels, class_sizes = np.unique(labels, return_inverse=True, return_counts=True)
    num_classes, num_shards = len(class_sizes), num_clients * shards_per_client
    shards_of_class = np.ones_like(class_sizes)
    for _ in range(num_shards - num_classes):  # one more for the class with the largest shards
        shards_of_class[np.argmax(class_sizes / shards_of_class)] += 1
    class_of = np.repeat(np.arange(num_classes), shards_of_class)  # of each shard
    rng = np.random.default_rng(seed)
    shards = rng.permutation(num_shards)
    client_of = np.argsort(shards) // shards_per_client  # of each shard

    num_held = np.zeros((num_clients, num_classes), dtype=np.int64)  # shards that a client has of a class
    place = np.empty(num_shards, dtype=np.int64)  # of a shard among those of its class and client
    for shard, cell in enumerate(zip(client_of, class_of, strict=True)):
        place[shard] = num_held[cell]
        num_held[cell] += 1

    # How many rows of each class a client has: the totals of the client and of the class are those of their shards to
    # within one. A client's rows of a class are divided among its shards of that class, in order.
    num_rows = round_table(num_held * (class_sizes / shards_of_class), np.random.default_rng(seed))
    held, rows = num_held[client_of, class_of], num_rows[client_of, class_of]
    sizes = (place + 1) * rows // held - place * rows // held
    rows_of_shard = np.split(np.argsort(labels, kind="stable"), np.cumsum(sizes)[:-1])
    return [
        rng.permutation(np.concatenate([rows_of_shard[shard] for shard in shards_of_client]))
        for shards_of_client in shards.reshape(num_clients, shards_per_client)
    ]
