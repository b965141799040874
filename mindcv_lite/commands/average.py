"""Average the weights of checkpoints into a new one, all of them or, with --greedy, those that together score best.

Where images are given (--data_dir), BatchNorm's statistics are estimated anew from training images, also for a single
checkpoint, such as one of a moving average (ema); otherwise they are averaged like the weights.
"""

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mindcv_lite.errors import UserError
from mindcv_lite.files import require_checkpoint, require_file
from mindcv_lite.program import CommandLine
from mindcv_lite.recipe.keys import KEYS
from mindcv_lite.recipe.rules import require_paths
from mindcv_lite.recipe.values import checked_value

if TYPE_CHECKING:
    from mindcv_lite.checkpoints.trained import Trained
    from mindcv_lite.evaluation.weight_averaging import Parameters

log = logging.getLogger(__name__)

# In training, BatchNorm's statistics rest on far fewer images: with bn_momentum 0.9, mostly on the last 20 batches.
DEFAULTS = {"batch_size": 64, "num_samples": 10_000}
RECIPE_KEYS = (
    *("dataset", "data_dir", "train_split", "val_split", "sampling", "num_samples", "batch_size"),
    *("device_target", "num_parallel_workers"),
)


def main(arguments: list[str]) -> None:
    flags = command_line().parse_args(arguments)
    given = {name: value for name, value in vars(flags).items() if name in RECIPE_KEYS and value is not None}
    keys = {name: checked_value(name, value, "command line", from_text=True) for name, value in given.items()}
    _require_files(flags.checkpoints, flags.target)
    has_images = bool(keys.get("data_dir")) or keys.get("dataset") == "digits"
    if flags.greedy and (not has_images or len(flags.checkpoints) < 2):
        raise UserError(
            "command line: --greedy chooses among checkpoints by their top-1; give two or more, and --data_dir"
        )
    if len(flags.checkpoints) < 2 and not has_images:
        raise UserError("command line: one checkpoint has no mean; give more, or --data_dir for BatchNorm's statistics")

    # MindSpore takes seconds to import: a wrong command line has been answered by now.
    from mindcv_lite.evaluation.weight_averaging import mean_of, meaning_of, parameters_of, read_alike
    from mindcv_lite.runs.checkpoint_saver import save_weights

    alike = read_alike(flags.checkpoints, **DEFAULTS | keys, dataset_sink_mode=False)
    card = meaning_of(alike[0])
    if has_images:
        parameters, results = _with_images(alike, flags.greedy)
    else:
        parameters, results = mean_of([*map(parameters_of, alike)]), {"averaged": names_of(alike)}
    save_weights(flags.target, parameters, card | results)
    log.info("%s: the mean of %d of %d checkpoints", flags.target, len(results["averaged"]), len(alike))


def command_line() -> CommandLine:
    usage = "%(prog)s CKPT... TARGET [--data_dir DIR [--greedy]] [--dataset NAME] [--num_samples N] ..."
    parser = CommandLine(usage=usage, description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("checkpoints", nargs="+", metavar="CKPT", help="checkpoints of one network and recipe")
    add("target", type=Path, metavar="TARGET", help="new .ckpt file")
    add(
        "--greedy",
        action="store_true",
        help="keep only checkpoints that do not lower top-1 on the validation split, which then is no honest test of "
        "the result any more",
    )
    helps = {"num_samples": "training images for BatchNorm's statistics, at most"}
    for name in RECIPE_KEYS:
        text = helps.get(name, KEYS[name].metadata["help"])
        add(f"--{name}", metavar="VALUE", help=f"{text}; default {DEFAULTS.get(name, KEYS[name].default) or 'none'}")
    return parser


def _require_files(checkpoints: list[str], target: Path) -> None:
    """Raise `UserError` on a wrong file name; this needs no MindSpore."""
    for path in checkpoints:
        require_checkpoint(path)
    if len({Path(path).resolve() for path in checkpoints}) < len(checkpoints):
        raise UserError("command line: a checkpoint is given twice; its weights would count twice")
    if target.suffix != ".ckpt":
        raise UserError(f"{target}: the name of TARGET, the last argument, must end in .ckpt")
    if os.path.lexists(target):
        raise UserError(f"{target}: stands there already; remove it, or give another TARGET as the last argument")
    require_file(target)


def names_of(alike: list["Trained"]) -> list[str]:
    """The files, for the model card."""
    return [Path(trained.weights.path).name for trained in alike]


def _with_images(alike: list["Trained"], greedy: bool) -> tuple["Parameters", dict[str, Any]]:
    """The mean, or the greedy soup, with statistics of training images; and what its model card says of that."""
    from mindcv_lite.data.datasets.splits import training_splits, validation_split
    from mindcv_lite.device.context import for_evaluation, start_device
    from mindcv_lite.device.launcher import require_launcher
    from mindcv_lite.evaluation.score import EvaluationStep, evaluate
    from mindcv_lite.evaluation.weight_averaging import Statistics, greedy_soup, mean_of, parameters_of, put
    from mindcv_lite.models.build import evaluation_network

    recipe, checkpoints, names = alike[0].recipe, [*map(parameters_of, alike)], names_of(alike)
    require_paths(recipe)
    require_launcher(distribute=False)
    images, _ = training_splits(recipe.with_keys(val_while_train=False))
    count = min(len(images), recipe.data.num_samples or len(images))
    recipe = recipe.with_keys(batch_size=min(recipe.data.batch_size, count))
    world = for_evaluation(start_device(recipe), recipe, len(images))
    statistics = Statistics(images, recipe, world)
    if not greedy:
        return statistics.anew(mean_of(checkpoints)), {"averaged": names}

    val_split = validation_split(recipe, alike[0].weights.class_names)
    network = evaluation_network(recipe.model, world)
    step = EvaluationStep(network, recipe, world.cpu_kernels)

    def top1_of(parameters: "Parameters") -> float:
        put(network, parameters)
        return evaluate(step, val_split, recipe, world).top1

    def mix(some: Any) -> "Parameters":
        return statistics.anew(mean_of(some))

    kept, parameters, top1 = greedy_soup(checkpoints, names, mix, top1_of)
    return parameters, {"averaged": [names[number] for number in kept], "top1": top1}
