"""Per-FedAvg (Fallah et al., 2020), first order (Appendix A.3): a global model that is one step from each client's own.

Each step uses two batches, support and query. Where an epoch has an odd number of batches, the last support batch is
paired with the epoch's first batch as its query. The support step is plain SGD; momentum belongs to the query steps.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from fedbabu.algorithms.base import Algorithm, Part, Phase, Step


def first_order_meta_gradient(step: Step) -> tuple[Tensor, Sequence[Tensor]]:
    """Gradient on the query batch after a step with rate α on the support batch, at the weights before that step.

    The gradient is multiplied by β/α (the run-config key per-fedavg-beta), so that the SGD step that follows it with
    learning rate α has rate β.

    Returns:
        The loss of the query batch, a detached scalar, and one gradient per parameter.
    """
    support, query = step.batches
    support_gradients = torch.autograd.grad(step.loss(support), step.parameters)
    weights_before = [parameter.detach().clone() for parameter in step.parameters]
    with torch.no_grad():
        for parameter, gradient, rate in zip(step.parameters, support_gradients, step.learning_rates, strict=True):
            parameter.sub_(gradient, alpha=rate)
    loss = step.loss(query)
    beta = step.coefficients["per-fedavg-beta"]
    gradients = [gradient * beta for gradient in torch.autograd.grad(loss, step.parameters)]
    with torch.no_grad():
        for parameter, weight in zip(step.parameters, weights_before, strict=True):
            parameter.copy_(weight)
    return loss.detach(), gradients


PER_FEDAVG = Algorithm(
    "per-fedavg",
    trains=(Phase(Part.FULL, gradient=first_order_meta_gradient, batches_per_step=2),),
    shares=Part.FULL,
    coefficients=("per-fedavg-beta",),
)
