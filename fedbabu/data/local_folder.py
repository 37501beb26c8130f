"""A dataset in a local folder: which of its files belong to which split, and what says the class of an image.

A folder holds parquet files, images in one folder for each class, or images listed in metadata files. Folders are taken
literally, and the patterns of the library `datasets` are not used: it looks for words like "train" anywhere in a path,
so that the images of a class named "train" would change splits.
"""

import glob
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedbabu.errors import ConfigError

if TYPE_CHECKING:
    import datasets

# The names of a split's folder or file, in lower case. Validation images are neither trained on nor tested on.
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
}
IMAGE_SUFFIXES = frozenset(
    (".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp")
)
ARCHIVE_SUFFIXES = frozenset((".7z", ".bz2", ".gz", ".rar", ".tar", ".tgz", ".xz", ".zip"))
METADATA_NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
MAX_NAMED = 5  # names in an error message


def load_local_folder(folder: Path) -> tuple[dict[str, "datasets.Dataset"], list[str]]:
    """Load the dataset in a folder.

    Returns:
        Its splits by their names, of "train", "test" and "validation", and one sentence about each group of files that
        are left out.

    Raises:
        ConfigError: If it is not clear which split an image belongs to or what its class is, or if a file is damaged.
    """
    import datasets

    if (folder / "dataset_dict.json").is_file():  # written by DatasetDict.save_to_disk
        return dict(datasets.load_from_disk(folder)), []
    if (folder / "state.json").is_file():  # written by Dataset.save_to_disk
        return {"train": datasets.load_from_disk(folder)}, []
    files = _list_files(folder)
    parquet_files = [file for file in files if file.suffix.lower() == ".parquet" and file.name not in METADATA_NAMES]
    images = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]
    if parquet_files and images:
        raise ConfigError(
            f"dataset = '{folder}' has both parquet files ({_relative(parquet_files[0], folder)}) and images "
            f"({_relative(images[0], folder)}): give a folder that has only one kind."
        )
    if parquet_files:
        return _load_parquet_files(folder, parquet_files), []
    if images:
        splits, left_out = _load_images(folder, files, images)
        num_read = sum(len(rows) for rows in splits.values())
        if num_read + left_out["images that no metadata file lists"] != len(images):
            raise RuntimeError(f"{folder} has {len(images)} images, but {num_read} of them were read.")
        return splits, [f"{number} {what} are left out" for what, number in left_out.items() if number]
    found = sorted({file.suffix.lower() or "no ending" for file in files})
    has = f"its files are of the kinds {', '.join(found[:MAX_NAMED])}" if found else "it is empty"
    unpack = "; unpack the archives" if ARCHIVE_SUFFIXES.intersection(found) else ""
    raise ConfigError(
        f"dataset = '{folder}' has neither parquet files nor images ({has}){unpack}: images must be in one folder for "
        f"each class or listed in metadata.csv, and end in {', '.join(sorted(IMAGE_SUFFIXES))}."
    )


def _list_files(folder: Path) -> list[Path]:
    """All files of a folder and the folders in it, sorted, without hidden ones and what operating systems add."""
    files, visited = [], set()
    for place, folders, names in os.walk(folder, followlinks=True):
        visited.add(os.path.realpath(place))
        folders[:] = [
            name for name in folders
            if not name.startswith((".", "__")) and os.path.realpath(os.path.join(place, name)) not in visited
        ]  # fmt: skip
        files += [Path(place, name) for name in names if not name.startswith(".") and name != "Thumbs.db"]
    return sorted(files)


def _relative(file: Path, folder: Path) -> str:
    return str(file.relative_to(folder))


def _named(names: Iterable[object]) -> str:
    """The first few names, for an error message."""
    texts = [str(name) for name in names]
    return ", ".join(texts[:MAX_NAMED]) + (f" and {len(texts) - MAX_NAMED} more" if len(texts) > MAX_NAMED else "")


# Parquet files


def _load_parquet_files(folder: Path, files: Sequence[Path]) -> dict[str, "datasets.Dataset"]:
    """The splits in parquet files, where a folder or the first or last word of the file's name says which one it is."""
    split_of_file = {file: _split_of_parquet_file(file.relative_to(folder)) for file in files}
    without = [_relative(file, folder) for file, split in split_of_file.items() if split is None]
    if without and len(without) < len(files):
        raise ConfigError(
            f"dataset = '{folder}' has parquet files of splits, and others whose names do not say to which split they "
            f"belong: {_named(without)}. Names like train-00000.parquet and test.parquet, or folders named train and "
            "test, say so."
        )
    files_of_split: dict[str, list[Path]] = {}
    for file, split in split_of_file.items():
        files_of_split.setdefault(split or "train", []).append(file)
    return {split: _read_parquet_files(folder, of_split) for split, of_split in files_of_split.items()}


def _split_of_parquet_file(path: Path) -> str | None:
    """The split that the relative path of a parquet file names, or None."""
    for folder in path.parts[:-1]:
        if folder.lower() in SPLIT_NAMES:
            return SPLIT_NAMES[folder.lower()]
    words = "".join(letter if letter.isalpha() else " " for letter in path.stem.lower()).split()
    words = [word for word in words if word != "of"]  # as in train-00000-of-00002
    return next((SPLIT_NAMES[word] for word in (words[:1] + words[-1:]) if word in SPLIT_NAMES), None)


def _read_parquet_files(folder: Path, files: Sequence[Path]) -> "datasets.Dataset":
    """The rows of parquet files of one split, in which classes are matched by name where files number them apart."""
    from datasets import ClassLabel, Dataset, Features, concatenate_datasets, load_dataset
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
        _check_parquet_files(folder, files)
        reason = " ".join(str(error.__cause__ or error).split())
        raise ConfigError(f"dataset = '{folder}' cannot be used: {reason}") from error
    columns = [sorted(part.column_names) for part in parts]
    if columns.count(columns[0]) < len(columns):
        first, other = (next(iter(group)) for group in list(groups.values())[:2])
        raise ConfigError(
            f"dataset = '{folder}' has parquet files of one split with different columns: "
            f"{_relative(first, folder)} has {', '.join(columns[0])}, and {_relative(other, folder)} has "
            f"{', '.join(columns[1])}."
        )
    for column in parts[0].column_names if len(parts) > 1 else ():
        if all(isinstance(part.features[column], ClassLabel) for part in parts):
            names = list(dict.fromkeys(name for part in parts for name in part.features[column].names))
            parts = [_with_class_names(part, column, names) for part in parts]
    try:
        return concatenate_datasets([part.select_columns(parts[0].column_names) for part in parts])
    except ValueError as error:
        raise ConfigError(
            f"dataset = '{folder}' has parquet files of one split whose columns differ in their types: "
            f"{' '.join(str(error).split())}"
        ) from error


def _with_class_names(rows: "datasets.Dataset", column: str, names: list[str]) -> "datasets.Dataset":
    """The same rows with a column of class labels numbered by these names."""
    from datasets import ClassLabel

    numbers = [names.index(name) for name in rows.features[column].names]
    labels = [None if label is None else numbers[label] if label >= 0 else label for label in rows[column][:]]
    return rows.remove_columns(column).add_column(column, labels, feature=ClassLabel(names=names))


def _check_parquet_files(folder: Path, files: Iterable[Path]) -> None:
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


# Images


def _load_images(
    folder: Path, files: Sequence[Path], images: Sequence[Path]
) -> tuple[dict[str, "datasets.Dataset"], Counter[str]]:
    """The splits of a folder of images, and the number of files that are left out, by what they are."""
    folder = _without_wrapping(folder, images)
    left_out, used = Counter[str](), set[Path]()
    splits = {}
    for split, (place, of_split) in _split_folders(folder, images).items():
        if metadata := _metadata_file(place) or _metadata_file(folder):
            splits[split] = _read_metadata(folder, metadata, images, of_split)
            left_out["images that no metadata file lists"] += len(of_split) - len(splits[split])
            used.add(metadata)
        else:
            splits[split] = _read_class_folders(folder, place, of_split)
    left_out["files that are no images"] = len(files) - len(images) - len(used)
    return splits, left_out


def _metadata_file(folder: Path) -> Path | None:
    """The metadata file in a folder, if there is one."""
    return next((folder / name for name in METADATA_NAMES if (folder / name).is_file()), None)


def _without_wrapping(folder: Path, images: Iterable[Path]) -> Path:
    """The folder inside, if all that a folder has is one folder whose folders are all splits."""
    inner = {image.relative_to(folder).parts[:-1] for image in images}
    first = {parts[0] for parts in inner if parts}
    second = {parts[1].lower() for parts in inner if len(parts) > 1}
    wraps = all(len(parts) > 1 for parts in inner) and second <= SPLIT_NAMES.keys()
    is_split = not first.isdisjoint(SPLIT_NAMES)
    return folder / first.pop() if wraps and len(first) == 1 and not is_split and not _metadata_file(folder) else folder


def _split_folders(folder: Path, images: Sequence[Path]) -> dict[str, tuple[Path, list[Path]]]:
    """For each split, its folder and its images. Only the names of the first folders count.

    They are splits if each of them has the name of a split and holds class folders, or if metadata list their images.
    """
    has_metadata = _metadata_file(folder) is not None
    images_of: dict[str, list[Path]] = {}  # by the first folder; "" for images at the top
    for image in images:
        first, *_ = image.relative_to(folder).parts
        images_of.setdefault("" if folder / first == image else first, []).append(image)
    named = [name for name in images_of if name.lower() in SPLIT_NAMES]
    others = [name for name in images_of if name not in named]
    divided = [name for name in named if has_metadata or _holds_classes(folder / name, images_of[name])]
    if not divided or (has_metadata and others):
        if named and not others:
            raise ConfigError(
                f"dataset = '{folder}' has the folders {_named(named)}, but nothing in them says the class of an "
                "image: put the images of each split into one folder for each class, or list them in metadata.csv."
            )
        return {"train": (folder, list(images))}
    if others or len(divided) < len(named):
        rest = [name or f"the image {images_of[''][0].name}" for name in images_of if name not in divided]
        raise ConfigError(
            f"dataset = '{folder}' has the splits {_named(divided)} and beside them {_named(rest)}: the first folders "
            "must be all splits, with class folders in them, or all classes."
        )
    empty = [place.name for place in folder.iterdir() if place.is_dir() and place.name not in images_of]
    divided += [name for name in empty if name.lower() in SPLIT_NAMES]
    split_of_name = {name: SPLIT_NAMES[name.lower()] for name in divided}
    for split, number in Counter(split_of_name.values()).items():
        if number > 1:
            same = [name for name, other in split_of_name.items() if other == split]
            raise ConfigError(f"dataset = '{folder}' has several folders of the {split} split: {_named(same)}.")
    return {split: (folder / name, images_of.get(name, [])) for name, split in split_of_name.items()}


def _holds_classes(place: Path, images: Iterable[Path]) -> bool:
    """Whether a folder holds class folders or a metadata file, as the folder of a split does."""
    return any(image.parent != place for image in images) or _metadata_file(place) is not None


def _read_class_folders(folder: Path, place: Path, images: Sequence[Path]) -> "datasets.Dataset":
    """The images of one split, where the folder of an image is its class."""
    from datasets import ClassLabel, Dataset, Features, Image

    parents: dict[str, set[Path]] = {}
    classes = []
    for image in images:
        first, *rest = image.relative_to(place).parts
        if not rest:
            raise ConfigError(
                f"dataset = '{folder}' has an image that is in no class folder, {_relative(image, folder)}: move it "
                "into the folder of its class, remove it, or list all images in metadata.csv."
            )
        classes.append(unicodedata.normalize("NFC", first))  # computers encode accents in two ways
        parents.setdefault(first, set()).add(image.parent)
    for name, folders in parents.items():
        if len(folders) > 1:
            raise ConfigError(
                f"dataset = '{folder}' has the class folder {_relative(place / name, folder)} with several folders of "
                f"images ({_named(sorted(_relative(each, folder) for each in folders))}): are they the classes? A "
                "class folder must not be divided."
            )
    features = Features({"image": Image(), "label": ClassLabel(names=sorted(set(classes)))})
    return Dataset.from_dict({"image": [str(image) for image in images], "label": classes}, features=features)


def _read_metadata(
    folder: Path, metadata: Path, images: Sequence[Path], of_split: Sequence[Path]
) -> "datasets.Dataset":
    """The images of one split that a metadata file lists in its column `file_name`, with its other columns."""
    from datasets import Dataset, Image

    file, where = _relative(metadata, folder), f"dataset = '{folder}'"
    try:
        table = _read_table(metadata)
    except Exception as error:  # of several libraries
        raise ConfigError(f"{where} has {file}, which cannot be read: {' '.join(str(error).split())}.") from error
    if "file_name" not in table:
        raise ConfigError(f"{where} has {file} without a column file_name; its columns are {', '.join(table)}.")
    listed = [Path(os.path.normpath(metadata.parent / str(name))) for name in table["file_name"]]
    if missing := sorted(set(listed).difference(images)):
        raise ConfigError(f"{where} has {file}, which lists files that are missing or no images: {_named(missing)}.")
    if repeated := [path for path, number in Counter(listed).items() if number > 1]:
        raise ConfigError(f"{where} lists images twice in {file}: {_named(repeated)}.")
    in_split = set(of_split)
    rows = [row for row, path in enumerate(listed) if path in in_split]
    columns = {name: [values[row] for row in rows] for name, values in table.items() if name != "file_name"}
    paths = [str(listed[row]) for row in rows]
    return Dataset.from_dict({"image": paths, **columns}).cast_column("image", Image())


def _read_table(file: Path) -> Mapping[str, list[object]]:
    """The columns of a file in one of the formats of metadata."""
    from pyarrow import csv, json, parquet

    read = {".csv": csv.read_csv, ".jsonl": json.read_json, ".parquet": parquet.read_table}[file.suffix]
    return read(file).to_pydict()
