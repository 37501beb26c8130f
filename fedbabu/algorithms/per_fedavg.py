"""Per-FedAvg (Fallah et al., 2020), first-order (Appendix A.3): a global model that is one step from every client's.

Each step takes two batches, support and query; where an epoch has an odd number of them, the last support batch has
the epoch's first as its query. The support step is a plain one, and momentum is the query steps'.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fedbabu.algorithms.base import Algorithm, Batch, Part, Phase

if TYPE_CHECKING:
    from fedbabu.config import RunConfig


def first_order_meta_gradient(
    loss: Callable[[Batch], Tensor],
    parameters: Sequence[nn.Parameter],
    batches: Sequence[Batch],
    learning_rates: Sequence[float],
    config: "RunConfig",
) -> tuple[Tensor, Sequence[Tensor]]:
    """The query batch's gradient after a step α on the support batch, to be followed from the weights before it.

    It is scaled by β/α, so that the step that is taken with it, whose rate is α, has rate β.
    """
    support, query = batches
    support_gradients = torch.autograd.grad(loss(support), parameters)
    with torch.no_grad():
        before = [parameter.clone() for parameter in parameters]
        for parameter, gradient, rate in zip(parameters, support_gradients, learning_rates, strict=True):
            parameter.sub_(gradient, alpha=rate)
    value = loss(query)
    gradients = [gradient * config.per_fedavg_beta for gradient in torch.autograd.grad(value, parameters)]
    with torch.no_grad():
        for parameter, old in zip(parameters, before, strict=True):
            parameter.copy_(old)
    return value.detach(), gradients


PER_FEDAVG = Algorithm(
    "per-fedavg",
    trains=(Phase(Part.FULL, gradient=first_order_meta_gradient, batches_per_step=2),),
    shares=Part.FULL,
)
