"""Parquet files in a local folder: which split each belongs to, and their rows with classes matched by name."""

import glob
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedbabu.data.split_names import split_of
from fedbabu.errors import ConfigError
from fedbabu.formatting import listed

if TYPE_CHECKING:
    import datasets


def load_parquet_files(folder: Path, files: Sequence[Path]) -> dict[str, "datasets.Dataset"]:
    """The splits in parquet files, where a folder or one word of a file's name says which one it is.

    Raises:
        ConfigError: If that is not clear for a file, or if a file is damaged or does not fit the others.
    """
    files_of: dict[str | None, list[Path]] = {}  # by the word that names the split; None if there is none
    for file in files:
        files_of.setdefault(_split_word(folder, file.relative_to(folder)), []).append(file)
    if None in files_of and len(files_of) > 1:
        raise ConfigError(
            f"dataset = '{folder}' has parquet files of splits, and others whose names do not say to which split they "
            f"belong: {listed(file.relative_to(folder) for file in files_of[None])}. Names like train-00000.parquet "
            "and test.parquet, or folders named train and test, say so."
        )
    splits: dict[str, list[Path]] = {}
    for word, of_word in files_of.items():
        split = split_of(word) or "" if word else "train"
        if split in splits:
            one, other = splits[split][0], of_word[0]
            raise ConfigError(
                f"dataset = '{folder}' has parquet files with several names for the {split} split: "
                f"{one.relative_to(folder)}, {other.relative_to(folder)}."
            )
        # Without the folders that name a split: those of several datasets must not be put together.
        places = {tuple(part for part in file.relative_to(folder).parts[:-1] if not split_of(part)) for file in of_word}
        if len(places) > 1:
            raise ConfigError(
                f"dataset = '{folder}' has parquet files of the {split} split in several folders: "
                f"{listed(sorted('/'.join(place) or '.' for place in places))}. Give one of them as dataset."
            )
        splits[split] = of_word
    return {split: _read_files(folder, of_split) for split, of_split in splits.items()}


def _split_word(folder: Path, path: Path) -> str | None:
    """The word in the relative path of a parquet file that names a split: of a folder, or in the name of the file."""
    for place in path.parts[:-1]:
        if split_of(place):
            return place.lower()
    words = list(dict.fromkeys(word for word in re.findall(r"[a-z]+", path.stem.lower()) if split_of(word)))
    if len(words) > 1:
        raise ConfigError(
            f"dataset = '{folder}' has the parquet file {path}, whose name has several splits: rename it."
        )
    return words[0] if words else None


def _read_files(folder: Path, files: Sequence[Path]) -> "datasets.Dataset":
    """The rows of parquet files of one split."""
    from datasets import Dataset, Features, concatenate_datasets, load_dataset
    from pyarrow import parquet

    groups: dict[str, list[Path]] = {}  # files with the same columns and class names
    try:
        for file in files:
            if parquet.read_metadata(file).num_rows:
                features = Features.from_arrow_schema(parquet.read_schema(file))
                groups.setdefault(repr(sorted(features.items(), key=lambda item: item[0])), []).append(file)
        if not groups:
            return Dataset.from_dict({})
        parts = [
            load_dataset("parquet", data_files=[glob.escape(str(file)) for file in group], split="train")
            for group in groups.values()
        ]
    except Exception as error:  # datasets raises errors of many kinds for files that it cannot read
        _check_files(folder, files)
        reason = " ".join(str(error.__cause__ or error).split())
        raise ConfigError(f"dataset = '{folder}' cannot be used: {reason}") from error
    first, *others = (group[0].relative_to(folder) for group in groups.values())
    for part, other in zip(parts[1:], others, strict=True):
        if set(part.column_names) != set(parts[0].column_names):
            raise ConfigError(
                f"dataset = '{folder}' has parquet files of one split with different columns: {first} has "
                f"{', '.join(sorted(parts[0].column_names))}, and {other} has {', '.join(sorted(part.column_names))}."
            )
    for column in parts[0].column_names if others else ():
        parts = _with_one_type(parts, column)
        types = [part.features[column] for part in parts]
        if any(each != types[0] for each in types):
            raise ConfigError(
                f"dataset = '{folder}' has parquet files of one split with different types of the column {column}: "
                f"{first} and {listed(others)}. Write them with one type."
            )
    return concatenate_datasets([part.select_columns(parts[0].column_names) for part in parts])


def _with_one_type(parts: list["datasets.Dataset"], column: str) -> list["datasets.Dataset"]:
    """Rows of several files, whose names of classes become one list of class labels, and whose integers one type."""
    from datasets import ClassLabel, Value

    types = [part.features[column] for part in parts]
    if all(_is_of(each, "int") for each in types):
        return [part.cast_column(column, Value("int64")) for part in parts]
    if (
        not all(isinstance(each, ClassLabel) or _is_of(each, "string") for each in types)
        or len(set(map(repr, types))) == 1
    ):
        return parts
    named = [[_name(each, label) for label in part[column][:]] for each, part in zip(types, parts, strict=True)]
    # Class labels come first, in their order, with those that have no rows.
    names = dict.fromkeys(name for each in types if isinstance(each, ClassLabel) for name in each.names)
    names |= dict.fromkeys(name for of_part in named for name in sorted(filter(None, set(of_part))))
    feature = ClassLabel(names=list(names))
    return [
        part.remove_columns(column).add_column(column, of_part, feature=Value("string")).cast_column(column, feature)
        for part, of_part in zip(parts, named, strict=True)
    ]


def _is_of(feature: Any, kind: str) -> bool:
    from datasets import Value

    return isinstance(feature, Value) and kind in feature.dtype


def _name(feature: Any, label: Any) -> str | None:
    """The name of a label of a class-label or text column; None for an image without a label."""
    if label is None or label == -1:
        return None
    return feature.names[label] if isinstance(label, int) else label


def _check_files(folder: Path, files: Iterable[Path]) -> None:
    """Read every parquet file, since `datasets` does not say which one it could not read."""
    import pyarrow
    from pyarrow import parquet

    for file in files:
        try:
            for _ in parquet.ParquetFile(file).iter_batches():
                pass
        except (OSError, pyarrow.ArrowException) as error:
            raise ConfigError(
                f"dataset = '{folder}' has a damaged file, {file} ({' '.join(str(error).split())}): replace it by an "
                "intact copy."
            ) from error
