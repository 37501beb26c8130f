"""Every algorithm that the run-config key `algorithm` accepts. A new one needs its own file and one entry here."""

from fedbabu.algorithms.base import Algorithm, Batch, Coefficients, Part, Phase, Step
from fedbabu.algorithms.ditto import DITTO
from fedbabu.algorithms.fedavg import FEDAVG
from fedbabu.algorithms.fedbabu import FEDBABU
from fedbabu.algorithms.fedbsd import FEDBSD
from fedbabu.algorithms.fedper import FEDPER
from fedbabu.algorithms.fedprox import FEDPROX, FEDPROX_BABU
from fedbabu.algorithms.fedrep import FEDREP
from fedbabu.algorithms.lg_fedavg import LG_FEDAVG
from fedbabu.algorithms.local_only import LOCAL_ONLY
from fedbabu.algorithms.per_fedavg import PER_FEDAVG

_ALL = (
    FEDAVG, FEDBABU, FEDPER, LG_FEDAVG, FEDREP, PER_FEDAVG, DITTO, LOCAL_ONLY, FEDPROX, FEDPROX_BABU, FEDBSD,
)  # fmt: skip
ALGORITHMS: dict[str, Algorithm] = {algorithm.name: algorithm for algorithm in _ALL}

__all__ = ["ALGORITHMS", "Algorithm", "Batch", "Coefficients", "Part", "Phase", "Step"]
