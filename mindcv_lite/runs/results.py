"""results.csv, what a run says of its epochs: a line for each of them."""

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

from mindcv_lite.errors import UserError
from mindcv_lite.files import written_whole

RESULTS = "results.csv"


@dataclass(frozen=True)
class EpochResult:
    """A line of results.csv, whose columns are these fields. None: not known, as the scores of an epoch that was not
    validated, or the loss in training of epoch 0, which is the network before it is trained."""

    epoch: int
    step: int  # since the run began
    train_loss: float | None = None  # mean over the epoch and all ranks
    top1: float | None = None  # 0 to 1, as top5
    top5: float | None = None  # None also of five classes or fewer
    val_loss: float | None = None
    lr: float | None = None  # of the last update
    images_per_second: float | None = None  # in training, of all ranks
    waited: float | None = None  # seconds of the training for data
    seconds: float | None = None  # of the training, neither validation nor the graph's compilation counted
    # The columns from here on, or from a later one of `ADDED` on, are not in the results.csv of earlier versions.
    ms_per_step: float | None = None
    graph_compile: float | None = None  # seconds, in the first epoch of each start
    devices: int | None = None
    device: str | None = None  # Ascend, GPU or CPU
    jit_level: str | None = None  # what was used, which may not be what the recipe asks for
    val_images: int | None = None  # that the scores are of
    balanced_accuracy: float | None = None  # 0 to 1: the mean recall of the classes


COLUMNS = tuple(field.name for field in fields(EpochResult))
ADDED = "ms_per_step", "val_images", "balanced_accuracy"  # the first column that a version added
EARLIER_COLUMNS = [COLUMNS[: COLUMNS.index(name)] for name in ADDED]
RENAMED = {"rate": "lr", "val_photos": "val_images"}  # columns of earlier versions
KINDS: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(("epoch", "step", "devices", "val_images"), int),
    **dict.fromkeys(("device", "jit_level"), str),
}


def append_result(path: Path, result: EpochResult) -> None:
    """Append a line to results.csv, under a line of the columns if the file is new."""
    is_new = not path.exists()
    with open(path, "a", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        if is_new:
            table.writerow(COLUMNS)
        table.writerow(_texts(result))


def read_results(path: Path) -> list[EpochResult]:
    """The results of all epochs; a last line that was cut short is passed over. Raises `UserError`.

    Columns that an earlier version did not write are None.
    """
    try:
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{path}: cannot be read: {reason}; expected the {RESULTS} of a run") from None
    whole = text[: text.rfind("\n") + 1]
    head, *lines = whole.splitlines() or [""]
    columns = tuple(RENAMED.get(name, name) for name in head.split(","))
    if whole and columns not in (COLUMNS, *EARLIER_COLUMNS):
        raise UserError(
            f"{path}: not the results of a run: expected the columns {','.join(COLUMNS)}, got {head[:80]!r}"
        )
    return [_parsed(line, columns, f"{path}:{number}") for number, line in enumerate(lines, 2)]


def age_of_best(results: Sequence[EpochResult]) -> tuple[int, int]:
    """The epoch of the best top-1, of equal ones the first; and how many epochs later the latest score was found."""
    scores = {result.epoch: result.top1 for result in results if result.top1 is not None}
    best = max(scores, key=lambda epoch: scores[epoch], default=0)
    return best, max(scores, default=0) - best


def drop_results_after(path: Path, step: int) -> None:
    """Take the lines of later steps out of results.csv: a run that goes on from an older state makes them again.

    All lines get the columns of this version.
    """
    if not path.exists():
        return
    kept = io.StringIO(newline="")
    csv.writer(kept).writerows([COLUMNS, *(_texts(result) for result in read_results(path) if result.step <= step)])
    with written_whole(path) as unfinished:
        unfinished.write_text(kept.getvalue(), encoding="utf-8", newline="")


def _texts(result: EpochResult) -> list[object]:
    return [f"{value:.6g}" if isinstance(value, float) else value for value in astuple(result)]


def _parsed(line: str, columns: tuple[str, ...], where: str) -> EpochResult:
    try:
        cells = zip(columns, line.split(","), strict=True)
        values: dict[str, Any] = {name: KINDS.get(name, float)(text) if text else None for name, text in cells}
        result = EpochResult(**values)
        trained = result.train_loss, result.lr, result.images_per_second, result.seconds
        needed = result.epoch, result.step, *(trained if result.epoch else ())
        is_half = (result.top1 is None) != (result.val_loss is None)
        if is_half or not all(value is not None and math.isfinite(value) for value in needed):
            raise ValueError
        return result
    except (ValueError, TypeError):
        expected = f"{len(columns)} values between commas"
        raise UserError(f"{where}: damaged: expected {expected}, got {line[:80]!r}; take the line out") from None
