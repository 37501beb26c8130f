"""Ditto (Li et al., 2021): FedAvg, and on each client a personal model that is pulled toward the global model.

The personal model starts from the first global model that its client receives, trains on the same batches as the
global model, and is evaluated without fine-tuning.
"""

from torch import Tensor

from fedbabu.algorithms.base import Algorithm, Batch, Coefficients, Part, Phase, cross_entropy
from fedbabu.algorithms.fedprox import squared_distance
from fedbabu.models import SplitNetwork


def pulled_to_global(
    model: SplitNetwork, global_model: SplitNetwork, batch: Batch, coefficients: Coefficients
) -> Tensor:
    """Cross-entropy + λ/2 ‖v − θ_G‖² of the personal model v, a scalar (λ in Appendix A.3)."""
    penalty = coefficients["ditto-lambda"] / 2 * squared_distance(model, global_model)
    return cross_entropy(model, global_model, batch, coefficients) + penalty


DITTO = Algorithm(
    "ditto",
    trains=(Phase(Part.FULL),),
    shares=Part.FULL,
    keeps=Part.FULL,
    trains_personal=(Phase(Part.FULL, loss=pulled_to_global),),
    personalizes=(),
    coefficients=("ditto-lambda",),
)
