"""The paper's partition: shards of one class each, s to a client (Section 3, "Experimental setup")."""

from typing import TYPE_CHECKING

import numpy as np

from fedbabu.data.partitions.base import Scheme
from fedbabu.errors import ConfigError

if TYPE_CHECKING:
    import datasets
    from flwr_datasets.partitioner import Partitioner

    from fedbabu.config import RunConfig
    from fedbabu.data import ImageDataset


def _partitioner(config: "RunConfig", dataset: "ImageDataset", rows: "datasets.Dataset") -> "Partitioner":
    from fedbabu.data.partitions.label_shards import LabelShardPartitioner

    shards = config.num_clients * config.shards_per_client
    given = (
        f"num-clients = {config.num_clients} with shards-per-client = {config.shards_per_client} makes {shards} shards"
    )
    num_classes, num_images = len(np.unique(dataset.labels["train"])), len(rows)
    if config.shards_per_client > dataset.num_classes:
        raise ConfigError(
            f"shards-per-client = {config.shards_per_client} is more than the labels allow: '{dataset.name}' has "
            f"{dataset.num_classes} classes, so it must be from 1 to {dataset.num_classes}."
        )
    if shards < num_classes:
        raise ConfigError(
            f"{given} of one class each, which leaves some of the {num_classes} classes of '{dataset.name}' out: raise "
            f"either, to {num_classes} shards or more."
        )
    if shards > num_images:
        raise ConfigError(
            f"{given}, but '{dataset.name}' has only {num_images} training images: num-clients must be at most "
            f"{num_images // config.shards_per_client}."
        )
    partitioner = LabelShardPartitioner(config.num_clients, "label", config.shards_per_client, config.seed)
    partitioner.dataset = rows
    return partitioner


SHARDS = Scheme(
    "shards",
    _partitioner,
    setting="s = {shards-per-client}",
    keys=("shards-per-client",),
    way_out="lower num-clients or shards-per-client",
)
