"""Pictures of the results of runs, above all their curves: by matplotlib, which may be missing."""

import logging
import math
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mindcv_lite.errors import first_line, on_one_line
from mindcv_lite.files import written_whole
from mindcv_lite.program import is_installed
from mindcv_lite.runs.results import RESULTS, EpochResult, read_results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)

CURVES = "curves.png"
# A panel for each title: columns of results.csv, and what they are called. Several runs get a panel for each column.
PANELS = {
    "loss": {"train_loss": "training", "val_loss": "validation"},
    "accuracy": {"top1": "top-1", "top5": "top-5"},
    "learning rate": {"lr": ""},
    "images per second": {"images_per_second": ""},
}
MOST_MARKED = 60  # points of a curve that are marked; more would run together
DRAW_EVERY = 10.0  # seconds, while a run goes on
WIDE = 20  # times the median value, from which on an axis is logarithmic: else most of the curve lies on the floor


class Curves:
    """The curves.png of the run in `folder`, which goes on. Without matplotlib there is none."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.may_wait_until = -math.inf

    def draw(self, at_once: bool = False) -> None:
        """Draw it anew; unless `at_once`, only if it is `DRAW_EVERY` seconds old: few images are trained in less
        time than a drawing takes. A failure is a line in the log: training goes on without it."""
        may_wait = time.monotonic() < self.may_wait_until and not at_once
        if may_wait or not is_installed("matplotlib") or not (self.folder / RESULTS).exists():
            return
        try:
            draw({self.folder.resolve().name: read_results(self.folder / RESULTS)}, self.folder / CURVES)
        except Exception as error:  # of a library, about a convenience
            log.warning("%s is not drawn: %s", self.folder / CURVES, first_line(error))
        self.may_wait_until = time.monotonic() + DRAW_EVERY


def draw(runs: Mapping[str, Sequence[EpochResult]], path: Path) -> None:
    """Draw the results of each run, by its name, into a picture file. Raises `UserError` if it cannot be written."""
    with written_whole(path) as unfinished, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)  # of a name; a box is drawn for it
        figure_of(runs).savefig(unfinished, dpi=100)


def draw_intervals(names: Sequence[str], shares: Sequence[tuple[float, float, float]], title: str, path: Path) -> None:
    """Draw shares, each with the ends of its interval, into a picture file, the first on top. Raises `UserError`."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    figure = Figure((9, 1.2 + 0.32 * len(names)), layout="constrained")
    axes = figure.subplots()
    for row, (share, *ends) in enumerate(shares):
        axes.plot(ends, (row, row), color="tab:blue", linewidth=1.3)
        axes.plot(share, row, "o", color="tab:blue")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xlabel(title)
    axes.grid(alpha=0.3, axis="x")
    with written_whole(path) as unfinished:
        figure.savefig(unfinished, dpi=100)


def figure_of(runs: Mapping[str, Sequence[EpochResult]]) -> "Figure":
    """The figure of one run, in which a colour is a column; or of several, in which a colour is a run."""
    from matplotlib.figure import Figure  # not pyplot, which keeps its figures and may look for a display

    alone = len(runs) == 1
    panels = PANELS if alone else _a_panel_for_each_column()
    names = [printable(name) for name in runs]
    entries_in_a_row = max(1, 140 // (max(map(len, names)) + 8))
    legend_rows = 0 if alone else -(-len(runs) // entries_in_a_row)
    figure = Figure((11, 3.4 * len(panels) / 2 + 0.22 * legend_rows), layout="constrained")
    grid = figure.subplots(len(panels) // 2, 2, sharex=True)
    for axes, (title, columns) in zip(grid.flat, panels.items(), strict=True):
        colours = _colours(len(columns) if alone else len(runs))
        for results in runs.values():
            for column, name in columns.items():
                _plot(axes, results, column, colour=next(colours), label=name)
        _finish(axes, title)
    for axes in grid[-1]:
        axes.set_xlabel("epoch")
    if alone:
        figure.suptitle(names[0], parse_math=False)
    else:
        legend = figure.legend(axes.lines, names, loc="outside lower center", ncols=entries_in_a_row, frameon=False)
        for text in legend.get_texts():
            text.set_parse_math(False)
    return figure


def _a_panel_for_each_column() -> dict[str, dict[str, str]]:
    return {
        f"{name} {title}".strip(): {column: ""} for title, columns in PANELS.items() for column, name in columns.items()
    }


def _colours(count: int) -> Iterator[Any]:
    """`count` colours that differ as much as can be."""
    from matplotlib import colormaps

    return map(colormaps["tab10" if count <= 10 else "turbo"], range(10) if count <= 10 else np.linspace(0, 1, count))


def _plot(axes: "Axes", results: Sequence[EpochResult], column: str, colour: Any, label: str) -> None:
    """A curve through the epochs in which the column is known."""
    points = [(each.epoch, value) for each in results if (value := getattr(each, column)) is not None]
    label = label if points else ""  # which the legend leaves out
    if column == "top1" and label:
        epoch, best = max(points, key=lambda point: point[1])
        label = f"{label}, best {best:.2%} in epoch {epoch}"
    marker = "o" if len(points) <= MOST_MARKED else None
    axes.plot(*np.reshape(points, (-1, 2)).T, color=colour, label=label, linewidth=1.3, marker=marker, markersize=3)


def _finish(axes: "Axes", title: str) -> None:
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    axes.set_title(title, fontsize="medium")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(alpha=0.3)
    values = np.concatenate([line.get_ydata() for line in axes.lines])
    values = values[np.isfinite(values)]
    if not len(values):
        axes.set_yticks([])
        axes.text(0.5, 0.5, "not validated", transform=axes.transAxes, ha="center", va="center")
    elif "accuracy" in title:
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    elif "images" in title:
        axes.set_ylim(0, 1.1 * values.max())
    elif values.max() > WIDE * np.median(values):
        axes.set_yscale("log", nonpositive="mask")  # a rate may end at 0
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize="small")


def printable(name: str) -> str:
    """A folder's name as text, which it need not be, on one line and of a length that fits."""
    text = on_one_line(name.encode("utf-8", "backslashreplace").decode())
    return text if len(text) <= 60 else f"…{text[-59:]}"
