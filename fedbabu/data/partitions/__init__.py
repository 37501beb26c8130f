"""Every scheme that `partition` accepts: one file and one line here each."""

from fedbabu.data.partitions.base import Scheme
from fedbabu.data.partitions.classes import CLASSES
from fedbabu.data.partitions.dirichlet import DIRICHLET
from fedbabu.data.partitions.iid import IID
from fedbabu.data.partitions.natural import NATURAL
from fedbabu.data.partitions.shards import SHARDS

PARTITIONS = {scheme.name: scheme for scheme in (SHARDS, CLASSES, DIRICHLET, IID, NATURAL)}

__all__ = ["PARTITIONS", "Scheme"]
