"""Find out which way of fine-tuning suits your images, and write the recipe of it.

Takes the keys of train.py; --config is the fine-tune recipe of the small network if none is given. A quarter of the
training images is held out to compare on, the validation split is left for an honest test. After a stop, the same
command goes on.
"""

import logging
import math
from argparse import ArgumentTypeError
from pathlib import Path

from mindcv_lite.errors import UserError
from mindcv_lite.files import require_folder
from mindcv_lite.program import CommandLine
from mindcv_lite.recipe.keys import KEYS, Recipe
from mindcv_lite.recipe.load import load_recipe
from mindcv_lite.recipe.rules import require_startable

log = logging.getLogger(__name__)

TRAIN = Path(__file__).parents[1] / "scripts/train.py"
FINE_TUNE = "mobilenet_v3_small_finetune"


def main(arguments: list[str]) -> None:
    own = command_line()
    flags, words = own.parse_known_args(arguments)
    if not any(word in ("-c", "--config") or word.startswith("--config=") for word in words):
        words = ["--config", FINE_TUNE, *words]
    recipe = _with_absolute_paths(load_recipe(words, __doc__, own))
    _require_start(recipe)
    require_folder(flags.out)

    # Late: NumPy and SciPy take longer to import than a mistake to find.
    from mindcv_lite.training.tuning.findings import report
    from mindcv_lite.training.tuning.search import FOLDS, candidates_for, search
    from mindcv_lite.training.tuning.trials import Trainer

    trainer = Trainer(recipe, [str(TRAIN), *words], flags.out)
    candidates = candidates_for(recipe)
    log.info(
        "%d candidates, %g minutes, 1/%d of the training images held out; all goes to %s",
        *(len(candidates), flags.minutes, FOLDS, flags.out),
    )
    rung, outcomes = search(candidates, 60 * flags.minutes, trainer, log.info)
    report(recipe, rung, outcomes, flags.out)


def command_line() -> CommandLine:
    """The flags that are no keys of a recipe."""
    usage = "%(prog)s --data_dir DIR --ckpt_path CKPT [--minutes N] [--out DIR] [--<key of a recipe> VALUE] ..."
    parser = CommandLine(usage=usage, add_help=False, allow_abbrev=False)
    group = parser.add_argument_group("search")
    group.add_argument("--minutes", type=minutes, default=10.0, help="in all; one trial is made at least; default 10")
    text = "folder for recipe.yaml, table.csv, tune.png and the trials; default tune"
    group.add_argument("--out", type=folder_name, default=Path("tune"), metavar="DIR", help=text)
    return parser


def minutes(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ArgumentTypeError(f"expected a number of minutes, got {text!r}")
    return value


def folder_name(text: str) -> Path:
    if not text:
        raise ArgumentTypeError("expected a folder, got ''")
    return Path(text)


def _with_absolute_paths(recipe: Recipe) -> Recipe:
    """The recipe, to be used from wherever one likes."""
    paths = {"data_dir": recipe.data.data_dir, "ckpt_path": recipe.model.ckpt_path}
    return recipe.with_keys(**{name: str(Path(path).resolve()) for name, path in paths.items() if path})


def _require_start(recipe: Recipe) -> None:
    """Raise `UserError` on what is no start of a search; this needs no MindSpore."""
    require_startable(recipe.with_keys(val_while_train=False))  # a search holds out shares of its own
    if not recipe.data.has_images:
        raise UserError(
            f"command line: --data_dir is missing: the folder that holds {recipe.data.train_split}/<class>/*.jpg"
        )
    if not recipe.model.ckpt_path and not recipe.model.pretrained:
        raise UserError("command line: --ckpt_path is missing: the weights to start from, such as ImageNet's")
    for name in ("val_share", "val_fold", "resume", "dry_run", "probe_only"):
        if recipe.flat()[name] != KEYS[name].default:
            raise UserError(f"key '{name}': the search decides that itself; leave it out")
    if recipe.system.distribute:
        raise UserError("key 'distribute': a search is made on one device; leave it out")
