"""A run as Python objects: tables of its rounds and clients, and its network, ready to predict."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fedbabu.errors import RunError
from fedbabu.models import SplitNetwork
from fedbabu.runs.classifier import Classifier
from fedbabu.runs.folder import RunFolder

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

        return pd.DataFrame(self.folder.result_clients).assign(**self.folder.accuracies()).set_index("client")

    def network(self, best: bool = False) -> SplitNetwork:
        """The network with the weights of the last round, or of the best one, in evaluation mode on the CPU."""
        model = self.folder.build_model()
        model.load_state_dict(self.folder.best_model() if best else self.folder.model())
        return model.eval()

    def classifier(self, best: bool = False) -> Classifier:
        """The global model of the last round, or of the best one, ready to classify images.

        Raises:
            RunError: If the run did not record how its images are normalized, or the nodes normalize them differently.
        """
        normalization = self.folder.recorded.get("normalization")
        if normalization is None:
            raise RunError(f"The run in {self.folder.path} did not record one normalization of all its images.")
        config, image_shape = self.folder.run_config, tuple(self.folder.dataset["image-shape"])
        return Classifier(
            self.network(best), config.model_name, config.head_blocks, image_shape, self.class_names,
            normalization["mean"], normalization["std"],
        )  # fmt: skip

    def predict(self, images: npt.NDArray[np.uint8], best: bool = False) -> list[str | int]:
        """The classes that the global model predicts for images; see `classifier` and `Classifier.predict`."""
        return self.classifier(best).predict(images)


def load_run(path: str | Path) -> LoadedRun:
    """Open a run folder; raises RunError if it is none."""
    folder = RunFolder(Path(path).expanduser().absolute())
    try:
        _ = folder.run_config, folder.dataset["name"]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise RunError(f"{folder.path} is not the folder of a run that can be read: {error}.") from error
    return LoadedRun(folder)
