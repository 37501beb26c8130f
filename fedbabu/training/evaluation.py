"""Accuracy of one client: initial, and after each fine-tuning epoch (Sections 3 and 5.2.1)."""

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from torch import Tensor

from fedbabu.data.transforms import BatchTransform, Examples
from fedbabu.models import SplitNetwork

EVALUATION_BATCH_SIZE = 128  # as in the authors' code


def _check_percent(value: float) -> float:
    if value == value and not 0 <= value <= 100:
        raise ValueError("This is no percentage.")
    return value


Finite = Annotated[float, Field(allow_inf_nan=False)]
Percent = Annotated[float, Field(ge=0, le=100)]
PercentOrNaN = Annotated[float, AfterValidator(_check_percent)]  # NaN if the client has no such test images


TRAVELS = ConfigDict(strict=True, extra="forbid", ser_json_inf_nan="constants")  # of models that become JSON


class ClientResult(BaseModel):
    """What one client measured on its test images: before fine-tuning, and after each of its epochs."""

    model_config = TRAVELS

    accuracy: list[Percent] = []  # after 0, 1, … epochs of fine-tuning; the last is the personalized accuracy
    loss: list[Finite] = []  # mean cross-entropy at the same times
    # Accuracy on the test images whose class the client trains on (in-distribution, Appendix J), and on the other ones
    # (out-of-distribution); empty if they were not measured.
    id_accuracy: list[PercentOrNaN] = []
    ood_accuracy: list[PercentOrNaN] = []
    # Before fine-tuning, with class templates instead of the head, for each way of `config.TEMPLATES`; empty if it was
    # not measured.
    without_head_accuracy: dict[str, Percent] = {}


class ClientEvaluation:
    """Measures a client's model on its test images as often as asked, for example after every fine-tuning epoch.

    With `classes`, labels that the client trains on, int64 [k], in- and out-of-distribution accuracy is measured too.
    """

    def __init__(
        self, model: SplitNetwork, test: Examples, transform: BatchTransform, classes: Tensor | None = None
    ) -> None:
        self.model, self.test, self.transform = model, test, transform
        self.in_distribution = None if classes is None else torch.isin(test.labels, classes)
        self.result = ClientResult()

    @torch.no_grad()
    def measure(self) -> Tensor:
        """Append the accuracy and the loss of the model as it is now; returns the test features, float32 [n, d]."""
        result, labels = self.result, self.test.labels
        test_features, class_scores = features_and_scores(self.model, self.test, self.transform)
        result.accuracy.append(accuracy(class_scores.argmax(dim=1), labels))
        result.loss.append(F.cross_entropy(class_scores, labels).item())
        if self.in_distribution is not None:
            for values, chosen in (
                (result.id_accuracy, self.in_distribution),
                (result.ood_accuracy, ~self.in_distribution),
            ):
                values.append(accuracy(class_scores[chosen].argmax(dim=1), labels[chosen]))
        return test_features


class BestEpoch:
    """The parameters of a model in training after the epoch with the highest accuracy on its client's test images."""

    def __init__(self, model: SplitNetwork, test: Examples, transform: BatchTransform) -> None:
        self.model = model
        self.state: dict[str, Tensor] = {}
        self._evaluation, self._best_accuracy = ClientEvaluation(model, test, transform), -1.0

    def note(self) -> None:
        """Keep the parameters as they are now, if they are better than those of all earlier epochs."""
        self._evaluation.measure()
        if (accuracy := self._evaluation.result.accuracy[-1]) > self._best_accuracy:
            self._best_accuracy = accuracy
            self.state = {name: value.clone() for name, value in self.model.state_dict().items()}


def features(model: SplitNetwork, examples: Examples, transform: BatchTransform) -> Tensor:
    """The body's features, float32 [n, d], of examples that are normalized but not augmented."""
    return features_and_scores(model, examples, transform)[0]


@torch.no_grad()
def features_and_scores(model: SplitNetwork, examples: Examples, transform: BatchTransform) -> tuple[Tensor, Tensor]:
    """The body's features, float32 [n, d], of examples that are normalized but not augmented, and the class scores.

    BatchNorm may use the statistics of the batch, so up to 128 examples are evaluated in one batch, and more in
    batches of sizes that differ by at most one.
    """
    model.eval()
    batches = examples.images.tensor_split(-(-len(examples) // EVALUATION_BATCH_SIZE))
    of_batches = [model.features(transform.normalize(batch)) for batch in batches]
    return torch.cat(of_batches), torch.cat([model.head(each) for each in of_batches])


def accuracy(predicted: Tensor, labels: Tensor) -> float:
    """Percentage of predicted classes, int64 [n], that equal the labels, int64 [n]; NaN without any."""
    return 100 * (predicted == labels).double().mean().item()
