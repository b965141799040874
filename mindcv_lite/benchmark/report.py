"""The numbers of a benchmark, for reading and for programs."""

import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mindspore

from mindcv_lite.benchmark.rounds import RATIO, Round, spread
from mindcv_lite.device.settings import Settings
from mindcv_lite.recipe.keys import Recipe, size_of
from mindcv_lite.text_tables import aligned

# fmt: off
ROWS = {
    "images_per_second":         ("images/s",                     "{:.1f}"),
    "images_per_cpu_second":     ("images per CPU second",        "{:.1f}"),
    "cpu_ms_per_image":          ("CPU ms per image",             "{:.3f}"),
    "ms_per_step":               ("ms per step",                  "{:.1f}"),
    "waited_share":              ("time waiting for data",        "{:.1%}"),
    "first_step_seconds":        ("s to the first training step", "{:.2f}"),
    "first_evaluation_seconds":  ("s to the first evaluation",    "{:.2f}"),
    "program_seconds":           ("s from start to end",          "{:.1f}"),
    "times_ours":                ("time, ours = 1",               "{:.2f}"),
    "peak_memory_mb":            ("peak host memory, MB",         "{:.0f}"),
}
# fmt: on


def report_of(
    what: str, recipe: Recipe, settings: Settings, load: float, results: dict[str, list[Round]]
) -> dict[str, Any]:
    """All that was measured and where.

    `load`: the machine's load average before, which says whether others were at work on it.
    """
    return {
        "what": what,
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": load,
        "mindspore": mindspore.__version__,
        "device": settings.target,
        "workers": settings.workers,
        "config": next((where for where in recipe.origin.values() if where != "command line"), None),
        "recipe": recipe.flat(),
        "results": [_column_of(name, rounds) for name, rounds in results.items()],
    }


def _column_of(name: str, rounds: list[Round]) -> dict[str, Any]:
    return {"name": name, **{row: spread(rounds, row) for row in ROWS if row in rounds[0]}, "rounds": rounds}


def table(report: dict[str, Any]) -> Iterator[str]:
    """A row for each number, a column for each that was measured: median (lowest to highest)."""
    columns, recipe = report["results"], report["recipe"]
    height, width = size_of(recipe["image_resize"])
    rounds = len(columns[0]["rounds"])
    yield (
        f"{report['processor']}, {report['cores']} cores, load {report['load_average']:.1f} before; "
        f"MindSpore {report['mindspore']} on {report['device']}"
    )
    yield (
        f"{report['what']} of {report['config'] or 'the command line'}: {recipe['model']}, {height} x {width}, "
        f"batch {recipe['batch_size']}, data workers: {report['workers']}"
    )
    yield f"median (lowest to highest) of {rounds} round{'s' * (rounds > 1)}"
    cells = [["", *(column["name"] for column in columns)]]
    for row, (title, form) in ROWS.items():
        if any(row in column for column in columns):
            cells.append([title, *(cell(column, row, form) for column in columns)])
    yield from aligned(cells, texts=len(cells[0]))


def cell(column: dict[str, Any], row: str, form: str) -> str:
    if row not in column:
        return ""
    if column["name"] == RATIO:  # it has no unit
        form = "{:.2f}"
    low, middle, high = (form.format(column[row][name]) for name in ("lowest", "median", "highest"))
    return f"{middle} ({low} to {high})"


def processor() -> str:
    """The model of this machine's processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
