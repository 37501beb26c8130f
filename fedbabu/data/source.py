"""A dataset before it is decoded: its splits as the library `datasets` has them, and checks that we can use them."""

import os
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fedbabu.data.known import KNOWN_DATASETS, KnownDataset
from fedbabu.data.local_folder import load_local_folder
from fedbabu.errors import ConfigError

if TYPE_CHECKING:
    import datasets

SPLITS = ("train", "test")

ImageArray = npt.NDArray[np.uint8]  # [n, height, width, channels]
IntArray = npt.NDArray[np.int64]  # labels, owners or row numbers, [n]


@dataclass(frozen=True)
class DataSpec:
    """Which dataset is read, and which of its columns.

    An empty column means a known dataset's own, or the only one that can be meant.
    """

    dataset: str  # a key of KNOWN_DATASETS, the id of a dataset on the Hub, or a local folder
    image_column: str = ""
    label_column: str = ""  # class labels, texts or integers
    client_column: str = ""  # the owner of each image; only the partition scheme "natural" needs it
    test_fraction: float = 0.0  # of the training split, held out as the test split; 0 for the dataset's own
    crop_padding: int = -1  # as in BatchTransform; -1 for the dataset's own
    flip: bool | None = None  # as in BatchTransform; None for the dataset's own


@dataclass(frozen=True)
class Source:
    """A dataset before it is decoded."""

    name: str  # a key of KNOWN_DATASETS if the dataset is one of them, otherwise the run-config value
    known: KnownDataset  # with default values if the dataset is none of them
    spec: DataSpec  # with the dataset's columns filled in; the client column may be missing
    splits: dict[str, "datasets.Dataset"]  # "train" and "test"
    notes: tuple[str, ...] = ()  # sentences about how the dataset was read, without their full stops
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
    splits, notes = _load_splits(spec.dataset)
    existing = f"it has {', '.join(splits)}: add one"
    if "train" not in splits:
        raise ConfigError(f"dataset = '{spec.dataset}' has no train split; {existing}.")
    name = _recognize(spec, splits) or spec.dataset
    known = KNOWN_DATASETS.get(name) or KnownDataset("", "", "", "")
    test_fraction = spec.test_fraction or (known.test_fraction if "test" not in splits else 0)
    if not test_fraction and "test" not in splits:
        raise ConfigError(
            f"dataset = '{spec.dataset}' has no test split; {existing}, or set test-fraction, for example to 0.1, to "
            "hold that fraction of every client's images out."
        )
    columns = splits["train"].column_names
    image_columns, label_columns = _columns_that_can_be_meant(splits["train"])
    spec = replace(
        spec,
        image_column=spec.image_column or known.image_column or _only(image_columns),
        label_column=spec.label_column or known.label_column or _only(label_columns),
        client_column=spec.client_column or (known.client_column if known.client_column in columns else ""),
    )
    used = {split: splits[split] for split in (SPLITS[:1] if test_fraction else SPLITS)}
    if empty := [split for split, rows in used.items() if not len(rows)]:
        raise ConfigError(
            f"dataset = '{spec.dataset}' has no images in its {empty[0]} split: add some, or remove the split and set "
            "test-fraction."
        )
    left_out = {split: len(rows) for split, rows in splits.items() if split not in used and len(rows)}
    notes += [f"The {number} images of the split {split} are left out" for split, number in left_out.items()]
    for split, rows in used.items():
        used[split] = _check_columns(spec, split, rows)
    source = Source(name, known, spec, used, tuple(notes))
    return _hold_out_test_split(source, test_fraction) if test_fraction else source


def _only(columns: list[str]) -> str:
    """The only column of a list; empty if there are several or none."""
    return columns[0] if len(columns) == 1 else ""


def _columns_that_can_be_meant(rows: "datasets.Dataset") -> tuple[list[str], list[str]]:
    """The columns that can hold the images of a dataset, and those that can hold their classes."""
    import datasets

    features = rows.features
    images = [column for column, feature in features.items() if isinstance(feature, datasets.Image)]
    images = images or [column for column, feature in features.items() if _holds_images(feature)]
    labels = [column for column, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    return images, labels or [column for column in features if column not in images]


def _holds_images(feature: Any) -> bool:
    """Whether a column holds images, decoded by `datasets` or as the bytes of image files."""
    import datasets

    is_bytes = isinstance(feature, datasets.Value) and feature.dtype in ("binary", "large_binary")
    is_struct = isinstance(feature, dict) and _holds_images(feature.get("bytes"))
    return isinstance(feature, datasets.Image) or is_bytes or is_struct


def _load_splits(dataset: str) -> tuple[dict[str, "datasets.Dataset"], list[str]]:
    """Load a dataset by its name, its id on the Hub or its local folder; also, notes about what was left out."""
    from datasets import disable_progress_bars, load_dataset
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    disable_progress_bars()  # in the log of a run, those of worker processes are noise
    folder = Path(os.path.abspath(Path(dataset).expanduser()))
    if dataset not in KNOWN_DATASETS and folder.is_dir():
        return load_local_folder(folder)
    if dataset not in KNOWN_DATASETS and folder.is_file():
        raise ConfigError(f"dataset = '{dataset}' is a file: give the folder that it is in, {folder.parent}.")
    source = KNOWN_DATASETS[dataset].source if dataset in KNOWN_DATASETS else dataset
    if callable(source):
        return dict(source()), []
    not_found = (
        f"dataset = '{dataset}' is not on the Hub, and the folder {folder} does not exist: give "
        f"{', '.join(KNOWN_DATASETS)}, a Hub id, or a folder of parquet files or of images."
    )
    if dataset.startswith((".", "/", "~")) or dataset.count("/") > 1 or "\\" in dataset:  # a path
        raise ConfigError(not_found)
    try:
        if "/" not in source:
            # Where the Hub cannot be reached, `datasets` would answer a name like "pets" from its cache, with a local
            # folder of that name that was once read under another path.
            HfApi().dataset_info(source)
        return dict(load_dataset(source)), []
    except (DatasetNotFoundError, RepositoryNotFoundError) as error:
        raise ConfigError(not_found) from error
    except OSError as error:  # ConnectionError, and those of huggingface_hub
        raise ConfigError(
            f"The Hub cannot be reached to download '{source}', and there is no folder {folder}: give a local copy, as "
            "in --run-config \"dataset='/path/to/a/folder/of/parquet/files'\", or run the quickstart, which needs no "
            "download, with --run-config conf/quickstart.toml."
        ) from error
    except Exception as error:  # datasets raises errors of many kinds for files that it cannot read
        raise ConfigError(f"dataset = '{dataset}' cannot be used: {' '.join(str(error).split())}") from error


def _recognize(spec: DataSpec, splits: dict[str, "datasets.Dataset"]) -> str | None:
    """The name of the known dataset that this is: by its name, or because nothing tells a copy from it.

    A copy has the columns, the class names, the image shape and the numbers of images of the original.
    """
    from datasets import Image

    if spec.dataset in KNOWN_DATASETS:
        return spec.dataset
    features = splits["train"].features
    sizes = tuple(len(splits[split]) for split in SPLITS if split in splits)
    for name, known in KNOWN_DATASETS.items():
        names = getattr(features.get(known.label_column), "names", None)
        same_columns = (
            known.image_column in features
            and spec.image_column in ("", known.image_column)
            and spec.label_column in ("", known.label_column)
        )
        original_sizes = (sum(known.num_examples),) if known.test_fraction else known.num_examples
        same_classes = known.class_names is not None and names is not None and tuple(names) == known.class_names
        if same_columns and same_classes and sizes == original_sizes:
            with suppress(Exception):  # of many kinds, if the first image is damaged; decoding it will say so
                image = splits["train"].cast_column(known.image_column, Image())[0][known.image_column]
                if (1 if image.mode == "L" else 3, image.height, image.width) == known.image_shape:
                    return name
    return None


def _check_columns(spec: DataSpec, split: str, rows: "datasets.Dataset") -> "datasets.Dataset":
    """Check that the columns of a split exist and have the right types; returns it with its images as such."""
    import datasets

    dataset, image, label, client = spec.dataset, spec.image_column, spec.label_column, spec.client_column
    existing = f"the {split} split's columns are {', '.join(rows.column_names)}"
    missing = [key for key, column in (("image-column", image), ("label-column", label)) if not column]
    if missing:
        raise ConfigError(f"dataset = '{dataset}' needs {' and '.join(missing)} to be set: {existing}.")
    for key, column in (("image-column", image), ("label-column", label), ("client-column", client)):
        if column not in rows.column_names and (column or key != "client-column"):
            raise ConfigError(f"dataset = '{dataset}' has no {key} = '{column}': {existing}.")
    if not _holds_images(rows.features[image]):
        raise ConfigError(
            f"image-column = '{image}' of dataset = '{dataset}' holds no images: it must hold images, or the bytes of "
            "image files."
        )
    dtype = str(getattr(rows.features[label], "dtype", ""))
    if not isinstance(rows.features[label], datasets.ClassLabel) and "int" not in dtype and "string" not in dtype:
        raise ConfigError(
            f"label-column = '{label}' of dataset = '{dataset}' must hold class labels, texts or integers."
        )
    if client and not isinstance(rows.features[client], datasets.ClassLabel | datasets.Value):
        raise ConfigError(f"client-column = '{client}' of dataset = '{dataset}' must hold numbers or text.")
    return rows.cast_column(image, datasets.Image())


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
