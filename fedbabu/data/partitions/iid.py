"""Equal parts at random."""

from typing import TYPE_CHECKING

from fedbabu.data.partitions.base import Scheme

if TYPE_CHECKING:
    import datasets
    from flwr_datasets.partitioner import Partitioner

    from fedbabu.config import RunConfig
    from fedbabu.data import ImageDataset


def _partitioner(config: "RunConfig", dataset: "ImageDataset", rows: "datasets.Dataset") -> "Partitioner":
    from flwr_datasets.partitioner import IidPartitioner

    partitioner = IidPartitioner(config.num_clients)
    partitioner.dataset = rows.shuffle(seed=config.seed)
    return partitioner


IID = Scheme("iid", _partitioner, setting="IID", keys=(), way_out="lower num-clients")
