"""Who holds what: the schemes that divide a dataset among the clients, and the partition that results."""

from fedbabu.data.partitions.schemes import PARTITIONS, PartitionSpec, usable_owners

__all__ = ["PARTITIONS", "PartitionSpec", "usable_owners"]
