"""The names of splits: of a folder of images, or of a parquet file."""

SPLIT_NAMES = {
    "train": ("train", "training", "trainset", "trainingset"),
    "test": ("test", "testing", "testset", "testingset", "eval", "evaluation"),
    "validation": ("val", "valid", "validation", "valset", "validationset", "dev"),  # neither trained nor tested on
}
_SPLIT_OF_NAME = {name: split for split, names in SPLIT_NAMES.items() for name in names}


def split_of(name: str) -> str | None:
    """The split that a name means, in upper or lower case: "train" for "Train" or "training_set"; None for others."""
    return _SPLIT_OF_NAME.get("".join(letter for letter in name.lower() if letter not in " _-"))
