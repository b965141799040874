"""Say what is on images: the best classes of each and their probabilities, a line for each image.

A PATH is an image, a folder (all images in it, in any depth, sorted by name) or a pattern in quotes ('*.jpg', 'a/**').
Images are prepared as validate.py does it, by what the checkpoint's card says. Exit status 1 if some of them could not
be read; these are listed at the end, on stderr.
"""

import contextlib
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mindcv_lite.errors import UserError, on_one_line
from mindcv_lite.files import require_checkpoint, require_file
from mindcv_lite.program import CommandLine
from mindcv_lite.recipe.keys import KEYS
from mindcv_lite.recipe.values import checked_value
from mindcv_lite.text_tables import write_csv

if TYPE_CHECKING:
    from mindcv_lite.checkpoints.trained import Trained
    from mindcv_lite.evaluation.predict import Classification

log = logging.getLogger(__name__)

TOP, BATCH_SIZE = 5, 32
FEW_IMAGES = 1000  # the small network took 14 s of an EPYC's time for 1797 (MindSpore 2.10, 224 pixels)
RECIPE_KEYS = ("batch_size", "image_resize", "device_target", "jit_level", "num_parallel_workers")
COLUMNS = ("path", "rank", "class", "output", "probability")


def main(arguments: list[str]) -> None:
    flags = command_line().parse_intermixed_args(arguments)
    given = {name: value for name, value in vars(flags).items() if name in RECIPE_KEYS and value is not None}
    keys = {name: checked_value(name, value, "command line", from_text=True) for name, value in given.items()}
    _require_arguments(flags.checkpoint, flags.top, flags.csv)

    # stdout has the predictions alone. All else goes to stderr.
    with contextlib.redirect_stdout(sys.stderr):
        # NumPy and Pillow take a moment to import, MindSpore seconds: a wrong command line has been answered by now.
        from mindcv_lite.data.datasets.image_folder import images_at

        paths = images_at(flags.paths)
        trained, classification = classified(flags.checkpoint, paths, flags.top, keys)
    for line in lines_of(trained, classification):
        print(line)
    sys.stdout.flush()
    if flags.csv:
        write_csv(flags.csv, rows_of(trained, classification))
    if classification.flaws:
        print(f"{len(classification.flaws)} of {len(paths)} images could not be read:", file=sys.stderr)
        for path, flaw in classification.flaws.items():
            print(f"  {on_one_line(path)}: {flaw}", file=sys.stderr)
        sys.exit(1)


def command_line() -> CommandLine:
    usage = "%(prog)s CKPT PATH... [--top K] [--csv FILE] [--batch_size N] [--image_resize N|[H,W]]"
    usage += " [--device_target NAME] [--jit_level LEVEL] [--num_parallel_workers N]"
    parser = CommandLine(usage=usage, description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("checkpoint", metavar="CKPT", help="a .ckpt file of this project or of MindCV")
    add("paths", nargs="+", metavar="PATH", help="image, folder, or pattern in quotes")
    add("--top", type=int, default=TOP, metavar="K", help=f"classes of each image; default {TOP}")
    add(
        "--csv",
        type=Path,
        metavar="FILE",
        help=f"write a table, too, in place of an earlier one: {','.join(COLUMNS)}, a row for each image and rank",
    )
    defaults = {
        "batch_size": BATCH_SIZE,
        "image_resize": "the card's",
        "device_target": f"auto, and the CPU for up to {FEW_IMAGES} images",
        "jit_level": "what predicts soonest",
    }
    for name in RECIPE_KEYS:
        add(
            f"--{name}",
            metavar="VALUE",
            help=f"{KEYS[name].metadata['help']}; default {defaults.get(name, KEYS[name].default)}",
        )
    return parser


def _require_arguments(checkpoint: str, top: int, table: Path | None) -> None:
    """Raise `UserError` on what cannot be read or written; this needs no MindSpore."""
    require_checkpoint(checkpoint)
    if top < 1:
        raise UserError(f"command line: --top: expected a whole number from 1 on, got {top}")
    if table:
        if table.suffix.lower() != ".csv":
            raise UserError(f"{table}: --csv names a .csv to write")
        require_file(table)


def classified(checkpoint: str, paths: list[str], top: int, keys: dict[str, Any]) -> tuple["Trained", "Classification"]:
    """What the checkpoint is, and what it says of the images."""
    from mindcv_lite.checkpoints.trained import read_trained
    from mindcv_lite.device.context import for_evaluation, start_device
    from mindcv_lite.device.launcher import require_launcher
    from mindcv_lite.device.memory import memory_for
    from mindcv_lite.device.targets import npus
    from mindcv_lite.evaluation.predict import Predictor

    require_launcher(distribute=False)
    batch_size = min(keys.get("batch_size", BATCH_SIZE), len(paths) + 1)
    target = keys.get("device_target", "auto")
    spares_npu = target == "auto" and len(paths) <= FEW_IMAGES and bool(npus())
    fixed = {
        "batch_size": batch_size,
        "device_target": "CPU" if spares_npu else target,
        "on_corrupt": "replace",
        "dataset_sink_mode": False,
    }
    trained = read_trained(checkpoint, **keys | fixed)
    world = for_evaluation(start_device(trained.recipe), trained.recipe, len(paths))
    if spares_npu:
        log.info(
            "device_target: the CPU, which predicts %d images or fewer in seconds and disturbs nothing that an NPU "
            "computes; --device_target Ascend takes an NPU",
            FEW_IMAGES,
        )
    with memory_for(trained.recipe):
        return trained, Predictor(trained, world).predict(paths, top)


def lines_of(trained: "Trained", classification: "Classification") -> list[str]:
    """A line for each image: its path, then name and probability of each class, between tabs."""
    lines = []
    for path, best in classification.best.items():
        classes = [f"{trained.class_names[output]} {probability:.4f}" for output, probability in best]
        lines.append("\t".join(map(on_one_line, (path, *classes))))
    return lines


def rows_of(trained: "Trained", classification: "Classification") -> Iterator[Sequence[object]]:
    """A row for each image and rank, below one of the columns."""
    yield COLUMNS
    for path, best in classification.best.items():
        for rank, (output, probability) in enumerate(best, 1):
            yield path, rank, trained.class_names[output], output, f"{probability:.7g}"
