"""From a dataset's name to the tensors of one client: decode once, partition, augment by the batch."""

from fedbabu.data.dataset import ImageDataset, open_dataset
from fedbabu.data.partitioning import (
    Partition,
    all_class_counts,
    class_counts,
    make_partition,
    open_partition,
    partition_name,
    partition_title,
    too_small_client,
    whole_dataset,
)
from fedbabu.data.simulation import data_spec, open_simulated_data
from fedbabu.data.source import DataSpec
from fedbabu.data.transforms import BatchTransform, Examples, client_examples

__all__ = [
    "BatchTransform",
    "DataSpec",
    "Examples",
    "ImageDataset",
    "Partition",
    "all_class_counts",
    "class_counts",
    "client_examples",
    "data_spec",
    "make_partition",
    "open_dataset",
    "open_partition",
    "open_simulated_data",
    "partition_name",
    "partition_title",
    "too_small_client",
    "whole_dataset",
]
