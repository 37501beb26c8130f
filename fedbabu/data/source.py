"""Where a dataset comes from: its splits as flwr-datasets loads them, checked before anything is decoded."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedbabu.data.known import KNOWN_DATASETS, KnownDataset
from fedbabu.errors import ConfigError

if TYPE_CHECKING:
    import datasets

SPLITS = ("train", "test")


@dataclass(frozen=True)
class Source:
    """A dataset before it is decoded.

    Attributes:
        name: a key of KNOWN_DATASETS if it is one of them, else what the run config says.
        splits: "train" and "test", with the two columns below.
        image_column: of type datasets.Image.
        label_column: of class labels or integers.
        class_names: one per class, if the dataset has them.
    """

    name: str
    splits: dict[str, "datasets.Dataset"]
    image_column: str
    label_column: str
    class_names: tuple[str, ...] | None

    @property
    def known(self) -> KnownDataset | None:
        """What is known of the dataset by its name."""
        return KNOWN_DATASETS.get(self.name)


def load_source(dataset: str, image_column: str, label_column: str) -> Source:
    """Load a dataset by its name, its Hub id or its local folder; an empty column is a known dataset's own.

    Raises:
        ConfigError: if it cannot be found, reached or read, or lacks a split or column.
    """
    splits = _load_splits(dataset)
    name = _recognize(dataset, splits["train"].features, image_column, label_column) or dataset
    if known := KNOWN_DATASETS.get(name):
        image_column, label_column = image_column or known.image_column, label_column or known.label_column
    for split in SPLITS:
        _check_columns(dataset, split, splits[split], image_column, label_column)
    names = getattr(splits["train"].features[label_column], "names", None)  # datasets gives both splits the same
    return Source(name, splits, image_column, label_column, tuple(names) if names else None)


def _load_splits(dataset: str) -> dict[str, "datasets.Dataset"]:
    from datasets import disable_progress_bars
    from datasets.exceptions import DatasetNotFoundError
    from flwr_datasets import FederatedDataset

    disable_progress_bars()  # from a worker, they are noise in the run's log
    folder = Path(dataset).expanduser()
    ways_on = f"give {', '.join(KNOWN_DATASETS)}, a Hub id, or a folder of parquet files"
    if dataset not in KNOWN_DATASETS and not folder.is_dir() and _looks_local(dataset):
        raise ConfigError(f"dataset = '{dataset}' is a folder that does not exist ({folder.absolute()}): {ways_on}.")
    with tempfile.TemporaryDirectory() as scratch:
        known = KNOWN_DATASETS.get(dataset)
        source = known.source if known else str(folder)
        if callable(source):
            source(Path(scratch))
            source = scratch
        try:
            federated = FederatedDataset(dataset=source, partitioners={}, shuffle=False)
            return {split: federated.load_split(split) for split in SPLITS}
        except DatasetNotFoundError as error:
            raise ConfigError(
                f"dataset = '{dataset}' is neither on the Hub nor a local folder ({folder.absolute()}): {ways_on}."
            ) from error
        except ConnectionError as error:
            raise ConfigError(
                f"The Hub cannot be reached to download '{source}', and there is no folder {folder.absolute()}: give a "
                "local copy, as in --run-config \"dataset='/path/to/a/folder/of/parquet/files'\", or run the "
                "quickstart, which needs no download, with --run-config conf/quickstart.toml."
            ) from error
        except Exception as error:  # whatever datasets makes of files that it cannot read
            raise ConfigError(f"dataset = '{dataset}' cannot be used: {' '.join(str(error).split())}") from error


def _looks_local(dataset: str) -> bool:
    return dataset.startswith((".", "/", "~")) or dataset.count("/") > 1 or "\\" in dataset


def _recognize(dataset: str, features: "datasets.Features", image_column: str, label_column: str) -> str | None:
    """The known dataset that this is, by its name or by the columns and class names of a copy of it."""
    if dataset in KNOWN_DATASETS:
        return dataset
    for name, known in KNOWN_DATASETS.items():
        names = getattr(features.get(known.label_column), "names", None)
        if (
            known.image_column in features
            and image_column in ("", known.image_column)
            and label_column in ("", known.label_column)
            and names
            and (len(names), names[0], names[-1]) == known.classes
        ):
            return name
    return None


def _check_columns(dataset: str, split: str, rows: "datasets.Dataset", image: str, label: str) -> None:
    import datasets

    there_are = f"the {split} split's columns are {', '.join(rows.column_names)}"
    if not image and not label:
        raise ConfigError(f"dataset = '{dataset}' needs image-column and label-column to be set: {there_are}.")
    for key, column in (("image-column", image), ("label-column", label)):
        if column not in rows.column_names:
            raise ConfigError(f"dataset = '{dataset}' has no {key} = '{column}': {there_are}.")
    if not isinstance(rows.features[image], datasets.Image):
        raise ConfigError(f"image-column = '{image}' of dataset = '{dataset}' holds no images.")
    feature = rows.features[label]
    if not isinstance(feature, datasets.ClassLabel) and "int" not in str(getattr(feature, "dtype", "")):
        raise ConfigError(f"label-column = '{label}' of dataset = '{dataset}' must hold class labels or integers.")
    if len(rows) == 0:
        raise ConfigError(f"dataset = '{dataset}' has no rows in its {split} split.")
