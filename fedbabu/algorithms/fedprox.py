"""FedProx (Li et al., 2020) and the paper's FedProx+BABU (Section 5.2.5): local models are held near the global one."""

from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor

from fedbabu.algorithms.base import Algorithm, Batch, Part, Phase, cross_entropy
from fedbabu.algorithms.fedbabu import FEDBABU
from fedbabu.models import SplitNetwork

if TYPE_CHECKING:
    from fedbabu.config import RunConfig


def squared_distance(model: SplitNetwork, received: SplitNetwork) -> Tensor:
    """‖θ − θ_G‖² over the parameters in training, a scalar."""
    pairs = zip(model.parameters(), received.parameters(), strict=True)
    return sum((own - its.detach()).square().sum() for own, its in pairs if own.requires_grad)  # type: ignore[return-value]


def proximal(model: SplitNetwork, received: SplitNetwork, batch: Batch, config: "RunConfig") -> Tensor:
    """Cross-entropy + μ/2 ‖θ − θ_G‖²."""
    penalty = config.proximal_mu / 2 * squared_distance(model, received)
    return cross_entropy(model, received, batch, config) + penalty


KEYS = ("proximal-mu",)
FEDPROX = Algorithm("fedprox", trains=(Phase(Part.FULL, loss=proximal),), shares=Part.FULL, keys=KEYS)
FEDPROX_BABU = replace(FEDBABU, name="fedprox-babu", trains=(Phase(Part.BODY, loss=proximal),), keys=KEYS)
