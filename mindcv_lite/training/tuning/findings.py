"""What a search has found: on screen, as a table and a picture, and the recipe of it."""

import logging
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mindcv_lite.data.datasets.splits import has_validation_split
from mindcv_lite.evaluation.report.statistics import wilson_interval
from mindcv_lite.files import write_text
from mindcv_lite.program import is_installed
from mindcv_lite.recipe.keys import Recipe
from mindcv_lite.runs.curves import draw_intervals
from mindcv_lite.text_tables import aligned, write_csv
from mindcv_lite.training.tuning.search import PROBE, Outcome, Rung, Tally, Trial, chosen, results_of, tallies

log = logging.getLogger(__name__)

NO_SPLIT = 0.2  # share of the images that is validated on where there is no split for it
TABLE, PICTURE, FOUND = "table.csv", "tune.png", "recipe.yaml"  # in the folder of a search


def report(recipe: Recipe, rung: Rung, outcomes: Mapping[Trial, Outcome], folder: Path) -> None:
    """Say what was found, and write the table, the picture and the recipe."""
    results = results_of(rung, outcomes)
    best = chosen(results)
    rows = [Row(name, epochs, folds, tally) for (name, epochs, folds), tally in tallies(outcomes).items()]
    write_csv(folder / TABLE, [ROW_COLUMNS, *(row.cells("{:.4f}") for row in rows)])
    for line in ["", *aligned([ROW_COLUMNS, *(row.cells("{:.2%}") for row in rows)]), ""]:
        log.info(line)
    candidates = {candidate.name: candidate.keys for candidate in rung.candidates} | {PROBE: {"probe_only": True}}
    tally = results[best]
    low, high = wilson_interval(tally.top1, tally.images)
    estimate = f"held-out top-1 {tally.top1:.2%} (95 % interval {low:.2%} to {high:.2%}, {tally.images} images)"
    if rung.share < 1:
        estimate += f" after about {rung.share:.0%} of its epochs: more --minutes try all of them"
    words = f"chosen: {best}; {estimate}"
    keys = dict(candidates[best])
    if not has_validation_split(recipe):
        keys["val_share"] = NO_SPLIT
    text = recipe.with_keys(**keys).text({*recipe.origin, *keys})
    write_text(folder / FOUND, f"# By `python -m mindcv_lite tune`, {words}\n{text}")
    log.info(words)
    log.info("python train.py --config %s", shlex.quote(str(folder / FOUND)))
    if is_installed("matplotlib"):
        names = [f"{row.candidate}, epochs: {row.epochs}, images: {row.tally.images}" for row in rows]
        shares = [(row.tally.top1, *row.interval) for row in rows]
        draw_intervals(names, shares, "held-out top-1, with its 95 % interval", folder / PICTURE)


@dataclass(frozen=True)
class Row:
    """A line of the table: a candidate after so many epochs."""

    candidate: str
    epochs: int
    folds: int
    tally: Tally

    @property
    def interval(self) -> tuple[float, float]:
        return wilson_interval(self.tally.top1, self.tally.images)

    def cells(self, share: str) -> list[str]:
        """`share`: how a share is written."""
        shares = [share.format(value) for value in (self.tally.top1, *self.interval)]
        return [self.candidate, *map(str, (self.epochs, self.folds, self.tally.images)), *shares]


ROW_COLUMNS = ["candidate", "epochs", "folds", "images", "top1", "low", "high"]
