"""A run as Python objects: tables of its rounds and clients, and its network, ready to predict."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fedbabu.data.transforms import BatchTransform, Examples
from fedbabu.errors import RunError
from fedbabu.models import SplitNetwork
from fedbabu.runs.folder import RunFolder
from fedbabu.training.evaluation import features_and_scores

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class LoadedRun:
    """A run folder, read when it is asked for."""

    folder: RunFolder

    @property
    def config(self) -> dict[str, Any]:
        """The run configuration, under Flower's key names."""
        return self.folder.config

    @property
    def class_names(self) -> list[str | int]:
        """The names of the classes, in the order of the labels; their numbers in a run of an earlier version."""
        return self.folder.recorded.get("class-names", list(range(self.folder.dataset["num-classes"])))

    @cached_property
    def rounds(self) -> "pd.DataFrame":
        """A row for each round that is over; the columns are the fields of rounds.jsonl."""
        import pandas as pd

        return pd.DataFrame([record.to_json() for record in self.folder.rounds]).set_index("round")

    @cached_property
    def clients(self) -> "pd.DataFrame":
        """A row for each client: what it holds, and its accuracies in percent.

        Those are "initial", "without-head" and "personalized", as far as the run has them, in the way in which its
        protocol measures; "accuracy" has those after 0, 1, … epochs of fine-tuning.
        """
        import pandas as pd

        best = self.folder.measurement.evaluated_round == "best"
        records = self.folder.best_clients if best else self.folder.clients
        return pd.DataFrame(records).assign(**self.folder.accuracies()).set_index("client")

    def network(self, best: bool = False) -> SplitNetwork:
        """The network with the weights of the last round, or of the best one, in evaluation mode on the CPU."""
        model = self.folder.build_model()
        model.load_state_dict(self.folder.best_model() if best else self.folder.model())
        return model.eval()

    def predict(self, images: np.ndarray[Any, Any], best: bool = False) -> list[str | int]:
        """The classes that the global model predicts for images.

        BatchNorm without running statistics uses those of the images, of up to 128 at a time: an image alone, or images
        of one class, are predicted less well than a mixed batch.

        Args:
            images: uint8 [n, height, width, channels], of the size of the training images.
            best: Whether to use the model of the best round instead of the last.

        Raises:
            RunError: If the run did not record how its images are normalized, or the nodes normalize them differently.
            ValueError: If the images have another shape.
        """
        normalization = self.folder.recorded.get("normalization")
        if normalization is None:
            raise RunError(f"The run in {self.folder.path} did not record one normalization of all its images.")
        channels, height, width = self.folder.dataset["image-shape"]
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (height, width, channels):
            raise ValueError(
                f"The images are {images.dtype} {list(images.shape)}: they must be uint8 [n, {height}, {width}, "
                f"{channels}]."
            )
        examples = Examples(torch.from_numpy(images).permute(0, 3, 1, 2), torch.zeros(len(images), dtype=torch.int64))
        transform = BatchTransform(tuple(normalization["mean"]), tuple(normalization["std"]))
        _, scores = features_and_scores(self.network(best), examples, transform)
        names: Sequence[str | int] = self.class_names
        return [names[label] for label in scores.argmax(dim=1).tolist()]


def load_run(path: str | Path) -> LoadedRun:
    """Open a run folder; raises RunError if it is none."""
    folder = RunFolder(Path(path).expanduser().absolute())
    try:
        _ = folder.run_config, folder.dataset["name"]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise RunError(f"{folder.path} is not the folder of a run that can be read: {error}.") from error
    return LoadedRun(folder)
