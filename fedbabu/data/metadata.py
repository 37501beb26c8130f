"""Metadata files, which list the images of a folder in their column `file_name`, with labels in another column."""

import csv
import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from fedbabu.errors import ConfigError
from fedbabu.formatting import listed

METADATA_NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
INTEGER = re.compile(r"0|-?[1-9][0-9]*")  # without leading zeros: 007 is a text


def read_metadata(folder: Path, file: Path, images: Iterable[Path]) -> tuple[list[Path], dict[str, list[object]]]:
    """Read a metadata file.

    Args:
        folder: The dataset's folder, for error messages.
        file: The metadata file; its file names are relative to its folder.
        images: All images that it may list.

    Returns:
        The image of each row, and the other columns.

    Raises:
        ConfigError: If the file cannot be read, lacks the column, or lists what is not there or is listed twice.
    """
    where = f"dataset = '{folder}' has {file.relative_to(folder)}"
    try:
        columns = _read_columns(file)
    except Exception as error:  # of several libraries
        raise ConfigError(f"{where}, which cannot be read: {' '.join(str(error).split())}.") from error
    if not any(columns.values()):
        raise ConfigError(f"{where}, which lists no images.")
    if "file_name" not in columns:
        raise ConfigError(f"{where} without a column file_name; its columns are {', '.join(columns)}.")
    if len(columns) == 1:
        raise ConfigError(f"{where} with no column besides file_name: add one with the class of each image.")
    for column, reason in (("image", "stands for the pictures"), ("split", "would not be read: folders say the split")):
        if column in columns:
            raise ConfigError(f"{where} with a column {column}, which {reason}: rename or remove it.")
    # Some systems write accents in another way than others.
    image_of = {unicodedata.normalize("NFC", str(image)): image for image in images}
    names = [str(name).replace("\\", "/") for name in columns.pop("file_name")]
    places = [unicodedata.normalize("NFC", os.path.normpath(file.parent / name)) for name in names]
    if missing := [name for name, place in zip(names, places, strict=True) if place not in image_of]:
        raise ConfigError(
            f"{where}, which lists {listed(missing)}: there are no such images in {file.parent}. File names are "
            "relative to the folder of the metadata."
        )
    if repeated := [image_of[place].name for place, number in Counter(places).items() if number > 1]:
        raise ConfigError(f"{where}, which lists images twice: {listed(repeated)}.")
    return [image_of[place] for place in places], columns


def _read_columns(file: Path) -> dict[str, list[object]]:
    """The columns of a metadata file."""
    if file.suffix == ".parquet":
        from pyarrow import parquet

        return parquet.read_table(file).to_pydict()
    if file.suffix == ".jsonl":
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        return {name: [row.get(name) for row in rows] for name in dict.fromkeys(name for row in rows for name in row)}
    with file.open(encoding="utf-8-sig", newline="") as lines:
        header, *rows = [row for row in csv.reader(lines) if row] or [[]]
    if repeated := [name for name, number in Counter(header).items() if number > 1]:
        raise ValueError(f"there are several columns {repeated[0]}")
    for number, row in enumerate(rows, 1):
        if len(row) != len(header):
            raise ValueError(f"row {number} has {len(row)} values, and there are {len(header)} columns")
    columns = zip(*rows, strict=True) if rows else [()] * len(header)
    return {name: _with_integers(list(values)) for name, values in zip(header, columns, strict=True)}


def _with_integers(texts: list[str]) -> list[object]:
    """The same values as integers, if all of them are integers."""
    return list(map(int, texts)) if all(map(INTEGER.fullmatch, texts)) else list(texts)
