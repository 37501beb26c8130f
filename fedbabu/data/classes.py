"""The classes of a dataset: their names, and one numbering of them for both splits."""

import unicodedata
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from fedbabu.data.source import IntArray, Source
from fedbabu.errors import ConfigError

Column = np.ndarray[Any, Any]  # the labels of a split as they were read, [n]
ClassNames = tuple[str, ...] | tuple[int, ...]  # in the order of the labels; numbers where the dataset has no names
MAX_NAMED = 10  # classes in a sentence
FEW_IMAGES = 10  # with at most so many training images, each may have a label of its own


def read_classes(source: Source) -> tuple[dict[str, IntArray], ClassNames, list[str]]:
    """Number the classes of both splits from 0, by their names where the dataset has names.

    Class labels keep their numbers; those of two splits with different names are matched by name. Texts are numbered in
    sorted order. Integers without names are numbered in order, without gaps, and the integers become the names.

    Returns:
        The labels of each split, int64 [n]; the names of the classes; and sentences about what was done.

    Raises:
        ConfigError: If a label is missing, empty or not one of the named classes, if one split has names and the other
            only numbers, or if every training image has a class of its own.
    """
    column = source.spec.label_column
    values = source.values(column)
    listed_names = {split: getattr(rows.features[column], "names", None) for split, rows in source.splits.items()}
    has_names = {
        split: listed_names[split] is not None or each.dtype.kind not in "iu" for split, each in values.items()
    }
    if len(set(has_names.values())) > 1:
        split_of = {named: split for split, named in has_names.items()}
        raise ConfigError(
            f"label-column = '{column}' of dataset = '{source.name}' has names of classes in its {split_of[True]} "
            f"split and only numbers in its {split_of[False]} split, which cannot be matched: both must have names."
        )
    if has_names["train"]:
        labels, class_names, notes = _classes_by_name(source, values, listed_names)
    else:
        labels, class_names, notes = _classes_by_number(source, values)
    if len(class_names) == 1:
        notes.append(f"All images are of one class, {class_names[0]}")
    return labels, class_names, notes


def _classes_by_number(
    source: Source, values: Mapping[str, Column]
) -> tuple[dict[str, IntArray], ClassNames, list[str]]:
    """What `read_classes` returns for integers without names, given the column of each split."""
    _check_range(source, values, None)
    _check_not_all_different(source, values["train"])
    distinct = np.unique(np.concatenate(list(values.values())))
    class_names, gapless = tuple(distinct.tolist()), tuple(range(len(distinct)))
    note = f"The labels {listed_classes(class_names)} are the classes 0 to {len(class_names) - 1}"
    labels = {split: np.searchsorted(distinct, each) for split, each in values.items()}
    return labels, class_names, [] if class_names == gapless else [note]


def _classes_by_name(
    source: Source, values: Mapping[str, Column], listed_names: Mapping[str, Sequence[str] | None]
) -> tuple[dict[str, IntArray], ClassNames, list[str]]:
    """What `read_classes` returns for class labels, whose names are listed for a split, and for texts."""
    names_of: dict[str, list[str]] = {}  # of each split, in the order of its labels
    numbers_of: dict[str, IntArray] = {}
    for split, each in values.items():
        if (names := listed_names[split]) is None:
            names, numbers_of[split] = _number_texts(source, split, each)
        else:
            _check_range(source, {split: each}, len(names))
            numbers_of[split] = each
        names_of[split] = [unicodedata.normalize("NFC", name) for name in names]  # accents have two encodings
    union, notes = dict.fromkeys(chain(*names_of.values())), []
    # Class labels keep their order if one of the splits has all of them.
    complete = (each for split, each in names_of.items() if listed_names[split] and len(set(each)) == len(union))
    class_names = tuple(dict.fromkeys(next(complete, sorted(union))))
    if any(each is None for each in listed_names.values()):
        _check_not_all_different(source, values["train"])
        notes.append(f"The labels are texts; the classes are in sorted order: {listed_classes(class_names)}")
    elif set(class_names) != set(names_of["train"]):
        notes.append("The splits list their classes differently, so that the classes are matched by name")
    number_of = {name: number for number, name in enumerate(class_names)}
    labels = {
        split: np.array([number_of[name] for name in names], dtype=np.int64)[numbers_of[split]]
        for split, names in names_of.items()
    }
    return labels, class_names, notes


def _number_texts(source: Source, split: str, texts: Column) -> tuple[list[str], IntArray]:
    """The different texts of a column, sorted, and the number of each row's text; a ConfigError for an empty one."""
    names, numbers = np.unique(texts.astype(str), return_inverse=True)
    if "" in names:
        location = source.location(split, int(np.flatnonzero(texts.astype(str) == "")[0]))
        raise ConfigError(f"dataset = '{source.name}' has an empty label in {location}: every image needs a class.")
    return names.tolist(), numbers


def _check_range(source: Source, values: Mapping[str, Column], num_classes: int | None) -> None:
    """Raise a ConfigError if a label is negative or not below the number of classes."""
    for split, labels in values.items():
        outside = np.flatnonzero((labels < 0) | (labels >= (num_classes or np.inf)))
        if len(outside):
            allowed = "at least 0" if num_classes is None else f"from 0 to {num_classes - 1}"
            raise ConfigError(
                f"dataset = '{source.name}' has the label {labels[outside[0]]} in "
                f"{source.location(split, outside[0])}: labels must be {allowed}."
            )


def _check_not_all_different(source: Source, train_labels: Column) -> None:
    """Raise a ConfigError if every training image has a label of its own, as in a column of numbers of images."""
    if len(train_labels) > FEW_IMAGES and len(np.unique(train_labels)) == len(train_labels):
        raise ConfigError(
            f"label-column = '{source.spec.label_column}' of dataset = '{source.name}' has another value for each of "
            f"its {len(train_labels)} training images: it must be the column with their classes."
        )


def listed_classes(values: Sequence[object]) -> str:
    """Classes in a sentence, of which the middle ones are left out if there are many."""
    texts = list(map(str, values))
    return ", ".join(texts if len(texts) <= MAX_NAMED else [*texts[: MAX_NAMED - 2], "…", texts[-1]])
