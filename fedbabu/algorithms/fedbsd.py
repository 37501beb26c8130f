"""FedBSD: personalized federated learning via backbone self-distillation (Wang et al., MMAsia 2023).

Only its abstract was available. The abstract says: a client sends only its backbone (the body), receives the average
of all, and uses that average as the teacher of its local backbone; its head is private. These choices are ours: the
local model, head included, continues from where the client left it rather than from the global body; cross-entropy and
distillation are minimized together, for τ epochs; features are compared on the same augmented batch, either by the
Kullback-Leibler divergence of their softmax at temperature T, times T², or by their mean squared difference; and
clients fine-tune like those of the other algorithms.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fedbabu.algorithms.base import Algorithm, Batch, Coefficients, Part, Phase
from fedbabu.models import SplitNetwork


def feature_divergence(student: Tensor, teacher: Tensor, coefficients: Coefficients) -> Tensor:
    """Divergence of the student's features from the teacher's, both float32 [n, d]; a scalar, 0 if they are equal."""
    if coefficients["distillation-divergence"] == "mse":
        return F.mse_loss(student, teacher)
    temperature = coefficients["distillation-temperature"]
    student, teacher = (F.log_softmax(features / temperature, dim=1) for features in (student, teacher))
    return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def self_distillation(
    model: SplitNetwork, global_model: SplitNetwork, batch: Batch, coefficients: Coefficients
) -> Tensor:
    """Cross-entropy + weight · divergence between the features of the local and of the global body, a scalar."""
    images, labels = batch
    features = model.features(images)
    with torch.no_grad():
        teacher = global_model.features(images)
    distillation = coefficients["distillation-weight"] * feature_divergence(features, teacher, coefficients)
    return F.cross_entropy(model.head(features), labels) + distillation


FEDBSD = Algorithm(
    "fedbsd",
    title="FedBSD",
    trains=(Phase(Part.FULL, loss=self_distillation),),
    shares=Part.BODY,
    keeps=Part.FULL,
    coefficients=("distillation-weight", "distillation-divergence", "distillation-temperature"),
)
