"""What figures need besides what every run records, if the run config's `record` asks for it.

Clients measure it where they train or fine-tune anyway, the server at the end; nothing that they compute depends on it.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from fedbabu.config import RunConfig
from fedbabu.data import BatchTransform, Examples, client_examples, open_simulated_data
from fedbabu.models import SplitNetwork
from fedbabu.seeding import Purpose, numpy_generator
from fedbabu.training.aggregation import State
from fedbabu.training.evaluation import features
from fedbabu.training.local_sgd import DEVICE

FEATURES_PER_SPLIT = 2000  # images, for t-SNE


@dataclass
class ClassAccuracy:
    """A client's accuracy on the test images of classes that it trains on, and of others (Appendix P, Figure 13).

    Attributes:
        model: as it trains.
        test: the client's test examples.
        trained_on: bool [test examples], whether it trains on their class.
        transform: normalization.
        in_class, out_of_class: in percent, when training begins and after each of its epochs; NaN without such images.
    """

    model: SplitNetwork
    test: Examples
    trained_on: Tensor
    transform: BatchTransform
    in_class: list[float] = field(default_factory=list)
    out_of_class: list[float] = field(default_factory=list)

    def watch(self, epochs: Iterable[float]) -> Iterator[float]:
        """Pass epochs on as they are trained, and measure before and after each."""
        self._measure()
        for loss in epochs:
            self._measure()
            yield loss

    @torch.no_grad()
    def _measure(self) -> None:
        right = self.model.head(features(self.model, self.test, self.transform)).argmax(dim=1) == self.test.labels
        for values, chosen in ((self.in_class, self.trained_on), (self.out_of_class, ~self.trained_on)):
            values.append(100 * right[chosen].double().mean().item())


def mean_of_known(accuracies: npt.NDArray[np.float64]) -> list[float | None]:
    """The mean over clients, [clients, values], of those that are not NaN; None where all are."""
    known = np.isfinite(accuracies)
    sums, numbers = np.where(known, accuracies, 0).sum(axis=0), known.sum(axis=0)
    return [total / number if number else None for total, number in zip(sums.tolist(), numbers.tolist(), strict=True)]


def watch_directions(model: SplitNetwork, epochs: Iterable[float], directions: dict[str, Tensor]) -> Iterator[float]:
    """Pass epochs on as they are trained, and note which way the weights point before and after each.

    Args:
        model: as it trains.
        epochs: of training.
        directions: gets each weight as a vector of length one, float32 [n], under "0 <its name>" before the first
            epoch, "1 <its name>" after it, and so on. Biases and BatchNorm's parameters are no weights (Figure 12).
    """

    def note(epoch: int) -> None:
        for name, value in weights(model.state_dict()).items():
            directions[f"{epoch} {name}"] = F.normalize(value.flatten(), dim=0).cpu()

    note(0)
    for epoch, loss in enumerate(epochs, 1):
        note(epoch)
        yield loss


def weights(state: State) -> dict[str, Tensor]:
    """The weights of convolutions and linear layers of a state dict."""
    return {name: value for name, value in state.items() if value.dim() > 1}


def layer_similarity(directions: State, num_clients: int) -> dict[str, list[float]]:
    """The mean cosine similarity between two clients' weights (Appendix K), by layer, after 0, 1, … epochs.

    Args:
        directions: summed over clients, as `watch_directions` has them.
        num_clients: at least two.
    """
    similarity: dict[str, list[float]] = {}
    # The squared length of a sum of unit vectors is their number plus twice the cosine of every pair.
    for name, total in directions.items():
        cosine = (total.double().square().sum().item() - num_clients) / (num_clients * (num_clients - 1))
        similarity.setdefault(name.split(" ", 1)[1], []).append(cosine)
    return similarity


def body_features(
    model: SplitNetwork, state: State, config: RunConfig
) -> tuple[dict[str, Tensor], dict[str, Sequence[str]]]:
    """What the body makes of random training and test images of all clients, for t-SNE (Figures 15 and 16).

    Args:
        model: to load the state into.
        state: of the global model.
        config: the run's, which says where the images are.

    Returns:
        Under "train" and "test", float32 [images, features]; under "train-labels" and "test-labels", int64 [images].
        And as far as the dataset has them, under "class-names" and "superclasses", one for each class.
    """
    dataset, partition = open_simulated_data(config)
    model.to(DEVICE).load_state_dict(state)
    rng = numpy_generator(config.seed, Purpose.RECORDING)
    found = {}
    for split, clients in partition.rows.items():
        rows = rng.permutation(np.concatenate(list(clients.values())))[:FEATURES_PER_SPLIT]
        examples = client_examples(dataset.images[split], dataset.labels[split], rows, DEVICE)
        found[split] = features(model, examples, dataset.transform).cpu()
        found[f"{split}-labels"] = examples.labels.cpu()
    names = {"class-names": dataset.class_names, "superclasses": dataset.superclasses}
    return found, {kind: of_kind for kind, of_kind in names.items() if of_kind}
