"""How the partitioners of flwr-datasets, which divide a `datasets.Dataset`, divide an array of labels."""

from collections.abc import Iterable
from typing import Any

import datasets
import numpy as np
import pyarrow
from flwr_datasets.partitioner import Partitioner

from fedbabu.data.source import IntArray


def load_partitions(partitioner: Partitioner, labels: IntArray) -> list[IntArray]:
    """The rows of every partition, given the column "label", or raises ValueError if they cannot be divided."""
    partitioner.dataset = _InMemoryDataset.from_dict({"row": np.arange(len(labels)), "label": labels})
    return [partitioner.load_partition(number)["row"] for number in range(partitioner.num_partitions)]


class _InMemoryDataset(datasets.Dataset):
    """A small dataset of numbers, whose columns are read as arrays and whose rows are selected at once.

    `datasets.Dataset` reads columns element by element and hashes every selection, which takes a minute for EMNIST.
    """

    def __getitem__(self, key: Any) -> Any:
        return self.data.column(key).to_numpy()

    def select(self, indices: Iterable[int], *args: Any, **kwargs: Any) -> "_InMemoryDataset":
        rows = pyarrow.array(np.asarray(indices, dtype=np.int64))
        return _InMemoryDataset(self.data.table.take(rows), self.info, fingerprint=self._fingerprint)
