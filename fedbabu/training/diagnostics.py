"""Extra measurements that some figures need, made only if the run-config key `record` asks for them.

Clients make them while they train or are fine-tuned, the server at the end. No training result depends on them.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fedbabu.config import RunConfig
from fedbabu.data.partitions.partition import open_simulated_data
from fedbabu.data.transforms import BatchTransform, Examples, client_examples
from fedbabu.models import SplitNetwork
from fedbabu.seeding import Purpose, numpy_generator
from fedbabu.training.aggregation import State
from fedbabu.training.device import training_device
from fedbabu.training.evaluation import accuracy, features, features_and_scores

FEATURES_PER_SPLIT = 2000  # images, for t-SNE


class ClassAccuracyCurve:
    """Accuracy of a model in training on the whole test split, by its client's classes and others (Appendix P)."""

    def __init__(self, model: SplitNetwork, train: Examples, test: Examples, transform: BatchTransform) -> None:
        self.model, self.test, self.transform = model, test, transform
        self.trains_on = torch.isin(test.labels, train.labels)
        self.in_class: list[float] = []  # percent, one value per measurement
        self.out_of_class: list[float] = []  # NaN without test images of other classes

    @torch.no_grad()
    def measure(self) -> None:
        """Append the accuracies of the model as it is now."""
        predicted = features_and_scores(self.model, self.test, self.transform)[1].argmax(dim=1)
        for values, chosen in ((self.in_class, self.trains_on), (self.out_of_class, ~self.trains_on)):
            values.append(accuracy(predicted[chosen], self.test.labels[chosen]))


class WeightDirections:
    """The direction of every weight of a model during fine-tuning, to compare clients with (Appendix K, Figure 12)."""

    def __init__(self, model: SplitNetwork) -> None:
        self.model = model
        # Each weight as a vector of length one, float32 [n]: "0 <its name>" for the first call of `note`, and so on.
        self.directions: dict[str, Tensor] = {}
        self._epoch = 0

    def note(self) -> None:
        """Add the directions of the model's weights as they are now."""
        for name, value in layer_weights(self.model.state_dict()).items():
            self.directions[f"{self._epoch} {name}"] = F.normalize(value.flatten(), dim=0).cpu()
        self._epoch += 1


def mean_over_clients(accuracies_of_clients: Sequence[Sequence[float]]) -> list[float | None]:
    """The mean over clients of each of their accuracies, without NaNs; None where all clients have NaN."""
    accuracies = np.array(accuracies_of_clients)
    known = np.isfinite(accuracies)
    sums, numbers = np.where(known, accuracies, 0).sum(axis=0), known.sum(axis=0)
    return [total / number if number else None for total, number in zip(sums.tolist(), numbers.tolist(), strict=True)]


def layer_weights(state: State) -> dict[str, Tensor]:
    """The weights of convolutions and linear layers in a state dict, without biases and BatchNorm's parameters."""
    return {name: value for name, value in state.items() if value.dim() > 1}


def directions_without_values(state: State, num_measurements: int) -> dict[str, Tensor]:
    """Tensors with the names, shapes and type of summed `WeightDirections.directions`, and no values."""
    return {
        f"{epoch} {name}": torch.empty(value.numel(), dtype=torch.float64, device="meta")
        for epoch in range(num_measurements)
        for name, value in layer_weights(state).items()
    }


def layer_similarity(direction_sums: State, num_clients: int) -> dict[str, list[float]]:
    """The mean cosine similarity between two clients' weights (Appendix K), by layer, after 0, 1, … epochs.

    It is computed from `WeightDirections.directions`, summed over at least two clients.
    """
    similarity: dict[str, list[float]] = {}
    # The squared length of a sum of unit vectors is their number plus twice the cosines of all pairs.
    for name, total in direction_sums.items():
        cosine = (total.double().square().sum().item() - num_clients) / (num_clients * (num_clients - 1))
        similarity.setdefault(name.split(" ", 1)[1], []).append(cosine)
    return similarity


def body_features(
    model: SplitNetwork, state: State, config: RunConfig
) -> tuple[dict[str, Tensor], dict[str, Sequence[str]]]:
    """The body's features of random training and test images of all clients, for t-SNE (Figures 15 and 16).

    Returns:
        The features, float32 [images, d], under "train" and "test", with their labels, int64 [images], under
        "train-labels" and "test-labels"; and, as far as the dataset has them, the names of the classes under
        "class-names" and the superclass of each class under "superclasses".
    """
    dataset, partition = open_simulated_data(config.data_spec, config.partition_spec)
    device = training_device(config.device)
    model.to(device).load_state_dict(state)
    rng = numpy_generator(config.seed, Purpose.DIAGNOSTICS)
    tensors = {}
    for split in ("train", "test"):
        rows = partition.shuffled_rows(split, rng)[:FEATURES_PER_SPLIT]
        examples = client_examples(dataset.images[split], dataset.labels[split], rows, device)
        tensors[split] = features(model, examples, dataset.transform).cpu()
        tensors[f"{split}-labels"] = examples.labels.cpu()
    names = {"class-names": list(map(str, dataset.class_names)), "superclasses": dataset.superclasses}
    return tensors, {kind: names_of_kind for kind, names_of_kind in names.items() if names_of_kind}
