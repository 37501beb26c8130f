"""A network with all that it takes to classify images, one or many: in memory, and as a file for a client's own."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fedbabu.data.transforms import BatchTransform, Examples
from fedbabu.errors import RunError
from fedbabu.models import MODELS, SplitNetwork, build_model
from fedbabu.models.fixed_statistics import add_statistics, measure_statistics
from fedbabu.runs.files import DamagedError, load_state, save_state
from fedbabu.training.client import Client
from fedbabu.training.evaluation import features_and_scores

STATISTICS_BATCH = 512  # training images whose BatchNorm statistics are taken at once
FORMAT = "fedbabu-model"  # the entry of the file's metadata that describes the model


@dataclass(frozen=True)
class Classifier:
    """A network in evaluation mode, and what its input and output are.

    BatchNorm of a saved one has fixed statistics, and so does not depend on the batch. Without them, as in the global
    model of a run, an image alone, or images of one class, are classified less well than a mixed batch.
    """

    network: SplitNetwork
    model_name: str  # a key of MODELS
    head_blocks: int
    image_shape: tuple[int, int, int]  # channels, height and width of the images
    class_names: Sequence[str | int]  # in the order of the outputs
    mean: Sequence[float]  # with which each channel is normalized, of pixel values scaled to [0, 1]
    std: Sequence[float]

    @classmethod
    def of_client(cls, client: Client) -> "Classifier":
        """A copy of a client's model as it is now, with the statistics of the client's training images."""
        config, dataset = client.config, client.dataset
        network = build_model(
            config.model_name, dataset.image_shape, dataset.num_classes, seed=0, head_blocks=config.head_blocks
        )
        network.load_state_dict(client.model.state_dict())
        images = client.examples("train").images.cpu()
        batches = images.tensor_split(-(-len(images) // STATISTICS_BATCH))
        measure_statistics(network, (dataset.transform.normalize(batch) for batch in batches))
        return cls(
            network, config.model_name, config.head_blocks, dataset.image_shape, dataset.class_names,
            dataset.transform.mean, dataset.transform.std,
        )  # fmt: skip

    def save(self, path: Path) -> None:
        """Write the model to a safetensors file; what describes it is in the file's metadata."""
        description = {
            "network": self.model_name,
            "head-blocks": self.head_blocks,
            "image-shape": list(self.image_shape),
            "class-names": list(self.class_names),
            "mean": list(self.mean),
            "std": list(self.std),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        save_state(path, self.network.state_dict(), {FORMAT: description})

    @classmethod
    def load(cls, path: Path) -> "Classifier":
        """Read what `save` wrote; RunError is raised if the file is no such model, or if it is damaged."""
        try:
            state, values = load_state(path)
            described: dict[str, Any] = values[FORMAT]
            name, shape = described["network"], tuple(described["image-shape"])
            if name not in MODELS:
                raise ValueError(f"its network is {name!r}")
            network = build_model(
                name, shape, len(described["class-names"]), seed=0, head_blocks=described["head-blocks"]
            )
            add_statistics(network)
            network.load_state_dict(state)
        except (DamagedError, LookupError, TypeError, ValueError, RuntimeError) as error:
            saved = "that keep-personalized or `fedbabu personalize` saved"
            raise RunError(f"{path} is not a model {saved}: {error}.") from error
        return cls(
            network.eval(), name, described["head-blocks"], shape, described["class-names"],
            described["mean"], described["std"],
        )  # fmt: skip

    def probabilities(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """The probability of each class, float32 [n, classes], for images, uint8 [n, height, width, channels].

        Raises:
            ValueError: If the images have another type or shape than those that the network was trained on.
        """
        channels, height, width = self.image_shape
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (height, width, channels):
            raise ValueError(
                f"The images are {images.dtype} {list(images.shape)}: they must be uint8 [n, {height}, {width}, "
                f"{channels}]."
            )
        examples = Examples(torch.from_numpy(images).permute(0, 3, 1, 2), torch.zeros(len(images), dtype=torch.int64))
        _, scores = features_and_scores(self.network, examples, BatchTransform(tuple(self.mean), tuple(self.std)))
        return scores.softmax(dim=1).numpy()

    def predict(self, images: npt.NDArray[np.uint8]) -> list[str | int]:
        """The most probable class of each image, uint8 [n, height, width, channels]."""
        return [self.class_names[number] for number in self.probabilities(images).argmax(axis=1)]
