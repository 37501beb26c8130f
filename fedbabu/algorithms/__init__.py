"""Every algorithm that `algorithm` accepts: one file and one line here each."""

from fedbabu.algorithms.base import Algorithm, Part, Phase
from fedbabu.algorithms.fedavg import FEDAVG
from fedbabu.algorithms.fedbabu import FEDBABU

ALGORITHMS: dict[str, Algorithm] = {row.name: row for row in (FEDAVG, FEDBABU)}

__all__ = ["ALGORITHMS", "Algorithm", "Part", "Phase"]
