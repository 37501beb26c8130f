"""A dataset before it is decoded: its splits as Hugging Face's `datasets` loads them, checked against what we need."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fedbabu.data.known import KNOWN_DATASETS, KnownDataset
from fedbabu.errors import ConfigError

if TYPE_CHECKING:
    import datasets

SPLITS = ("train", "test")

ImageArray = npt.NDArray[np.uint8]  # [n, height, width, channels]
IntArray = npt.NDArray[np.int64]  # labels, owners or row numbers, [n]


@dataclass(frozen=True)
class DataSpec:
    """Which dataset is read, and which of its columns; an empty column means a known dataset's own."""

    dataset: str  # a key of KNOWN_DATASETS, the id of a dataset on the Hub, or a folder for `datasets.load_dataset`
    image_column: str = ""
    label_column: str = ""  # class labels, or integers from 0
    client_column: str = ""  # the owner of each image; only the partition scheme "natural" needs it
    test_fraction: float = 0.0  # of the training split, held out as the test split; 0 for the dataset's own


@dataclass(frozen=True)
class Source:
    """A dataset before it is decoded."""

    name: str  # a key of KNOWN_DATASETS if the dataset is one of them, otherwise the run-config value
    known: KnownDataset  # with default values if the dataset is none of them
    spec: DataSpec  # with the dataset's columns filled in; the client column may be missing
    splits: dict[str, "datasets.Dataset"]  # "train" and "test"
    class_names: tuple[str, ...] | None
    original_rows: dict[str, IntArray] | None = None  # of each split in the original training split, if it was divided

    def values(self, column: str) -> dict[str, np.ndarray[Any, Any]]:
        """The values of a column in each split, as arrays [n], or raises ConfigError if one is missing."""
        columns = {split: rows.with_format("arrow")[column][:] for split, rows in self.splits.items()}
        for split, values in columns.items():
            if values.null_count:
                location = self.location(split, np.flatnonzero(values.is_null())[0])
                raise ConfigError(f"dataset = '{self.name}' has no '{column}' in {location}: every row needs one.")
        return {split: values.to_numpy() for split, values in columns.items()}

    def location(self, split: str, row: int) -> str:
        """The place of a row in the original dataset, for error messages."""
        if self.original_rows:
            split, row = "train", self.original_rows[split][row]
        return f"row {row} of its {split} split"


def load_source(spec: DataSpec) -> Source:
    """Load a dataset, or raise ConfigError if it cannot be found, reached or read, or lacks a split or column."""
    splits = _load_splits(spec.dataset)
    existing = f"it has {', '.join(splits)}: add one"
    if "train" not in splits:
        raise ConfigError(f"dataset = '{spec.dataset}' has no train split; {existing}.")
    columns = splits["train"].features
    name = _recognize(spec, columns) or spec.dataset
    known = KNOWN_DATASETS.get(name) or KnownDataset("", "", "")
    test_fraction = spec.test_fraction or (known.test_fraction if "test" not in splits else 0)
    if not test_fraction and "test" not in splits:
        raise ConfigError(
            f"dataset = '{spec.dataset}' has no test split; {existing}, or set test-fraction, for example to 0.1, to "
            "hold that fraction of every client's images out."
        )
    spec = replace(
        spec,
        image_column=spec.image_column or known.image_column,
        label_column=spec.label_column or known.label_column,
        client_column=spec.client_column or (known.client_column if known.client_column in columns else ""),
    )
    used = {split: splits[split] for split in (SPLITS[:1] if test_fraction else SPLITS)}
    for split, rows in used.items():
        _check_columns(spec, split, rows)
    names = getattr(columns[spec.label_column], "names", None)  # the same in both splits, as datasets ensures
    source = Source(name, known, spec, used, tuple(names) if names else None)
    return _hold_out_test_split(source, test_fraction) if test_fraction else source


def _load_splits(dataset: str) -> "datasets.DatasetDict":
    """Load a dataset by its name, its id on the Hub or its local folder."""
    from datasets import disable_progress_bars, load_dataset
    from datasets.exceptions import DatasetNotFoundError

    disable_progress_bars()  # in the log of a run, those of worker processes are noise
    folder = Path(dataset).expanduser()
    source = KNOWN_DATASETS[dataset].source if dataset in KNOWN_DATASETS else str(folder)
    if callable(source):
        return source()
    not_found = (
        f"dataset = '{dataset}' is not on the Hub, and the folder {folder.absolute()} does not exist: give "
        f"{', '.join(KNOWN_DATASETS)}, a Hub id, or a folder of parquet files or of images."
    )
    looks_like_a_path = dataset.startswith((".", "/", "~")) or dataset.count("/") > 1 or "\\" in dataset
    if looks_like_a_path and not folder.is_dir():
        raise ConfigError(not_found)
    try:
        return load_dataset(source)
    except DatasetNotFoundError as error:
        raise ConfigError(not_found) from error
    except ConnectionError as error:
        raise ConfigError(
            f"The Hub cannot be reached to download '{source}', and there is no folder {folder.absolute()}: give a "
            "local copy, as in --run-config \"dataset='/path/to/a/folder/of/parquet/files'\", or run the quickstart, "
            "which needs no download, with --run-config conf/quickstart.toml."
        ) from error
    except Exception as error:  # datasets raises errors of many kinds for files that it cannot read
        _check_parquet_files(dataset, Path(source))
        raise ConfigError(f"dataset = '{dataset}' cannot be used: {' '.join(str(error).split())}") from error


def _check_parquet_files(dataset: str, folder: Path) -> None:
    """Read every parquet file of a folder, since `datasets` does not say which one it could not read."""
    import pyarrow
    from pyarrow import parquet

    for path in sorted(folder.rglob("*.parquet")):
        try:
            for _ in parquet.ParquetFile(path).iter_batches():
                pass
        except (OSError, pyarrow.ArrowException) as error:
            raise ConfigError(
                f"dataset = '{dataset}' has a damaged file, {path} ({' '.join(str(error).split())}): replace it by an "
                "intact copy."
            ) from error


def _recognize(spec: DataSpec, features: "datasets.Features") -> str | None:
    """The name of the known dataset that this is, by its name or by the columns and class names of a copy."""
    if spec.dataset in KNOWN_DATASETS:
        return spec.dataset
    for name, known in KNOWN_DATASETS.items():
        names = getattr(features.get(known.label_column), "names", None)
        same_columns = (
            known.image_column in features
            and spec.image_column in ("", known.image_column)
            and spec.label_column in ("", known.label_column)
        )
        if same_columns and names and (len(names), names[0], names[-1]) == known.classes:
            return name
    return None


def _check_columns(spec: DataSpec, split: str, rows: "datasets.Dataset") -> None:
    """Check that a split has images and that its columns exist and have the right types."""
    import datasets

    dataset, image, label, client = spec.dataset, spec.image_column, spec.label_column, spec.client_column
    existing = f"the {split} split's columns are {', '.join(rows.column_names)}"
    if not image and not label:
        raise ConfigError(f"dataset = '{dataset}' needs image-column and label-column to be set: {existing}.")
    for key, column in (("image-column", image), ("label-column", label), ("client-column", client)):
        if column not in rows.column_names and (column or key != "client-column"):
            raise ConfigError(f"dataset = '{dataset}' has no {key} = '{column}': {existing}.")
    if not isinstance(rows.features[image], datasets.Image):
        raise ConfigError(f"image-column = '{image}' of dataset = '{dataset}' holds no images.")
    feature = rows.features[label]
    if not isinstance(feature, datasets.ClassLabel) and "int" not in str(getattr(feature, "dtype", "")):
        raise ConfigError(f"label-column = '{label}' of dataset = '{dataset}' must hold class labels or integers.")
    if client and not isinstance(rows.features[client], datasets.ClassLabel | datasets.Value):
        raise ConfigError(f"client-column = '{client}' of dataset = '{dataset}' must hold numbers or text.")
    if len(rows) == 0:
        raise ConfigError(f"dataset = '{dataset}' has no rows in its {split} split.")


def _hold_out_test_split(source: Source, fraction: float) -> Source:
    """Split the training rows at random into "train" and "test", in the same proportion for each owner or class.

    The new test split belongs to the dataset, as one that came with it would, so it does not depend on a run's seed.
    """
    rows = source.splits["train"]
    values = source.values(source.spec.client_column or source.spec.label_column)["train"]
    order = np.random.default_rng(0).permutation(len(rows))
    order = order[np.argsort(values[order], kind="stable")]
    num_test = np.floor(np.arange(len(rows) + 1) * fraction)  # among the first 0, 1, 2, … rows in this order
    is_test = np.diff(num_test) > 0
    if not is_test.any() or is_test.all():
        raise ConfigError(
            f"test-fraction = {fraction} of the {len(rows)} training images of '{source.name}' leaves no image to "
            f"{'train' if is_test.all() else 'test'} on: {'lower' if is_test.all() else 'raise'} it."
        )
    original_rows = {"train": np.sort(order[~is_test]), "test": np.sort(order[is_test])}
    splits = {split: rows.select(numbers) for split, numbers in original_rows.items()}
    return replace(source, splits=splits, original_rows=original_rows)
