"""Ditto (Li et al., 2021): FedAvg, and beside it a personal model on each client that is pulled toward the global one.

The personal model starts as the first global model that its client receives, trains on the same batches as the
global one and is evaluated as it is.
"""

from typing import TYPE_CHECKING

from torch import Tensor

from fedbabu.algorithms.base import Algorithm, Batch, Part, Phase, cross_entropy
from fedbabu.algorithms.fedprox import squared_distance
from fedbabu.models import SplitNetwork

if TYPE_CHECKING:
    from fedbabu.config import RunConfig


def pulled(model: SplitNetwork, received: SplitNetwork, batch: Batch, config: "RunConfig") -> Tensor:
    """Cross-entropy + λ/2 ‖v − θ_G‖² of the personal model v (λ in Appendix A.3)."""
    penalty = config.ditto_lambda / 2 * squared_distance(model, received)
    return cross_entropy(model, received, batch, config) + penalty


DITTO = Algorithm(
    "ditto",
    trains=(Phase(Part.FULL),),
    shares=Part.FULL,
    keeps=Part.FULL,
    trains_kept=(Phase(Part.FULL, loss=pulled),),
    personalizes=(),
    keys=("ditto-lambda",),
)
