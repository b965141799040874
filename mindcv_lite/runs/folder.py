"""The folder of a run: its recipe, and what keeps it from other runs, at work or earlier."""

import logging
import os
from pathlib import Path

from mindcv_lite.errors import UserError
from mindcv_lite.files import lock
from mindcv_lite.recipe.keys import Recipe
from mindcv_lite.runs.state import LAST

log = logging.getLogger(__name__)

# fmt: off
RUN_FILES = (
    "recipe.yaml", "results.csv", "curves.png", "tensorboard", "*.state.ckpt",
    "mobilenet_v3_*-*_*.ckpt", "mobilenet_v3_*_best.ckpt", ".*.part",
)
# fmt: on


def claim(folder: Path) -> int:
    """Make the folder of a run, and keep other trainings out of it until the descriptor that is returned is closed."""
    descriptor = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
        lock(descriptor, wait=False)
        return descriptor
    except OSError as error:
        if descriptor is not None:
            os.close(descriptor)
        taken = isinstance(error, BlockingIOError)
        reason = "another training is writing there" if taken else f"cannot write there: {error.strerror}"
        raise UserError(f"{folder}: {reason}; give another --ckpt_save_dir") from None


def start_run(folder: Path, recipe: Recipe, goes_on: bool = False) -> None:
    """Save the recipe in the folder of a run, which `claim` has made.

    Unless the run `goes_on` there, an earlier run's files move to a subfolder: none is lost.
    """
    try:
        if not goes_on:
            _say_what_resume_does(folder, recipe)
            _set_earlier_run_aside(folder)
        recipe.with_keys(resume=False).save(folder / "recipe.yaml")
    except OSError as error:
        raise UserError(f"{folder}: cannot write there: {error.strerror}; give another --ckpt_save_dir") from None


def _say_what_resume_does(folder: Path, recipe: Recipe) -> None:
    """Tell who starts from the weights of this very folder's run that this is a new run."""
    weights = recipe.model.ckpt_path
    if weights and Path(weights).absolute().parent == folder.absolute() and (folder / LAST).exists():
        log.info("%s: its weights alone start a new run; --resume instead goes on with the run in %s", weights, folder)


def _set_earlier_run_aside(folder: Path) -> None:
    earlier = [path for pattern in RUN_FILES for path in folder.glob(pattern)]
    if not earlier:
        return
    number = 1
    while (aside := folder / f"run_{number}").exists():
        number += 1
    aside.mkdir()
    for path in earlier:
        os.replace(path, aside / path.name)
    log.info("%s holds an earlier run: its %d files are moved to %s", folder, len(earlier), aside)
