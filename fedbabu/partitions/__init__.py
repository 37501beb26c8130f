"""Every scheme that `partition` accepts: one file and one line here each."""

from fedbabu.partitions.base import Scheme
from fedbabu.partitions.classes import CLASSES
from fedbabu.partitions.dirichlet import DIRICHLET
from fedbabu.partitions.iid import IID
from fedbabu.partitions.natural import NATURAL
from fedbabu.partitions.shards import SHARDS

PARTITIONS = {scheme.name: scheme for scheme in (SHARDS, CLASSES, DIRICHLET, IID, NATURAL)}

__all__ = ["PARTITIONS", "Scheme"]
