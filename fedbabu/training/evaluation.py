"""What a client measures (Section 3, "Evaluation"; Section 5.2.1): initial, without head and personalized."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from fedbabu.data import BatchTransform, Examples
from fedbabu.models import SplitNetwork

BATCH_SIZE = 128  # of evaluation, in the paper's official code


@dataclass(frozen=True)
class ClientResult:
    """What one client measured on its test images.

    Attributes:
        accuracy: percent, after 0 (before), 1, … fine-tuning epochs; the last is the personalized one.
        loss: mean cross-entropy, likewise.
        id_accuracy: of the test images whose class the client trains on (in-distribution, Appendix J), likewise;
            empty if it was not asked for.
        ood_accuracy: of those whose class it does not train on (out-of-distribution), likewise. NaN where there are
            no such images.
        without_head_accuracy: percent, before fine-tuning; None if it was not asked for.
    """

    accuracy: list[float]
    loss: list[float]
    id_accuracy: list[float] = field(default_factory=list)
    ood_accuracy: list[float] = field(default_factory=list)
    without_head_accuracy: float | None = None


def evaluate_initial(model: SplitNetwork, test: Examples, transform: BatchTransform) -> ClientResult:
    """Accuracy and loss of a model as it is."""
    accuracy, loss = _score(model, features(model, test, transform), test.labels)
    return ClientResult([accuracy], [loss])


def evaluate_personalized(
    model: SplitNetwork,
    train: Examples,
    test: Examples,
    transform: BatchTransform,
    fine_tune: Iterable[object],
    *,
    by_distribution: bool = False,
) -> ClientResult:
    """Accuracy and loss before fine-tuning and after each of its epochs, and accuracy without the head.

    Args:
        model: the client's model; fine-tuned in place.
        train: the client's training examples.
        test: its test examples.
        transform: normalization.
        fine_tune: trains the model for one more epoch each time it is advanced.
        by_distribution: whether to measure accuracy in and out of the client's distribution too.
    """
    result = ClientResult([], [])
    trained_on = torch.isin(test.labels, train.labels)

    def measure(test_features: Tensor) -> None:
        accuracy, loss = _score(model, test_features, test.labels)
        result.accuracy.append(accuracy)
        result.loss.append(loss)
        if by_distribution:
            for values, chosen in ((result.id_accuracy, trained_on), (result.ood_accuracy, ~trained_on)):
                values.append(_score(model, test_features[chosen], test.labels[chosen])[0])

    test_features = features(model, test, transform)
    templates = class_templates(features(model, train, transform), train.labels, model.head.out_features)
    without_head = _accuracy(nearest_template(test_features, templates), test.labels)
    measure(test_features)
    for _ in fine_tune:
        measure(features(model, test, transform))
    return replace(result, without_head_accuracy=without_head)


@torch.no_grad()
def features(model: SplitNetwork, examples: Examples, transform: BatchTransform) -> Tensor:
    """The body's features, float32 [n, d], of examples that are normalized but not augmented.

    BatchNorm has only the batch's own statistics to go by, so up to 128 examples go through in one batch, and
    more in batches as equal as can be.
    """
    model.eval()
    batches = examples.images.tensor_split(-(-len(examples) // BATCH_SIZE))
    return torch.cat([model.features(transform.normalize(batch)) for batch in batches])


def class_templates(train_features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """The mean feature of each class, float32 [classes, d]; NaN for a class without examples."""
    one_hot = F.one_hot(labels, num_classes).to(train_features.dtype)
    return one_hot.T @ train_features / one_hot.sum(dim=0).unsqueeze(1)


def nearest_template(test_features: Tensor, templates: Tensor) -> Tensor:
    """The class, int64 [n], whose template has the largest cosine similarity to each feature [n, d]."""
    similarity = F.normalize(test_features) @ F.normalize(templates).T
    return similarity.nan_to_num(nan=-torch.inf).argmax(dim=1)


@torch.no_grad()
def _score(model: SplitNetwork, test_features: Tensor, labels: Tensor) -> tuple[float, float]:
    logits = model.head(test_features)
    return _accuracy(logits.argmax(dim=1), labels), F.cross_entropy(logits, labels).item()


def _accuracy(predicted: Tensor, labels: Tensor) -> float:
    return 100 * (predicted == labels).double().mean().item()
