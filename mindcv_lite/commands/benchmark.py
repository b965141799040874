"""Measure what a recipe costs on this machine: with `pipeline` the training input alone; with `step` the training
step on random data, and if there is a data_dir on its images too; with `validate` the evaluation of the validation
split, by the weights of ckpt_path or by random ones; with `compile` the first training step and the first evaluation
batch, in a new process for each round; with `compare` ours beside PyTorch's, onnxruntime's and MindCV's in turn, as far
as they are installed, and if there is a data_dir a whole training too. All but `compile` begin with a round that does
not count."""

import contextlib
import json
import logging
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mindcv_lite.errors import UserError
from mindcv_lite.files import require_file, write_text
from mindcv_lite.program import CommandLine, is_installed
from mindcv_lite.recipe.keys import Recipe
from mindcv_lite.recipe.load import load_recipe
from mindcv_lite.recipe.rules import require_paths

if TYPE_CHECKING:
    from argparse import Namespace

log = logging.getLogger(__name__)

SUBJECTS = ("pipeline", "step", "validate", "compile", "compare")
ROUNDS, SECONDS = 5, 5.0


def main(arguments: list[str]) -> None:
    what, *rest = arguments or ["--help"]
    if what not in (*SUBJECTS, "-h", "--help"):
        raise UserError(f"command line: expected one of {', '.join(SUBJECTS)} after benchmark, got {what!r}")
    own = command_line()
    recipe = load_recipe(rest if what in SUBJECTS else [what], __doc__, own)
    flags, _ = own.parse_known_args(rest)
    require_numbers(what, flags)
    require_paths(recipe)
    _require_subject(what, recipe)
    compare_dir = _comparable_folder(what, flags, recipe)
    _require_json_file(flags.json)

    # stdout has the report alone. All else that we or MindCV print goes to stderr.
    with contextlib.redirect_stdout(sys.stderr):
        reports = measure(what, recipe, flags, compare_dir)
    write_reports(reports, flags.json)


def command_line() -> CommandLine:
    """The flags that are no keys of a recipe."""
    usage = f"%(prog)s {'|'.join(SUBJECTS)} --config FILE [--rounds R] [--seconds S | --batches N]"
    parser = CommandLine(
        usage=f"{usage} [--latency MS] [--json FILE] [any key of a recipe]", add_help=False, allow_abbrev=False
    )
    add = parser.add_argument_group("benchmark").add_argument
    add("--rounds", type=int, default=ROUNDS, metavar="R", help=f"rounds that count; default {ROUNDS}")
    add("--seconds", type=float, metavar="S", help=f"pipeline, step, compare: length of a round; default {SECONDS:g}")
    add("--batches", type=int, metavar="N", help="pipeline, step, compare: length of a round, in place of --seconds")
    late = "pipeline: milliseconds that each file of a folder takes to come, beside those of this disk; default 0"
    add("--latency", type=float, default=0.0, metavar="MS", help=late)
    add("--json", metavar="FILE", help="write the numbers as JSON, those of each round too; -: to stdout, no table")
    add("--compare", choices=("mindcv",), help="pipeline: in turn with MindCV's, by the same recipe")
    add("--compare_dir", metavar="DIR", help="folder of class folders for MindCV; default: data_dir")
    return parser


def require_numbers(what: str, flags: "Namespace") -> None:
    for name in ("rounds", "seconds", "batches"):
        value = getattr(flags, name)
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"command line: --{name}: expected a finite number above 0, got {value}")
    if not 0 <= flags.latency < math.inf:
        raise UserError(f"command line: --latency: expected a finite number from 0 on, got {flags.latency}")
    if flags.latency and what != "pipeline":
        raise UserError(f"command line: --latency: only pipeline reads late files, not {what}")
    given = [name for name in ("seconds", "batches") if getattr(flags, name) is not None]
    if len(given) == 2:
        raise UserError("command line: --seconds and --batches both say how long a round is; give one of them")
    if given and what in ("validate", "compile"):
        round_there = "the whole split" if what == "validate" else "a new process"
        raise UserError(f"command line: --{given[0]}: a round of {what} is {round_there}; leave it out")


def _require_subject(what: str, recipe: Recipe) -> None:
    """Raise `UserError` if the recipe does not say what is needed; this needs no MindSpore."""
    if what in ("pipeline", "validate") and not recipe.data.has_images:
        raise UserError(f"data_dir is not set: --data_dir names the folder whose images {what} reads")
    images = what != "compile" and recipe.data.has_images
    if not images and recipe.model.num_classes is None:
        raise UserError("num_classes is not set, and there are no images whose classes to count: --num_classes 1000")
    if what == "compare" and images:
        for split in (recipe.data.train_split, recipe.data.val_split):
            _require_class_folders(recipe.data.data_dir, split, "timm's loader")


def _comparable_folder(what: str, flags: "Namespace", recipe: Recipe) -> str | None:
    """The folder that MindCV's pipeline is to read, if it is asked for. Raises `UserError` if that cannot be."""
    if not flags.compare:
        if flags.compare_dir:
            raise UserError("command line: --compare_dir is for --compare mindcv")
        return None
    if what != "pipeline":
        raise UserError(f"command line: --compare: only pipeline can be compared, not {what}")
    if not is_installed("mindcv"):
        raise UserError("--compare mindcv needs MindCV's package: pip install mindcv")
    folder = flags.compare_dir or recipe.data.data_dir
    _require_class_folders(folder, recipe.data.train_split, "MindCV", "; --compare_dir names such a folder")
    if flags.latency:
        raise UserError("command line: --latency: MindCV's files cannot be late; leave out --compare")
    if recipe.model.in_channels != 3:
        raise UserError("--compare: MindCV gives colour images only; --in_channels 3")
    height, width = recipe.augmentation.input_size
    if height != width:
        raise UserError(f"--compare: it is of square images; --image_resize {height} or {width}")
    return folder


def _require_class_folders(folder: str, split: str, reader: str, advice: str = "") -> None:
    if not any(Path(folder, split).glob("*/")):
        raise UserError(f"{folder}: no {split}/<class>/ in it, and {reader} reads class folders only{advice}")


def _require_json_file(path: str | None) -> None:
    if path == "":
        raise UserError("command line: --json: expected a file to write, or -, got ''")
    if path and path != "-":
        require_file(Path(path))


def measure(what: str, recipe: Recipe, flags: "Namespace", compare_dir: str | None) -> list[dict[str, Any]]:
    """The report of `what`; of compare, one for each subject that is compared."""
    # MindSpore takes seconds to import: a wrong command line has been answered by now.
    from mindcv_lite.benchmark import subjects
    from mindcv_lite.benchmark.compare import compare
    from mindcv_lite.benchmark.first_steps import first_steps
    from mindcv_lite.benchmark.report import report_of
    from mindcv_lite.benchmark.rounds import Plan
    from mindcv_lite.device.context import start_device
    from mindcv_lite.device.launcher import require_launcher

    require_launcher(distribute=False)
    world = start_device(recipe)
    if recipe.system.distribute:
        log.info("distribute is passed over: one process is measured")
    load = os.getloadavg()[0]
    plan = Plan(flags.rounds, flags.seconds or SECONDS, flags.batches)
    if what == "pipeline":
        results = subjects.pipeline(recipe, world, plan, flags.latency / 1000, compare_dir)
    elif what == "step":
        results = subjects.step(recipe, world, plan)
    elif what == "validate":
        results = subjects.validate(recipe, world, plan)
    elif what == "compile":
        results = first_steps(recipe, plan)
    else:
        found = compare(recipe, plan)
        return [report_of(subject, recipe, world.settings, load, rounds) for subject, rounds in found.items()]
    return [report_of(what, recipe, world.settings, load, results)]


def write_reports(reports: list[dict[str, Any]], path: str | None) -> None:
    """The tables on stdout, or the JSON there; or both, the JSON into a file."""
    from mindcv_lite.benchmark.report import table

    text = json.dumps(reports if len(reports) > 1 else reports[0], indent=2) + "\n"
    if path == "-":
        print(text, end="")
        return
    print("\n\n".join("\n".join(table(report)) for report in reports))
    if path:
        write_text(Path(path), text)
