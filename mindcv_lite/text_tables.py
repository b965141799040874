"""Tables: aligned on a screen, or as CSV files."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mindcv_lite.errors import on_one_line
from mindcv_lite.files import written_whole

AS_TEXT: dict[str, Any] = {"encoding": "utf-8", "errors": "backslashreplace"}  # a file's name may be no text


def aligned(rows: Sequence[Sequence[str]], texts: int = 1) -> Iterator[str]:
    """The rows as lines: the first columns, `texts` of them, to the left, the others, which are numbers, to the
    right."""
    rows = [[on_one_line(text) for text in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = "<" * texts + ">" * (len(widths) - texts)
    for row in rows:
        cells = (f"{text:{side}{width}}" for text, side, width in zip(row, sides, widths, strict=True))
        yield "  ".join(cells).rstrip()


def write_csv(path: Path, rows: Iterable[Sequence[object]]) -> None:
    """Write rows as a CSV file, whole or not at all. Raises `UserError`."""
    with written_whole(path) as unfinished, open(unfinished, "w", newline="", **AS_TEXT) as file:
        on_lines = ([on_one_line(cell) if isinstance(cell, str) else cell for cell in row] for row in rows)
        csv.writer(file, lineterminator="\n").writerows(on_lines)
