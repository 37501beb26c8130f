"""Each class is dealt to the clients in proportions drawn from a Dirichlet distribution (Appendix H, Table 18)."""

import warnings
from typing import TYPE_CHECKING

from fedbabu.data.partitions.base import Scheme
from fedbabu.errors import ConfigError

if TYPE_CHECKING:
    import datasets
    from flwr_datasets.partitioner import Partitioner

    from fedbabu.config import RunConfig
    from fedbabu.data import ImageDataset

LEAST = 10  # training images of a client; the smallest of these draws is made again, up to ten times


def _partitioner(config: "RunConfig", dataset: "ImageDataset", rows: "datasets.Dataset") -> "Partitioner":
    from flwr_datasets.partitioner import DirichletPartitioner

    def drawn(least: int) -> DirichletPartitioner:
        partitioner = DirichletPartitioner(
            config.num_clients, "label", config.dirichlet_beta, min_partition_size=least, seed=config.seed
        )
        partitioner.dataset = rows
        with warnings.catch_warnings():  # one for every draw that is made again
            warnings.simplefilter("ignore")
            partitioner.num_partitions  # noqa: B018  it is what makes the partitions
        return partitioner

    try:
        return drawn(LEAST)
    except ValueError as error:
        draw = drawn(0)
        sizes = [len(draw.load_partition(client)) for client in range(config.num_clients)]
        raise ConfigError(
            f"dirichlet-beta = {config.dirichlet_beta} with num-clients = {config.num_clients} leaves clients of "
            f"'{dataset.name}' with fewer than {LEAST} training images in each of ten draws (client "
            f"{sizes.index(min(sizes))} with {min(sizes)} in the first): raise dirichlet-beta or lower num-clients."
        ) from error


DIRICHLET = Scheme(
    "dirichlet",
    _partitioner,
    setting="Dirichlet, β = {dirichlet-beta}",
    keys=("dirichlet-beta",),
    way_out="raise dirichlet-beta or lower num-clients",
)
