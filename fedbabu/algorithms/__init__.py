"""Every algorithm that the run-config key `algorithm` accepts. A new one needs its own file and one entry here."""

from fedbabu.algorithms.base import Algorithm, Batch, Coefficients, EvaluationRule, Part, Phase, Step, TrainedOn
from fedbabu.algorithms.ditto import DITTO, DITTO_AS_IN_THE_CODE
from fedbabu.algorithms.fedavg import FEDAVG
from fedbabu.algorithms.fedbabu import FEDBABU
from fedbabu.algorithms.fedbsd import FEDBSD
from fedbabu.algorithms.fedper import FEDPER, FEDPER_AS_IN_THE_CODE
from fedbabu.algorithms.fedprox import FEDPROX, FEDPROX_BABU
from fedbabu.algorithms.fedrep import FEDREP, FEDREP_AS_IN_THE_CODE
from fedbabu.algorithms.lg_fedavg import LG_FEDAVG, LG_FEDAVG_AS_IN_THE_CODE
from fedbabu.algorithms.local_only import LOCAL_ONLY, LOCAL_ONLY_AS_IN_THE_CODE
from fedbabu.algorithms.per_fedavg import PER_FEDAVG, PER_FEDAVG_AS_IN_THE_CODE

_ALL = (
    FEDAVG, FEDBABU, FEDPER, LG_FEDAVG, FEDREP, PER_FEDAVG, DITTO, LOCAL_ONLY, FEDPROX, FEDPROX_BABU, FEDBSD,
)  # fmt: skip
ALGORITHMS: dict[str, Algorithm] = {algorithm.name: algorithm for algorithm in _ALL}
if len(ALGORITHMS) < len(_ALL):  # a declaration that was made with `replace` needs a name of its own
    raise ValueError(f"Two algorithms have the same name: {', '.join(algorithm.name for algorithm in _ALL)}.")

# What the authors' code trains under the same name, where that is not what the paper's text says.
_AS_IN_THE_CODE = (
    FEDPER_AS_IN_THE_CODE, LG_FEDAVG_AS_IN_THE_CODE, FEDREP_AS_IN_THE_CODE, PER_FEDAVG_AS_IN_THE_CODE,
    DITTO_AS_IN_THE_CODE, LOCAL_ONLY_AS_IN_THE_CODE,
)  # fmt: skip
AS_IN_THE_CODE: dict[str, Algorithm] = {algorithm.name: algorithm for algorithm in _AS_IN_THE_CODE}


def find_algorithm(name: str, protocol: str = "text") -> Algorithm:
    """The algorithm of a name, as the paper's text has it or, with protocol = "code", as the authors' code has it.

    Raises:
        KeyError: If there is no algorithm of this name.
    """
    return AS_IN_THE_CODE.get(name, ALGORITHMS[name]) if protocol == "code" else ALGORITHMS[name]


__all__ = [
    "ALGORITHMS", "AS_IN_THE_CODE", "Algorithm", "Batch", "Coefficients", "EvaluationRule", "Part", "Phase", "Step",
    "TrainedOn", "find_algorithm",
]  # fmt: skip
