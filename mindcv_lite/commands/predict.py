"""Say what is on images: the best classes of each and their probabilities, a line for each image.

A PATH is an image, a folder (all images in it, in any depth, sorted by name) or a pattern in quotes ('*.jpg', 'a/**').
Images are prepared as validate.py does it, by what the checkpoint's card says. Exit status 1 if some of them could not
be read; these are listed at the end, on stderr.

The first call keeps a copy of the network in the user's cache, if onnx and onnxruntime are installed and onnxruntime's
predictions for its images are MindSpore's. Later calls by the same checkpoint take the copy, and no MindSpore.
"""

import contextlib
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mindcv_lite.device.log import start_log
from mindcv_lite.device.memory import memory_for
from mindcv_lite.errors import UserError, on_one_line
from mindcv_lite.files import require_checkpoint, require_file
from mindcv_lite.program import CommandLine, owns_process
from mindcv_lite.recipe.keys import KEYS
from mindcv_lite.recipe.values import checked_value
from mindcv_lite.text_tables import write_csv

if TYPE_CHECKING:
    from mindcv_lite.evaluation.mindspore_predictor import MindSporePredictor
    from mindcv_lite.evaluation.predict import Classification
    from mindcv_lite.export.kept_network import KeptNetwork

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
        keys["batch_size"] = min(keys.get("batch_size", BATCH_SIZE), len(paths) + 1)
        kept = None if flags.mindspore else _kept_file(flags.checkpoint, paths, keys)
        predictor = _ready(flags.checkpoint, paths, keys, kept)
        with memory_for(predictor.recipe):
            classification = predictor.predict(paths, flags.top)
    for line in lines_of(predictor.class_names, classification):
        print(line)
    sys.stdout.flush()
    if flags.csv:
        write_csv(flags.csv, rows_of(predictor.class_names, classification))
    if kept:
        with contextlib.redirect_stdout(sys.stderr):
            _keep(kept, predictor, classification)
    if classification.flaws:
        print(f"{len(classification.flaws)} of {len(paths)} images could not be read:", file=sys.stderr)
        for path, flaw in classification.flaws.items():
            print(f"  {on_one_line(path)}: {flaw}", file=sys.stderr)
        sys.exit(1)


def command_line() -> CommandLine:
    usage = "%(prog)s CKPT PATH... [--top K] [--csv FILE] [--mindspore] [--batch_size N] [--image_resize N|[H,W]]"
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
    add("--mindspore", action="store_true", help="compute by MindSpore, and use and keep no copy of the network")
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


def _kept_file(checkpoint: str, paths: list[str], keys: dict[str, Any]) -> Path | None:
    """Where the checkpoint's network is kept, or is to be; None where MindSpore computes in any case."""
    from mindcv_lite.export.kept_network import kept_file

    if keys.get("device_target", "auto") not in ("auto", "CPU") or len(paths) > FEW_IMAGES:
        return None
    return kept_file(checkpoint, keys)


def _ready(
    checkpoint: str, paths: list[str], keys: dict[str, Any], kept: Path | None
) -> "KeptNetwork | MindSporePredictor":
    """What predicts: a kept network where there is one, or else MindSpore."""
    from mindcv_lite.device.launcher import require_launcher
    from mindcv_lite.export.kept_network import open_kept

    require_launcher(distribute=False)
    if kept and (network := open_kept(kept, checkpoint, keys)):
        if owns_process():
            start_log(rank=0)
        log.info("computed by onnxruntime from %s, kept by an earlier call; --mindspore computes by MindSpore", kept)
        return network
    return mindspore_predictor(checkpoint, paths, keys)


def mindspore_predictor(checkpoint: str, paths: list[str], keys: dict[str, Any]) -> "MindSporePredictor":
    from mindcv_lite.checkpoints.trained import read_trained
    from mindcv_lite.device.context import compute_at_once, for_evaluation, start_device
    from mindcv_lite.device.targets import npus
    from mindcv_lite.evaluation.mindspore_predictor import MindSporePredictor

    target = keys.get("device_target", "auto")
    spares_npu = target == "auto" and len(paths) <= FEW_IMAGES and bool(npus())
    fixed = {
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
    if world.settings.target == "CPU" and len(paths) < trained.recipe.data.batch_size:
        # For a single batch: to compile its graph took 0.8 s of CPU time more, and changed no bit (small, 1 image).
        compute_at_once()
    return MindSporePredictor(trained, world)


def _keep(file: Path, predictor: "KeptNetwork | MindSporePredictor", said: "Classification") -> None:
    """Keep what MindSpore has computed for the next call. A cache that cannot be written, or an onnx that cannot be
    imported, costs a line in the log."""
    from mindcv_lite.export.kept_network import KeptNetwork, keep

    if isinstance(predictor, KeptNetwork) or not said.logits:
        return
    try:
        keep(file, predictor, predictor.parameters(), said.logits)
    except (OSError, ImportError) as error:
        log.info("%s: the network is not kept for the next call: %s", file, getattr(error, "strerror", None) or error)


def lines_of(class_names: Sequence[str], classification: "Classification") -> list[str]:
    """A line for each image: its path, then name and probability of each class, between tabs."""
    lines = []
    for path, best in classification.best.items():
        classes = [f"{class_names[output]} {probability:.4f}" for output, probability in best]
        lines.append("\t".join(map(on_one_line, (path, *classes))))
    return lines


def rows_of(class_names: Sequence[str], classification: "Classification") -> Iterator[Sequence[object]]:
    """A row for each image and rank, below one of the columns."""
    yield COLUMNS
    for path, best in classification.best.items():
        for rank, (output, probability) in enumerate(best, 1):
            yield path, rank, class_names[output], output, f"{probability:.7g}"
