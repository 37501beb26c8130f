"""A partition scheme: how the training images of one dataset become N clients."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import datasets
    from flwr_datasets.partitioner import Partitioner

    from fedbabu.config import RunConfig
    from fedbabu.data import ImageDataset


@dataclass(frozen=True)
class Scheme:
    """A row of the table of partition schemes.

    The test images of a class go to the clients that train on it, in proportion to what they hold of it.

    Attributes:
        name: in the run configuration.
        partitioner: given the run configuration, the dataset and its training rows, with the columns `row` (its index),
            `label` and, if the dataset has it, `client`: flwr-datasets' partitioner of these rows into num-clients
            parts. Raises ConfigError if there is none.
        setting: for a title, with run-config keys in braces.
        keys: of the run configuration, besides num-clients and seed, that the partition depends on.
        way_out: what to change if a client comes out too small.
        by_client: whether a client's test images are its own, by the dataset's client column.
    """

    name: str
    partitioner: "Callable[[RunConfig, ImageDataset, datasets.Dataset], Partitioner]"
    setting: str
    keys: tuple[str, ...]
    way_out: str
    by_client: bool = False

    def title(self, run_config: Mapping[str, Any]) -> str:
        """The setting in a few words, from the run config under Flower's key names."""
        return self.setting.format_map(run_config)
