"""Two validations of the same images, compared image by image, which shows smaller differences than two intervals."""

import csv
import os
from dataclasses import dataclass
from pathlib import Path

from mindcv_lite.errors import UserError
from mindcv_lite.evaluation.report.statistics import mcnemar

PREDICTIONS = "predictions.csv"
SURE = 0.05  # a smaller p value is taken for a difference


@dataclass(frozen=True)
class Paired:
    """Images that both networks saw, and how many of them each gets right; `only`: those the other gets wrong."""

    images: int
    right: tuple[int, int]
    only: tuple[int, int]

    @property
    def p_value(self) -> float:
        return mcnemar(*self.only)


def paired(first: Path, second: Path) -> Paired:
    """Compare the reports in two folders. Raises `UserError` unless both are there and of the same images."""
    one, other = (_read_right(folder / PREDICTIONS) for folder in (first, second))
    if differing := sorted(one.keys() ^ other.keys()):
        raise UserError(
            f"{second / PREDICTIONS}: not the images of {first / PREDICTIONS}: {len(differing)} rows are in one "
            f"of them only, such as '{differing[0][0]}' of class '{differing[0][1]}'; validate both on the same images"
        )
    pairs = [(right, other[image]) for image, right in one.items()]
    right = sum(one.values()), sum(other.values())
    return Paired(len(pairs), right, (pairs.count((True, False)), pairs.count((False, True))))


def _read_right(path: Path) -> dict[tuple[str, str], bool]:
    """Whether each image's top prediction is right, by the image's path and class. Raises `UserError`.

    Paths are without what all of them begin with: the same images may lie in another folder, or be packed.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = [(row["path"], row["true"], ("0", "1").index(row["top1"])) for row in csv.DictReader(file)]
    except OSError as error:
        advice = f"expected the {PREDICTIONS} that validate.py --report writes"
        raise UserError(f"{path}: cannot be read: {error.strerror or error}; {advice}") from None
    except (KeyError, ValueError, csv.Error):
        rows = []
    common = os.path.commonprefix([name for name, _, _ in rows]).rfind("/") + 1  # noqa: RUF071
    right = {(name[common:], true): bool(hit) for name, true, hit in rows}
    if not right or len(right) < len(rows):
        raise UserError(f"{path}: not the predictions of a validation, or damaged; validate.py --report makes it anew")
    return right
