"""Check a checkpoint: top-1, top-5 and loss over the validation images, on one device or under msrun."""

import logging
import sys
from argparse import ArgumentTypeError
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mindcv_lite.device.log import hold_log
from mindcv_lite.device.memory import memory_for
from mindcv_lite.errors import UserError
from mindcv_lite.files import require_folder
from mindcv_lite.program import CommandLine, run_script
from mindcv_lite.recipe.keys import Recipe
from mindcv_lite.recipe.load import load_recipe
from mindcv_lite.recipe.rules import require_paths

if TYPE_CHECKING:
    from mindcv_lite.evaluation.score import Score

log = logging.getLogger("mindcv_lite")


def main(arguments: Sequence[str] | None = None) -> None:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    own = command_line()
    recipe = load_recipe(arguments, __doc__, own, trains=False)
    flags, _ = own.parse_known_args(arguments)
    if flags.report is not None:
        require_folder(flags.report)
    require_paths(recipe)
    if not recipe.model.ckpt_path:
        raise UserError("command line: ckpt_path is not set: --ckpt_path names the checkpoint to check")
    hold_log()
    with memory_for(recipe):
        validate(recipe, flags.report)


def validate(recipe: Recipe, report: Path | None = None) -> "Score":
    """The score of the recipe's checkpoint. `report`: a folder for more about it."""
    from mindcv_lite.data.datasets.splits import labelled_for, validation_images

    images = validation_images(recipe)
    # MindSpore takes seconds to import: a wrong recipe or folder has been answered by now.
    from mindcv_lite.checkpoints.trained import recipe_to_evaluate
    from mindcv_lite.checkpoints.weights import load_weights, read_weights
    from mindcv_lite.device.context import for_evaluation, keep_graphs, start_device
    from mindcv_lite.evaluation.report.statistics import wilson_interval
    from mindcv_lite.evaluation.report.writing import require_files_in, validation_of, write_report
    from mindcv_lite.evaluation.score import EvaluationStep, evaluate
    from mindcv_lite.models.build import evaluation_network

    if report is not None:
        require_files_in(report)
    world = start_device(recipe, seeds=False)
    weights = read_weights(recipe.model.ckpt_path)
    recipe = recipe_to_evaluate(weights, recipe)
    images = labelled_for(images, recipe, weights.class_names)
    world = keep_graphs(for_evaluation(world, recipe, len(images)), recipe)
    network = evaluation_network(recipe.model, world)
    load_weights(network, weights)
    step = EvaluationStep(network, recipe, world.cpu_kernels)
    score = evaluate(step, images, recipe, world, bar=world.rank == 0, keep=report is not None)
    log.info("%s, %d images, %.1f images/s", score, score.images, score.images_per_second)
    log.info(
        "95 %% interval of top-1: %.2f%% to %.2f%%", *(100 * end for end in wilson_interval(score.top1, len(images)))
    )
    if report is not None and world.rank == 0:
        write_report(report, validation_of(score, images, weights, recipe, world))
    return score


def folder_name(text: str) -> Path:
    if not text:
        raise ArgumentTypeError("expected a folder, got ''")
    return Path(text)


def command_line() -> CommandLine:
    """The flags that are no keys of a recipe."""
    parser = CommandLine(add_help=False, allow_abbrev=False)
    text = "folder for report.html and per_class.csv, confusion.csv, predictions.csv; earlier ones are replaced"
    parser.add_argument_group("report").add_argument("--report", type=folder_name, metavar="DIR", help=text)
    return parser


if __name__ == "__main__":
    run_script(main)
