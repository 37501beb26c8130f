"""Per-FedAvg (Fallah et al., 2020), first order (Appendix A.3): a global model that is one step from each client's own.

Each step uses two batches, support and query. Where an epoch has an odd number of batches, the last support batch is
paired with the epoch's first batch as its query. The support step is plain SGD; momentum belongs to the query steps.
"""

from dataclasses import replace

import torch
from torch import Tensor

from fedbabu.algorithms.base import Algorithm, EvaluationRule, Part, Phase, Step, TrainedOn, gradients_of

BETA_OF_THE_CODE = 0.1  # the rate of the query steps, a constant


def meta_step(step: Step) -> Tensor:
    """Move along the gradient on the query batch that is taken after a plain step with rate α on the support batch.

    The gradient is multiplied by β/α (the run-config key per-fedavg-beta), so that the step with learning rate α has
    rate β. Returns the loss of the query batch.
    """
    support, query = step.batches
    _, support_gradients = gradients_of(step, support)
    weights_before = [parameter.detach().clone() for parameter in step.parameters]
    with torch.no_grad():
        for parameter, gradient, rate in zip(step.parameters, support_gradients, step.learning_rates, strict=True):
            parameter.sub_(gradient, alpha=rate)
    loss, gradients = gradients_of(step, query)
    with torch.no_grad():
        for parameter, weight in zip(step.parameters, weights_before, strict=True):
            parameter.copy_(weight)
    beta_over_alpha = step.coefficients["per-fedavg-beta"]
    step.move([gradient * beta_over_alpha for gradient in gradients])
    return loss


PER_FEDAVG = Algorithm(
    "per-fedavg",
    title="Per-FedAvg",
    trains=(Phase(Part.FULL, step=meta_step, batches_per_step=2),),
    shares=Part.FULL,
    coefficients=("per-fedavg-beta",),
)


def meta_step_of_the_code(step: Step) -> Tensor:
    """The same with one momentum for both steps, and a constant rate of the query step (Update.py, lines 95 to 143)."""
    support, query = step.batches
    weights_before = [parameter.detach().clone() for parameter in step.parameters]
    _, gradients = gradients_of(step, support)
    step.move(gradients)
    loss, gradients = gradients_of(step, query)
    with torch.no_grad():
        for parameter, weight in zip(step.parameters, weights_before, strict=True):
            parameter.copy_(weight)
    step.move(gradients, BETA_OF_THE_CODE)
    return loss


def support_then_query_step(step: Step) -> Tensor:
    """A step on the support batch and then one on the query batch (`one_sgd_step` in Update.py)."""
    support, query = step.batches
    _, gradients = gradients_of(step, support)
    step.move(gradients)
    loss, gradients = gradients_of(step, query)
    step.move(gradients, BETA_OF_THE_CODE)
    return loss


# In the code, an epoch of B batches has ⌊B/τ⌋ + 1 steps of two batches each. Bugs: before it is tested, every client
# adapts to two batches of test images, and by a stale index these are those of the client that was sampled last.
PER_FEDAVG_AS_IN_THE_CODE = replace(
    PER_FEDAVG,
    trains=(
        Phase(
            Part.FULL,
            step=meta_step_of_the_code,
            batches_per_step=2,
            steps_per_epoch=lambda num_batches, num_epochs: num_batches // num_epochs + 1,
        ),
    ),
    personalizes=(
        Phase(
            Part.FULL,
            epochs=1,
            step=support_then_query_step,
            batches_per_step=2,
            steps_per_epoch=lambda num_batches, num_epochs: 1,
            trains_on=TrainedOn.TEST_IMAGES_OF_LAST_SAMPLED_CLIENT,
        ),
    ),
    coefficients=(),
    evaluation=EvaluationRule.PERSONALIZED_EVERY_ROUND,
)
