"""FedProx (Li et al., 2020) and the paper's FedProx+BABU (Section 5.2.5): local models stay near the global model."""

from dataclasses import replace

from torch import Tensor

from fedbabu.algorithms.base import Algorithm, Batch, Coefficients, Part, Phase, cross_entropy
from fedbabu.algorithms.fedbabu import FEDBABU
from fedbabu.models import SplitNetwork


def squared_distance(model: SplitNetwork, global_model: SplitNetwork) -> Tensor:
    """‖θ − θ_G‖² over the parameters that are being trained, a scalar."""
    pairs = zip(model.parameters(), global_model.parameters(), strict=True)
    return sum((local - sent.detach()).square().sum() for local, sent in pairs if local.requires_grad)  # type: ignore[return-value]


def proximal_loss(model: SplitNetwork, global_model: SplitNetwork, batch: Batch, coefficients: Coefficients) -> Tensor:
    """Cross-entropy + μ/2 ‖θ − θ_G‖², a scalar."""
    penalty = coefficients["proximal-mu"] / 2 * squared_distance(model, global_model)
    return cross_entropy(model, global_model, batch, coefficients) + penalty


FEDPROX = Algorithm(
    "fedprox",
    title="FedProx",
    trains=(Phase(Part.FULL, loss=proximal_loss),),
    shares=Part.FULL,
    coefficients=("proximal-mu",),
)
FEDPROX_BABU = replace(
    FEDBABU,
    name="fedprox-babu",
    title="FedProx+BABU",
    trains=(Phase(Part.BODY, loss=proximal_loss),),
    coefficients=("proximal-mu",),
)
