"""Personalized federated learning via backbone self-distillation (Wang et al., MMAsia 2023), from its abstract.

The abstract says: a client sends only its backbone (the body), receives the average of all, and uses that as a
teacher for its local backbone; its head is private. These choices are ours: the local model, head included, goes on
from where the client left it rather than from the global body; cross-entropy and distillation are lowered together,
for τ epochs; features are compared on the same augmented batch, by the Kullback-Leibler divergence of their softmax at
a temperature T, times T², or by their mean squared difference; and clients fine-tune like those of other algorithms.
"""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from fedbabu.algorithms.base import Algorithm, Batch, Part, Phase
from fedbabu.models import SplitNetwork

if TYPE_CHECKING:
    from fedbabu.config import RunConfig


def divergence(student: Tensor, teacher: Tensor, config: "RunConfig") -> Tensor:
    """How far the student's features, float32 [n, d], are from the teacher's; a scalar, 0 if they are equal."""
    if config.distillation_divergence == "mse":
        return F.mse_loss(student, teacher)
    temperature = config.distillation_temperature
    student, teacher = (F.log_softmax(features / temperature, dim=1) for features in (student, teacher))
    return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def self_distillation(model: SplitNetwork, received: SplitNetwork, batch: Batch, config: "RunConfig") -> Tensor:
    """Cross-entropy + weight · divergence between the features of the local and of the received body."""
    images, labels = batch
    features = model.features(images)
    with torch.no_grad():
        teacher = received.features(images)
    return F.cross_entropy(model.head(features), labels) + config.distillation_weight * divergence(
        features, teacher, config
    )


FEDBSD = Algorithm(
    "fedbsd",
    trains=(Phase(Part.FULL, loss=self_distillation),),
    shares=Part.BODY,
    keeps=Part.FULL,
    keys=("distillation-weight", "distillation-divergence", "distillation-temperature"),
)
