"""Per-FedAvg (Fallah et al., 2020), first-order (Appendix A.3): a global model that is one step from every client's.

Each step takes two batches, support and query; where an epoch has an odd number of them, the last support batch has
the epoch's first as its query. The support step is a plain one, and momentum is the query steps'.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from fedbabu.algorithms.base import Algorithm, Part, Phase, Step


def first_order_meta_gradient(step: Step) -> tuple[Tensor, Sequence[Tensor]]:
    """The query batch's gradient after a step α on the support batch, to be followed from the weights before it.

    It is scaled by β/α, so that the step that is taken with it, whose rate is α, has rate β.
    """
    support, query = step.batches
    support_gradients = torch.autograd.grad(step.loss(support), step.parameters)
    before = [parameter.detach().clone() for parameter in step.parameters]
    with torch.no_grad():
        for parameter, gradient, rate in zip(step.parameters, support_gradients, step.learning_rates, strict=True):
            parameter.sub_(gradient, alpha=rate)
    loss = step.loss(query)
    beta = step.config.per_fedavg_beta
    gradients = [gradient * beta for gradient in torch.autograd.grad(loss, step.parameters)]
    with torch.no_grad():
        for parameter, old in zip(step.parameters, before, strict=True):
            parameter.copy_(old)
    return loss.detach(), gradients


PER_FEDAVG = Algorithm(
    "per-fedavg",
    trains=(Phase(Part.FULL, gradient=first_order_meta_gradient, batches_per_step=2),),
    shares=Part.FULL,
    keys=("per-fedavg-beta",),
)
