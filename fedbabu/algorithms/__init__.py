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

# What the authors' code trains under the same name, where that is not what the paper's text says.
AS_IN_THE_CODE: dict[str, Algorithm] = {}


def find_algorithm(name: str, protocol: str = "text") -> Algorithm:
    """The algorithm of a name, as the paper's text has it or, with protocol = "code", as the authors' code has it."""
    return AS_IN_THE_CODE.get(name, ALGORITHMS[name]) if protocol == "code" else ALGORITHMS[name]


__all__ = [
    "ALGORITHMS", "AS_IN_THE_CODE", "Algorithm", "Batch", "Coefficients", "Part", "Phase", "Step", "find_algorithm",
]  # fmt: skip
