"""From a dataset's name to the tensors of one client: decode once, partition, augment by the batch."""

from fedbabu.data.cache import ImageDataset, open_dataset
from fedbabu.data.partition import Partition, open_partition, whole_dataset
from fedbabu.data.simulation import open_simulated_data
from fedbabu.data.transforms import BatchTransform, Examples, client_examples

__all__ = [
    "BatchTransform",
    "Examples",
    "ImageDataset",
    "Partition",
    "client_examples",
    "open_dataset",
    "open_partition",
    "open_simulated_data",
    "whole_dataset",
]
