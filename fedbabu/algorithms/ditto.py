"""Ditto (Li et al., 2021): FedAvg, and on each client a personal model that is pulled toward the global model.

The personal model starts from the first global model that its client receives, trains on the same batches as the
global model, and is evaluated without fine-tuning.
"""

import torch
from torch import Tensor

from fedbabu.algorithms.base import (
    Algorithm,
    Batch,
    Coefficients,
    EvaluationRule,
    Part,
    Phase,
    Step,
    cross_entropy,
    gradient_step,
)
from fedbabu.algorithms.fedprox import squared_distance
from fedbabu.algorithms.schedule import Schedule
from fedbabu.models import SplitNetwork


def pulled_to_global(
    model: SplitNetwork, global_model: SplitNetwork, batch: Batch, coefficients: Coefficients
) -> Tensor:
    """Cross-entropy + λ/2 ‖v − θ_G‖² of the personal model v, a scalar (λ in Appendix A.3)."""
    penalty = coefficients["ditto-lambda"] / 2 * squared_distance(model, global_model)
    return cross_entropy(model, global_model, batch, coefficients) + penalty


DITTO = Algorithm(
    "ditto",
    title="Ditto",
    trains=(Phase(Part.FULL),),
    shares=Part.FULL,
    keeps=Part.FULL,
    trains_personal=(Phase(Part.FULL, loss=pulled_to_global),),
    personalizes=(),
    coefficients=("ditto-lambda",),
)


def step_and_pull(step: Step) -> Tensor:
    """A step of SGD and, outside of its momentum, one of rate α · λ toward the global model (`LocalUpdateDitto`)."""
    with torch.no_grad():
        pairs = zip(step.parameters, step.global_parameters, strict=True)
        distances = [parameter - sent for parameter, sent in pairs]  # before the step
    loss = gradient_step(step)
    with torch.no_grad():
        for parameter, distance, rate in zip(step.parameters, distances, step.learning_rates, strict=True):
            parameter.sub_(distance, alpha=rate * step.coefficients["ditto-lambda"])
    return loss


# At the commit of the paper's time (ea83186), the code averages the personal models, and after each round resets all
# clients to the average (a bug); accuracy is taken before that. The learning rate stays as it is.
DITTO_AS_IN_THE_CODE = Algorithm(
    "ditto",
    title="Ditto",
    trains=(Phase(Part.FULL, step=step_and_pull),),
    shares=Part.FULL,
    keeps=Part.FULL,
    personalizes=(),
    schedule=Schedule(decays_after=()),
    coefficients=("ditto-lambda",),
    evaluation=EvaluationRule.BEFORE_AGGREGATION,
)
