"""Write handwritten digits into one folder for each of four owners, who know different classes: data for a trial.

    python conf/deployment/digits_of_owners.py trial/data

writes `owner-0` to `owner-3`, with the images in `train` and `test` and there in one folder for each class. The owners
have the digits 0 to 2, 3 and 4, 5 to 7, and 8 and 9; every fourth image is a test image.
"""

import argparse
from collections import Counter
from pathlib import Path

from PIL import Image
from sklearn.datasets import load_digits

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DIGITS_OF_OWNERS = ((0, 1, 2), (3, 4), (5, 6, 7), (8, 9))


def write_owners(folder: Path) -> None:
    """Write the owners' folders, with grayscale images, enlarged from 8×8 to 16×16 pixels for four poolings."""
    owner_of = {digit: owner for owner, digits in enumerate(DIGITS_OF_OWNERS) for digit in digits}
    digits, written = load_digits(), Counter[int]()
    for pixels, label in zip(digits.images, digits.target.tolist(), strict=True):
        split = "test" if written[label] % 4 == 3 else "train"
        place = folder / f"owner-{owner_of[label]}" / split / NAMES[label]
        place.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray((pixels * 255 / 16).round().astype("uint8"))
        image.resize((16, 16), Image.Resampling.NEAREST).save(place / f"{written[label]:03}.png")
        written[label] += 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the folder for the owners' folders")
    write_owners(parser.parse_args().folder)
