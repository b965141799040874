"""Compare runs of training by their results.csv: a line each, and with --out their curves on top of each other.
With --markdown the lines are rows of a model zoo's table. Runs that differ by their seed alone are also summed up in
mean and standard deviation. With --paired, compare two validations image by image, and say whether they differ."""

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean, median, stdev
from typing import TYPE_CHECKING
from urllib.parse import quote

from mindcv_lite.errors import UserError
from mindcv_lite.files import require_file
from mindcv_lite.program import CommandLine, require_packages
from mindcv_lite.recipe.keys import Recipe
from mindcv_lite.recipe.load import load_recipe
from mindcv_lite.text_tables import aligned

if TYPE_CHECKING:
    from mindcv_lite.runs.results import EpochResult

PICTURES = (".png", ".pdf", ".svg")
HEAD = (
    "run",
    "epochs",
    "best top-1",
    "in epoch",
    "last top-1",
    "its 95 % interval",
    "training loss",
    "validation loss",
    "images/s",
    "ms/step",
    "graph compile",
    "trained for",
)
# As MindCV's documentation has them.
ZOO_HEAD = (
    *("model name", "params(M)", "cards", "batch size", "resolution", "jit level", "graph compile", "ms/step", "img/s"),
    *("acc@top1", "acc@top5", "recipe", "weight"),
)


def main(arguments: list[str]) -> None:
    flags = command_line().parse_args(arguments)
    if flags.paired:
        if flags.markdown or flags.out or len(names_of(flags.folders)) != 2:
            raise UserError("command line: --paired takes two folders of validate.py --report, and no other flag")
        print("\n".join(comparison(names_of(flags.folders))))
        return
    # NumPy takes longer to import than the command line to answer.
    from mindcv_lite.runs.curves import draw, printable
    from mindcv_lite.runs.results import RESULTS, read_results

    if flags.out:
        _require_picture(flags.out)
        require_packages("--out", "matplotlib")
    folders, runs = names_of(flags.folders), {}
    for name, folder in folders.items():
        runs[name] = read_results(folder / RESULTS)
        if not runs[name]:
            raise UserError(f"{folder / RESULTS}: no epoch is done yet")
    if flags.markdown:
        rows = [ZOO_HEAD, ("---",) * len(ZOO_HEAD), *(_zoo_row(folders[name], runs[name]) for name in runs)]
        print("\n".join(f"| {' | '.join(row)} |" for row in rows))
    else:
        print("\n".join(aligned([HEAD, *((printable(name), *summary(results)) for name, results in runs.items())])))
        for line in repeats(folders, runs):
            print(line)
    if flags.out:
        draw(runs, flags.out)


def command_line() -> CommandLine:
    usage = "%(prog)s CKPT_DIR [CKPT_DIR ...] [--markdown] [--out FILE]\n"
    usage += "       %(prog)s --paired REPORT_DIR REPORT_DIR"
    parser = CommandLine(usage=usage, description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("folders", type=Path, nargs="+", metavar="CKPT_DIR", help="folder of a run, which holds its results.csv")
    add(
        "--markdown",
        action="store_true",
        help="print a model zoo's table, with what the runs' folders tell; -: not known",
    )
    add(
        "--paired",
        action="store_true",
        help="compare two folders of validate.py --report: images that only one gets right, McNemar's exact test",
    )
    add("--out", type=Path, metavar="FILE", help=f"picture of the curves: a file that ends in {', '.join(PICTURES)}")
    return parser


def _require_picture(path: Path) -> None:
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
    tops, val_loss = ("-", "-", "-", "-"), "-"
    if best := _best_of(results):
        *_, latest = (each for each in results if each.top1 is not None)
        tops = f"{best.top1:.2%}", str(best.epoch), f"{latest.top1:.2%}", interval(latest.top1 or 0, latest.val_images)
        val_loss = f"{latest.val_loss:.4f}"
    return (
        str(last.epoch),
        *tops,
        shown(last.train_loss, ".4f"),
        val_loss,
        shown(_median_of(results, "images_per_second"), ".1f"),
        shown(_median_of(results, "ms_per_step"), ".2f"),
        shown(graph_compile(results), ".1f", " s"),
        duration(sum(each.seconds or 0 for each in results)),
    )


def interval(top1: float, images: int | None) -> str:
    """The 95 % interval of a top-1; `-` where it is not known of how many images."""
    from mindcv_lite.evaluation.report.statistics import wilson_interval

    return "{:.2%} to {:.2%}".format(*wilson_interval(top1, images)) if images else "-"


def repeats(folders: Mapping[str, Path], runs: Mapping[str, Sequence["EpochResult"]]) -> Iterator[str]:
    """A line for runs of the same length and recipe but for the seed: mean and standard deviation of their top-1."""
    alike: dict[tuple, dict[int, Sequence[EpochResult]]] = {}
    for name, results in runs.items():
        if len(runs) > 1 and _best_of(results) and (recipe := _recipe_in(folders[name] / "recipe.yaml")):
            rest = recipe.with_keys(seed=0, ckpt_save_dir="").text(), results[-1].epoch, results[-1].devices
            alike.setdefault(rest, {})[recipe.system.seed] = results
    for by_seed in alike.values():
        if len(by_seed) > 1:
            tops = [[each.top1 for each in results if each.top1 is not None] for results in by_seed.values()]
            best, last = ([pick(top) for top in tops] for pick in (max, lambda top: top[-1]))
            yield (
                f"seeds {', '.join(map(str, by_seed))} of one recipe, mean (standard deviation): "
                f"best top-1 {mean(best):.2%} ({stdev(best):.2%}), last top-1 {mean(last):.2%} ({stdev(last):.2%})"
            )


def comparison(folders: Mapping[str, Path]) -> Iterator[str]:
    """Two validations, by their names, in lines, and what their difference says."""
    from mindcv_lite.evaluation.report.paired import SURE, paired
    from mindcv_lite.runs.curves import printable

    found, names = paired(*folders.values()), [*map(printable, folders)]
    rows = [("report", "top-1", "95 % interval", "right", "images that it alone gets right")]
    for name, right, only in zip(names, found.right, found.only, strict=True):
        share = right / found.images
        rows.append((name, f"{share:.2%}", interval(share, found.images), str(right), str(only)))
    yield from aligned(rows)
    better = names[found.only[1] > found.only[0]]
    verdict = f"{better} is better" if found.p_value < SURE else f"no difference that {found.images} images could show"
    yield f"{verdict} (McNemar's exact test: p = {found.p_value:.3g})"


def _zoo_row(folder: Path, results: Sequence["EpochResult"]) -> tuple[str, ...]:
    """A run in the columns of a model zoo's table, with the score of its best epoch; `-`: not known."""
    path, best = folder / "recipe.yaml", _best_of(results)
    recipe = _recipe_in(path)
    jit_levels = dict.fromkeys(each.jit_level for each in results if each.jit_level)
    accuracy = [score and 100 * score for score in ((best.top1, best.top5) if best else (None, None))]
    return (
        recipe.model.model if recipe else "-",
        shown(_millions_of_parameters(recipe) if recipe else None, ".2f"),
        cards(results[-1]),
        str(recipe.data.batch_size) if recipe else "-",
        "{}x{}".format(*recipe.augmentation.input_size) if recipe else "-",
        ", ".join(jit_levels) or "-",
        shown(graph_compile(results), ".0f", "s"),
        shown(_median_of(results, "ms_per_step"), ".2f"),
        shown(_median_of(results, "images_per_second"), ".2f"),
        *(shown(share, ".2f") for share in accuracy),
        link("yaml", path if recipe else None),
        link("weights", _weights_in(folder, validated=best is not None)),
    )


def _recipe_in(path: Path) -> Recipe | None:
    """The recipe of a run; None, and a line on stderr, where there is none that this version can read."""
    if not path.is_file():
        return None
    try:
        return load_recipe([f"--config={path}"], "")
    except UserError as error:
        print(error, file=sys.stderr)
        return None


def _millions_of_parameters(recipe: Recipe) -> float | None:
    """With BatchNorm's statistics, as MindCV counts them. None: the recipe leaves the number of classes open."""
    from mindcv_lite.models.block_tables import VARIANTS
    from mindcv_lite.models.complexity import complexity_of

    model = recipe.model
    if model.num_classes is None:
        return None
    lines = complexity_of(VARIANTS[model.model], model.num_classes, model.in_channels, recipe.augmentation.input_size)
    return sum(line.trainable + line.statistics for line in lines) / 1e6


def cards(result: "EpochResult") -> str:
    """The number of NPUs; of other devices with their kind, so that no reader takes them for NPUs."""
    if result.devices is None:
        return "-"
    return str(result.devices) if result.device == "Ascend" else f"{result.devices} ({result.device})"


def _weights_in(folder: Path, validated: bool) -> Path | None:
    """The weights of the best epoch; those of the latest, where no epoch was validated."""
    pattern = "mobilenet_v3_*_best.ckpt" if validated else "mobilenet_v3_*-*_*.ckpt"
    step = re.compile(r"_(\d+)\.ckpt$")
    return max(folder.glob(pattern), key=lambda path: [int(number) for number in step.findall(path.name)], default=None)


def link(text: str, path: Path | None) -> str:
    return f"[{text}]({quote(os.fsencode(path))})" if path else "-"


def _best_of(results: Sequence["EpochResult"]) -> "EpochResult | None":
    """The epoch of the highest top-1. None: no epoch was validated."""
    validated = [each for each in results if each.top1 is not None]
    return max(validated, key=lambda each: each.top1 or 0, default=None)


def _median_of(results: Sequence["EpochResult"], column: str) -> float | None:
    """The median of the epochs; None: no epoch tells."""
    known = [value for each in results if (value := getattr(each, column)) is not None]
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
