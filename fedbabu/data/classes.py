"""The classes of a dataset: their names, and one numbering of them for both splits."""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from fedbabu.data.source import IntArray, Source
from fedbabu.errors import ConfigError

ClassNames = tuple[str, ...] | tuple[int, ...]  # in the order of the labels; numbers where the dataset has no names
MAX_NAMED = 10  # classes in a sentence


def read_classes(source: Source) -> tuple[dict[str, IntArray], ClassNames, list[str]]:
    """Number the classes of both splits from 0, by their names where the dataset has names.

    Class labels keep their numbers; those of two splits with different names are matched by name. Texts are numbered in
    sorted order. Integers without names are numbered in order, without gaps, and the integers become the names.

    Returns:
        The labels of each split, int64 [n]; the names of the classes; and sentences about what was done.

    Raises:
        ConfigError: If a label is missing or is not one of the named classes, if one split has names and the other
            only numbers, or if every image has a class of its own.
    """
    column = source.spec.label_column
    values = source.values(column)
    listed = {split: getattr(rows.features[column], "names", None) for split, rows in source.splits.items()}
    has_names = {split: listed[split] is not None or labels.dtype.kind not in "iu" for split, labels in values.items()}
    if len(set(has_names.values())) > 1:
        split_of = {named: split for split, named in has_names.items()}
        raise ConfigError(
            f"label-column = '{column}' of dataset = '{source.name}' has names of classes in its {split_of[True]} "
            f"split and only numbers in its {split_of[False]} split, which cannot be matched: both must have names."
        )
    if not has_names["train"]:
        _check_range(source, values, None)
        distinct = np.unique(np.concatenate(list(values.values())))
        _check_not_all_different(source, len(distinct))
        labels = {split: np.searchsorted(distinct, each) for split, each in values.items()}
        numbers = tuple(distinct.tolist())
        gaps = numbers != tuple(range(len(numbers)))
        note = f"The labels {shorten(numbers)} are the classes 0 to {len(numbers) - 1}"
        return labels, numbers, [note] if gaps else []

    notes = []
    names_of: dict[str, Sequence[str]] = {}
    for split, labels_of_split in values.items():
        if (names := listed[split]) is not None:
            _check_range(source, {split: labels_of_split}, len(names))
            names_of[split] = names
        else:
            names, values[split] = np.unique(labels_of_split.astype(str), return_inverse=True)
            names_of[split] = names.tolist()
    if any(names is None for names in listed.values()):
        names = sorted(set(chain(*names_of.values())))
        _check_not_all_different(source, len(names))
        notes.append(f"The labels are texts; the classes are in sorted order: {shorten(names)}")
    elif names_of["train"] == names_of["test"]:
        names = names_of["train"]
    else:
        names = next(
            (list(each) for each in names_of.values() if all(set(each) >= set(other) for other in names_of.values())),
            sorted(set(chain(*names_of.values()))),
        )
        notes.append("The splits list their classes differently, so that the classes are matched by name")
    number_of = {name: number for number, name in enumerate(names)}
    labels = {
        split: np.array([number_of[name] for name in names_of[split]], dtype=np.int64)[each]
        for split, each in values.items()
    }
    return labels, tuple(names), notes


def _check_range(source: Source, values: Mapping[str, np.ndarray[Any, Any]], num_classes: int | None) -> None:
    """Raise a ConfigError if a label is negative or not below the number of classes."""
    for split, labels in values.items():
        outside = np.flatnonzero((labels < 0) | (labels >= (num_classes or np.inf)))
        if len(outside):
            allowed = "at least 0" if num_classes is None else f"from 0 to {num_classes - 1}"
            raise ConfigError(
                f"dataset = '{source.name}' has the label {labels[outside[0]]} in "
                f"{source.location(split, outside[0])}: labels must be {allowed}."
            )


def _check_not_all_different(source: Source, num_classes: int) -> None:
    """Raise a ConfigError if every image has a label of its own, as in a column of numbers of images."""
    num_images = len(source.splits["train"])
    if num_classes > num_images / 2:
        raise ConfigError(
            f"label-column = '{source.spec.label_column}' of dataset = '{source.name}' has {num_classes} different "
            f"values, but there are only {num_images} training images: it must be the column with their classes."
        )


def shorten(values: Sequence[object]) -> str:
    """Values in a sentence, of which the middle ones are left out if there are many."""
    texts = list(map(str, values))
    return ", ".join(texts if len(texts) <= MAX_NAMED else [*texts[: MAX_NAMED - 2], "…", texts[-1]])
