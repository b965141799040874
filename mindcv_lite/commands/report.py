"""Compare runs of training by their results.csv: a line each, and with --out their curves on top of each other."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from mindcv_lite.errors import CommandLine, UserError
from mindcv_lite.files import require_file
from mindcv_lite.packages import require_packages
from mindcv_lite.tables import aligned

if TYPE_CHECKING:
    from mindcv_lite.training.results import EpochResult

PICTURES = (".png", ".pdf", ".svg")
HEAD = (
    "run",
    "epochs",
    "best top-1",
    "in epoch",
    "last top-1",
    "training loss",
    "validation loss",
    "images/s",
    "ms/step",
    "graph compile",
    "trained for",
)


def main(arguments: list[str]) -> None:
    flags = command_line().parse_args(arguments)
    # NumPy takes longer to import than the command line to answer.
    from mindcv_lite.training.curves import draw, printable
    from mindcv_lite.training.results import RESULTS, read_results

    if flags.out:
        require_picture(flags.out)
        require_packages("--out", "plot", "matplotlib")
    runs = {}
    for name, folder in names_of(flags.folders).items():
        runs[name] = read_results(folder / RESULTS)
        if not runs[name]:
            raise UserError(f"{folder / RESULTS}: no epoch is done yet")
    print("\n".join(aligned([HEAD, *((printable(name), *summary(results)) for name, results in runs.items())])))
    if flags.out:
        draw(runs, flags.out)


def command_line() -> CommandLine:
    usage = "%(prog)s report CKPT_DIR [CKPT_DIR ...] [--out FILE]"
    parser = CommandLine(usage=usage, description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("folders", type=Path, nargs="+", metavar="CKPT_DIR", help="folder of a run, which holds its results.csv")
    add("--out", type=Path, metavar="FILE", help=f"picture of the curves: a file that ends in {', '.join(PICTURES)}")
    return parser


def require_picture(path: Path) -> None:
    """Raise `UserError` unless `path` can be the name of a picture."""
    if path.suffix.lower() not in PICTURES:
        raise UserError(f"{path}: --out names a file that ends in {', '.join(PICTURES)}")
    require_file(path)


def names_of(folders: Sequence[Path]) -> dict[str, Path]:
    """Folders by the end of their path, as long as it takes to tell them apart."""
    different = {folder.resolve(): folder for folder in folders}
    for length in range(1, max(len(path.parts) for path in different) + 1):
        names = [str(Path(*path.parts[-length:])) for path in different]
        if len({*names}) == len(names):
            break
    return dict(zip(names, different.values(), strict=True))


def summary(results: Sequence["EpochResult"]) -> tuple[str, ...]:
    """A run in the columns of the table."""
    *_, last = results
    validated = [each for each in results if each.top1 is not None]
    scores = ["-"] * 3, "-"
    if validated:
        best, latest = max(validated, key=lambda each: each.top1 or 0), validated[-1]
        scores = [f"{best.top1:.2%}", str(best.epoch), f"{latest.top1:.2%}"], f"{latest.val_loss:.4f}"
    return (
        str(last.epoch),
        *scores[0],
        f"{last.train_loss:.4f}",
        scores[1],
        f"{median(each.images_per_second for each in results):.1f}",
        shown(ms_per_step(results), ".2f"),
        shown(graph_compile(results), ".1f", " s"),
        duration(sum(each.seconds for each in results)),
    )


def ms_per_step(results: Sequence["EpochResult"]) -> float | None:
    """The median of the epochs; None: no epoch tells."""
    known = [each.ms_per_step for each in results if each.ms_per_step is not None]
    return median(known) if known else None


def graph_compile(results: Sequence["EpochResult"]) -> float | None:
    """Seconds of the longest compilation: a later start may have found its graphs kept. None: no epoch tells."""
    return max((each.graph_compile for each in results if each.graph_compile is not None), default=None)


def shown(number: float | None, digits: str, unit: str = "") -> str:
    """A number with its unit, or `-` if it is not known."""
    return "-" if number is None else f"{number:{digits}}{unit}"


def duration(seconds: float) -> str:
    """Hours, minutes and seconds."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
