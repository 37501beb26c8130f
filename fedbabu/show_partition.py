"""Look at a partition before anything is trained.

It takes what `flwr run` takes as --run-config, prints what the clients will hold, and draws clients against classes as
the paper's Figures 10, 11 and 14 do.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from click import ClickException
from flwr.common.config import parse_config_args
from rich.console import Console
from rich.table import Table

from fedbabu.config import RunConfig, default_run_config
from fedbabu.data import ImageDataset, all_class_counts, open_simulated_data, partition_name, partition_title
from fedbabu.errors import ConfigError
from fedbabu.plots import clients_and_classes, save_figure
from fedbabu.runs.folder import results_path


def summary(config: RunConfig, dataset: ImageDataset, counts: Mapping[str, npt.NDArray[np.int64]]) -> Table:
    """What the clients hold: how many images and classes, from the least to the most."""
    of_all = " and ".join(
        f"{counts[split].sum()} of {len(dataset.labels[split])} {words} images"
        for split, words in (("train", "training"), ("test", "test"))
    )
    table = Table(title=partition_title(dataset, config), caption=of_all, caption_justify="left", title_justify="left")
    table.add_column("of a client")
    for name in ("mean", "std", "least", "median", "most"):
        table.add_column(name, justify="right")
    held = {split: array > 0 for split, array in counts.items()}
    for name, values in {
        "training images": counts["train"].sum(axis=1),
        "test images": counts["test"].sum(axis=1),
        "classes in training": held["train"].sum(axis=1),
        "classes in testing": held["test"].sum(axis=1),
        "of them, not in training": (held["test"] & ~held["train"]).sum(axis=1),
    }.items():
        middle = (f"{value:.1f}" for value in (values.mean(), values.std()))
        table.add_row(name, *middle, str(values.min()), f"{np.median(values):g}", str(values.max()))
    return table


def main(arguments: list[str] | None = None) -> None:
    """Print the summary and draw the picture.

    Raises:
        SystemExit: with one sentence, if the run config is wrong or the data cannot be used.
    """
    parser = argparse.ArgumentParser(prog="python -m fedbabu.show_partition", description="Look at a partition.")
    parser.add_argument("--run-config", action="append", default=[], help="as for `flwr run`: keys or a TOML file")
    parser.add_argument("--output", type=Path, help="the picture; by default, in results-dir")
    options = parser.parse_args(arguments)
    try:
        overrides = parse_config_args(options.run_config)
    except (ValueError, OSError, ClickException) as error:
        sys.exit(str(error))
    try:
        config = RunConfig.from_flower(default_run_config() | overrides)
        dataset, partition = open_simulated_data(config)
    except ConfigError as error:
        sys.exit(str(error))
    counts = all_class_counts(dataset, partition)
    table = summary(config, dataset, counts)
    Console(width=100).print(table)
    name = f"{Path(dataset.name).name}-{partition_name(config)}.png"
    path = (options.output or results_path(config) / "partitions" / name).absolute()
    path = path / name if path.is_dir() else path if path.suffix else path.with_suffix(".png")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_figure(clients_and_classes(counts, str(table.title), dataset.class_names, dataset.superclasses), path)
    except (OSError, ValueError) as error:
        sys.exit(f"The picture {path} cannot be written: {error}.")
    print(f"Picture: {path}")


if __name__ == "__main__":
    main()
