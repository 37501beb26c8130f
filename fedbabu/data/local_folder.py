"""A dataset in a local folder: which of its files belong to which split, and what says the class of an image.

A folder holds parquet files (parquet_folder.py), images in one folder for each class, or images that a metadata file
lists. Folders are taken literally, and the patterns of the library `datasets` are not used: it looks for words like
"train" anywhere in a path, so that the images of a class named "train" would change splits.
"""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fedbabu.data.metadata import METADATA_NAMES, read_metadata
from fedbabu.data.parquet_folder import load_parquet_files
from fedbabu.data.split_names import split_of
from fedbabu.errors import ConfigError
from fedbabu.formatting import counted, listed

if TYPE_CHECKING:
    import datasets

IMAGE_SUFFIXES = frozenset(
    (".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp")
)
ARCHIVE_SUFFIXES = frozenset((".7z", ".bz2", ".gz", ".rar", ".tar", ".tgz", ".xz", ".zip"))
NO_CONTENT = frozenset(("__MACOSX", "Thumbs.db", "desktop.ini"))  # what operating systems add


def load_local_folder(folder: Path) -> tuple[dict[str, "datasets.Dataset"], list[str]]:
    """Load the dataset in a folder.

    Returns:
        Its splits by their names, of "train", "test" and "validation", and one sentence about each group of files that
        are left out.

    Raises:
        ConfigError: If it is not clear which split an image belongs to or what its class is, or if a file is damaged.
    """
    of_one_split = (folder / "dataset_info.json").is_file() and (folder / "state.json").is_file()
    if of_one_split or (folder / "dataset_dict.json").is_file():
        return _load_saved(folder), []
    files = list_files(folder)
    images = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]
    parquet_files = [file for file in files if file.suffix.lower() == ".parquet"]
    if images:
        parquet_files = [file for file in parquet_files if file.name not in METADATA_NAMES]
    if parquet_files and images:
        raise ConfigError(
            f"dataset = '{folder}' has both parquet files ({parquet_files[0].relative_to(folder)}) and images "
            f"({images[0].relative_to(folder)}): give a folder that has only one kind."
        )
    if parquet_files:
        return load_parquet_files(folder, parquet_files), []
    if images:
        return _load_images(folder, files, images)
    found = sorted({file.suffix.lower() or "no ending" for file in files})
    has = f"its files are of the kinds {listed(found)}" if found else "it is empty"
    unpack = "; unpack the archives" if ARCHIVE_SUFFIXES.intersection(found) else ""
    raise ConfigError(
        f"dataset = '{folder}' has neither parquet files nor images ({has}){unpack}: images must be in one folder for "
        f"each class or listed in metadata.csv, and end in {', '.join(sorted(IMAGE_SUFFIXES))}."
    )


def list_files(folder: Path) -> list[Path]:
    """All files of a folder and the folders in it, also behind links, sorted; without hidden ones.

    Raises:
        ConfigError: If a folder cannot be read, or a name is not of characters.
    """
    files: list[Path] = []
    waiting = [(folder, frozenset((os.path.realpath(folder),)))]  # with all folders above, for links that lead back
    try:
        while waiting:
            place, above = waiting.pop()
            for entry in os.scandir(place):
                if entry.name.startswith(".") or entry.name in NO_CONTENT:
                    continue
                if not entry.is_dir():
                    files.append(Path(entry.path))
                elif (real := os.path.realpath(entry.path)) not in above:
                    waiting.append((Path(entry.path), above | {real}))
    except OSError as error:
        raise ConfigError(f"dataset = '{folder}' has a folder that cannot be read: {error}.") from error
    for file in files:
        if any("\ud800" <= letter <= "\udfff" for letter in str(file)):  # how Python shows other bytes
            raise ConfigError(f"dataset = '{folder}' has a file whose name is not in UTF-8, {str(file)!a}: rename it.")
    return sorted(files)


def _load_saved(folder: Path) -> dict[str, "datasets.Dataset"]:
    """The splits that `save_to_disk` of `datasets` has written into a folder."""
    import datasets

    try:
        saved = datasets.load_from_disk(folder)
    except Exception as error:  # of several libraries
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"dataset = '{folder}' was saved by the library datasets, but cannot be read ({reason}): save it again."
        ) from error
    splits = saved if isinstance(saved, datasets.DatasetDict) else {"train": saved}
    return {split_of(name) or name: rows for name, rows in splits.items()}


# Images


@dataclass(frozen=True)
class Split:
    """The images of a split, with their class folders or the columns of a metadata file."""

    images: Sequence[Path]
    class_folders: Sequence[str] = ()
    columns: Mapping[str, Sequence[object]] = field(default_factory=dict)

    def to_dataset(self) -> "datasets.Dataset":
        """The split with the column "image"; class folders become class labels in the column "label"."""
        from datasets import ClassLabel, Dataset, Features, Image

        images = list(map(str, self.images))
        if self.columns:
            return Dataset.from_dict({"image": images, **self.columns}).cast_column("image", Image())
        features = Features({"image": Image(), "label": ClassLabel(names=sorted(set(self.class_folders)))})
        return Dataset.from_dict({"image": images, "label": list(self.class_folders)}, features=features)


def _load_images(
    folder: Path, files: Sequence[Path], images: Sequence[Path]
) -> tuple[dict[str, "datasets.Dataset"], list[str]]:
    """The splits of a folder of images, and sentences about what is left out."""
    metadata = [file for file in files if file.name in METADATA_NAMES]
    splits = _read_splits(folder, _top(folder, images, metadata), images, metadata)
    times_read = Counter(image for split in splits.values() for image in split.images)
    unlisted = [image for image in images if image not in times_read]
    if times_read.total() != len(times_read) or (unlisted and not metadata):  # never, by the rules of this file
        raise RuntimeError(
            f"Of {len(images)} images in {folder}, {len(times_read)} were read, {times_read.total()} times."
        )
    notes = []
    if unlisted:
        notes.append(
            f"{counted(len(unlisted), 'image')} left out, which no metadata file lists: {_within(folder, unlisted)}"
        )
    if others := sorted(set(files).difference(images, metadata)):
        notes.append(f"{counted(len(others), 'file')} left out, not named like an image: {_within(folder, others)}")
    return {name: split.to_dataset() for name, split in splits.items()}, notes


def _within(folder: Path, paths: Iterable[Path]) -> str:
    """The first few paths, relative to a folder."""
    return listed(path.relative_to(folder) for path in paths)


def _top(folder: Path, images: Sequence[Path], metadata: Sequence[Path]) -> Path:
    """Where the splits or the metadata are: the folder itself, or one that is all that it has, like data/."""
    top = folder
    while True:
        inside = {path.relative_to(top).parts[0] for path in [*images, *metadata]}
        if len(inside) != 1 or split_of(name := inside.pop()) or not (top / name).is_dir():
            return folder
        top = top / name
        places = [image.relative_to(top).parts for image in images]
        are_split = any(len(place) > 2 for place in places) or any(file.parent.parent == top for file in metadata)
        holds_splits = are_split and all(split_of(place[0]) for place in places)
        if holds_splits or any(file.parent == top for file in metadata):
            return top


def _read_splits(folder: Path, top: Path, images: Sequence[Path], metadata: Sequence[Path]) -> dict[str, Split]:
    """The splits below a folder; only the names of the folders directly below it say which split an image is of."""
    by_folder: dict[str, list[Path]] = {}
    for image in images:
        by_folder.setdefault(_first_folder(image, top), []).append(image)
    at_top = next((file for file in metadata if file.parent == top), None)
    rows = read_metadata(folder, at_top, images) if at_top else ([], {})
    used = {_first_folder(image, top) for image in rows[0]} if at_top else set(by_folder)
    # Folders with the name of a split are splits if anything says the class of the images in them.
    named = {name for name in used if split_of(name)}
    described = {file.parent.name for file in metadata if file.parent.parent == top}
    divided = {name for name in named if any(image.parent != top / name for image in by_folder[name])}
    split_folders = named if at_top else (named & described) | divided
    _check_first_folders(folder, top, used, split_folders)
    read = [at_top] if at_top else [file for file in metadata if file.parent in [top / name for name in split_folders]]
    if ignored := [file for file in metadata if file not in read]:
        raise ConfigError(
            f"dataset = '{folder}' has metadata where they are not looked for, {_within(folder, ignored)}: they must "
            "be beside the folders of the splits, or in them, and one for each."
        )
    if not split_folders:
        return {"train": _of_metadata(rows, top, None) if at_top else _of_class_folders(folder, top, images)}
    splits = {}
    for split, name in _folder_of_each_split(folder, top).items():
        own = next((file for file in read if file.parent == top / name), None)
        if at_top:
            splits[split] = _of_metadata(rows, top, name)
        elif own:
            splits[split] = _of_metadata(read_metadata(folder, own, by_folder[name]), top, name)
        else:
            splits[split] = _of_class_folders(folder, top / name, by_folder.get(name, []))
    return splits


def _check_first_folders(folder: Path, top: Path, used: Set[str], split_folders: Set[str]) -> None:
    """Raise a ConfigError unless the folders that hold images ("" for the top itself) are all splits or all classes."""
    if split_folders and used != split_folders:
        others = [name or "images in none of them" for name in sorted(used - split_folders)]
        raise ConfigError(
            f"dataset = '{folder}' has the splits {listed(sorted(split_folders))} and beside them {listed(others)}: "
            f"the folders in {top} must be all splits, with class folders in them, or all classes."
        )
    if not split_folders and used and all(map(split_of, used)):
        raise ConfigError(
            f"dataset = '{folder}' has the folders {listed(sorted(used))}, but nothing in them says the class of an "
            "image: put the images of each split into one folder for each class, or list them in metadata.csv."
        )


def _folder_of_each_split(folder: Path, top: Path) -> dict[str, str]:
    """The names of the folders of the splits, with empty ones; a ConfigError if a split has several."""
    folder_of_split: dict[str, str] = {}
    for name in sorted(place.name for place in top.iterdir() if place.is_dir()):
        if (split := split_of(name)) and folder_of_split.setdefault(split, name) != name:
            raise ConfigError(
                f"dataset = '{folder}' has several folders of the {split} split: {folder_of_split[split]}, {name}."
            )
    return folder_of_split


def _first_folder(image: Path, top: Path) -> str:
    """The name of the first folder on the way to an image; empty for an image at the top."""
    place = image.relative_to(top).parts
    return place[0] if len(place) > 1 else ""


def _of_metadata(rows: tuple[list[Path], dict[str, list[object]]], top: Path, name: str | None) -> Split:
    """The rows of a metadata file whose images are in one of the first folders, or all if that is None."""
    images, columns = rows
    chosen = [row for row, image in enumerate(images) if name in (None, _first_folder(image, top))]
    columns = {key: [values[row] for row in chosen] for key, values in columns.items()}
    return Split([images[row] for row in chosen], columns=columns)


def _of_class_folders(folder: Path, place: Path, images: Sequence[Path]) -> Split:
    """The images of one split, where the first folder of an image is its class."""
    parents: dict[str, set[Path]] = {}
    for image in images:
        if not (name := _first_folder(image, place)):
            raise ConfigError(
                f"dataset = '{folder}' has an image that is in no class folder, {image.relative_to(folder)}: move it "
                "into the folder of its class, remove it, or list all images in metadata.csv."
            )
        parents.setdefault(name, set()).add(image.parent)
    for name, inside in parents.items():
        if len(inside) > 1:
            raise ConfigError(
                f"dataset = '{folder}' has the class folder {(place / name).relative_to(folder)} with several folders "
                f"of images, {_within(folder, sorted(inside))}: a class folder must not be divided. If these are the "
                f"classes or splits, give dataset = '{place / name}'."
            )
    return Split(images, [_first_folder(image, place) for image in images])
