"""Where a dataset comes from: its splits as flwr-datasets loads them, checked before anything is decoded."""

import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fedbabu.data.known import KNOWN_DATASETS, KnownDataset
from fedbabu.errors import ConfigError

if TYPE_CHECKING:
    import datasets

SPLITS = ("train", "test")


@dataclass(frozen=True)
class DataSpec:
    """What the run configuration says of a dataset; an empty column is a known dataset's own.

    Attributes:
        dataset: a key of KNOWN_DATASETS, a Hub id, or a local folder that `datasets.load_dataset` can read.
        image_column: its column of images.
        label_column: its column of labels, ClassLabel or integers from 0.
        client_column: its column that says whose an image is; not needed unless the partition asks.
        test_fraction: of the training split that is held out as the test split; 0 to take the dataset's own.
    """

    dataset: str
    image_column: str = ""
    label_column: str = ""
    client_column: str = ""
    test_fraction: float = 0.0


@dataclass(frozen=True)
class Source:
    """A dataset before it is decoded.

    Attributes:
        name: a key of KNOWN_DATASETS if it is one of them, else what the run config says.
        splits: "train" and "test", with the columns below.
        image_column: of type datasets.Image.
        label_column: of class labels or integers.
        client_column: of anything that tells clients apart; empty if there is none.
        class_names: one per class, if the dataset has them.
        drawn: if the test split was held out from the training split, the rows there, int64 [n], of both.
    """

    name: str
    splits: dict[str, "datasets.Dataset"]
    image_column: str
    label_column: str
    client_column: str
    class_names: tuple[str, ...] | None
    drawn: dict[str, npt.NDArray[np.int64]] = field(default_factory=dict)

    def values(self, column: str) -> dict[str, np.ndarray[Any, Any]]:
        """A column's values in every split, as arrays [n].

        Raises:
            ConfigError: if a row has none.
        """
        columns = {split: rows.with_format("arrow")[column][:] for split, rows in self.splits.items()}
        for split, values in columns.items():
            if values.null_count:
                place = self.place(split, np.flatnonzero(values.is_null())[0])
                raise ConfigError(f"dataset = '{self.name}' has no '{column}' in {place}: every row needs one.")
        return {split: values.to_numpy() for split, values in columns.items()}

    def place(self, split: str, row: int) -> str:
        """Where to find a row of a split in the dataset as it came."""
        return f"row {self.drawn[split][row]} of its train split" if self.drawn else f"row {row} of its {split} split"

    @property
    def known(self) -> KnownDataset | None:
        """What is known of the dataset by its name."""
        return KNOWN_DATASETS.get(self.name)


def load_source(spec: DataSpec) -> Source:
    """Load a dataset by its name, its Hub id or its local folder.

    Raises:
        ConfigError: if it cannot be found, reached or read, or lacks a split or column.
    """
    splits = _load_splits(spec.dataset)
    if "train" not in splits:
        raise ConfigError(f"dataset = '{spec.dataset}' has no train split; it has {', '.join(splits)}: add one.")
    name = _recognize(spec, splits["train"].features) or spec.dataset
    known = KNOWN_DATASETS.get(name)
    fraction = spec.test_fraction or (known.test_fraction if known and "test" not in splits else 0)
    if not fraction and "test" not in splits:
        raise ConfigError(
            f"dataset = '{spec.dataset}' has no test split; it has {', '.join(splits)}: add one, or set test-fraction, "
            "to 0.1 say, to hold that part of every client's images out."
        )
    image, label, client = spec.image_column, spec.label_column, spec.client_column
    if known:
        image, label = image or known.image_column, label or known.label_column
        client = client or (known.client_column if known.client_column in splits["train"].column_names else "")
    splits = {split: splits[split] for split in (SPLITS[:1] if fraction else SPLITS)}
    for split, rows in splits.items():
        _check_columns(spec.dataset, split, rows, image, label, client)
    names = getattr(splits["train"].features[label], "names", None)  # datasets gives both splits the same
    source = Source(name, splits, image, label, client, tuple(names) if names else None)
    return _hold_out(source, client or label, fraction) if fraction else source


def _load_splits(dataset: str) -> dict[str, "datasets.Dataset"]:
    from datasets import DatasetDict, disable_progress_bars
    from datasets.exceptions import DatasetNotFoundError
    from flwr_datasets import FederatedDataset

    disable_progress_bars()  # from a worker, they are noise in the run's log
    folder = Path(dataset).expanduser()
    ways_on = f"give {', '.join(KNOWN_DATASETS)}, a Hub id, or a folder of parquet files or of images"
    if dataset not in KNOWN_DATASETS and not folder.is_dir() and _looks_local(dataset):
        raise ConfigError(f"dataset = '{dataset}' is a folder that does not exist ({folder.absolute()}): {ways_on}.")
    loaded: dict[str, datasets.Dataset] = {}

    def note(splits: DatasetDict) -> DatasetDict:
        loaded.update(splits)
        return splits

    with tempfile.TemporaryDirectory() as scratch:
        known = KNOWN_DATASETS.get(dataset)
        source = known.source if known else str(folder)
        if callable(source):
            source(Path(scratch))
            source = scratch
        try:
            federated = FederatedDataset(dataset=source, partitioners={}, shuffle=False, preprocessor=note)
            federated.load_split("train")
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
            if not loaded:
                _check_parquet_files(dataset, Path(source))
                raise ConfigError(f"dataset = '{dataset}' cannot be used: {' '.join(str(error).split())}") from error
    return loaded


def _looks_local(dataset: str) -> bool:
    return dataset.startswith((".", "/", "~")) or dataset.count("/") > 1 or "\\" in dataset


def _check_parquet_files(dataset: str, folder: Path) -> None:
    """Read every file again, since datasets does not say which one it could not read."""
    import pyarrow
    from pyarrow import parquet

    for path in sorted(folder.rglob("*.parquet")):
        try:
            file = parquet.ParquetFile(path)
            for group in range(file.num_row_groups):
                file.read_row_group(group)
        except (OSError, pyarrow.ArrowException) as error:
            raise ConfigError(
                f"dataset = '{dataset}' has a damaged file, {path} ({' '.join(str(error).split())}): replace it by an "
                "intact copy."
            ) from error


def _recognize(spec: DataSpec, features: "datasets.Features") -> str | None:
    """The known dataset that this is, by its name or by the columns and class names of a copy of it."""
    if spec.dataset in KNOWN_DATASETS:
        return spec.dataset
    for name, known in KNOWN_DATASETS.items():
        names = getattr(features.get(known.label_column), "names", None)
        if (
            known.image_column in features
            and spec.image_column in ("", known.image_column)
            and spec.label_column in ("", known.label_column)
            and names
            and (len(names), names[0], names[-1]) == known.classes
        ):
            return name
    return None


def _check_columns(dataset: str, split: str, rows: "datasets.Dataset", image: str, label: str, client: str) -> None:
    import datasets

    there_are = f"the {split} split's columns are {', '.join(rows.column_names)}"
    if not image and not label:
        raise ConfigError(f"dataset = '{dataset}' needs image-column and label-column to be set: {there_are}.")
    for key, column in (("image-column", image), ("label-column", label), ("client-column", client)):
        if column not in rows.column_names and (column or key != "client-column"):
            raise ConfigError(f"dataset = '{dataset}' has no {key} = '{column}': {there_are}.")
    if not isinstance(rows.features[image], datasets.Image):
        raise ConfigError(f"image-column = '{image}' of dataset = '{dataset}' holds no images.")
    feature = rows.features[label]
    if not isinstance(feature, datasets.ClassLabel) and "int" not in str(getattr(feature, "dtype", "")):
        raise ConfigError(f"label-column = '{label}' of dataset = '{dataset}' must hold class labels or integers.")
    if client and not isinstance(rows.features[client], datasets.ClassLabel | datasets.Value):
        raise ConfigError(f"client-column = '{client}' of dataset = '{dataset}' must hold numbers or text.")
    if len(rows) == 0:
        raise ConfigError(f"dataset = '{dataset}' has no rows in its {split} split.")


def _hold_out(source: Source, column: str, fraction: float) -> Source:
    """Split the training rows at random into "train" and "test", in the same proportion for every value of a column.

    The split is part of the dataset, like one that came with it, so it does not depend on a run's seed.
    """
    rows = source.splits["train"]
    _, values = np.unique(source.values(column)["train"], return_inverse=True)
    order = np.random.default_rng(0).permutation(len(rows))
    order = order[np.argsort(values[order], kind="stable")]
    due = np.floor(np.arange(len(rows) + 1) * fraction)  # test rows among the first 0, 1, 2, … in this order
    held = np.diff(due) > 0
    if not held.any() or held.all():
        raise ConfigError(
            f"test-fraction = {fraction} of the {len(rows)} training images of '{source.name}' leaves no image to "
            f"{'train' if held.all() else 'test'} on: {'lower' if held.all() else 'raise'} it."
        )
    drawn = {"train": np.sort(order[~held]), "test": np.sort(order[held])}
    return replace(source, splits={split: rows.select(kept) for split, kept in drawn.items()}, drawn=drawn)
