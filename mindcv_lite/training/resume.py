"""What a run needs to go on as if it had never stopped: taken from the training step, and put back."""

import hashlib
import logging
import os
import zlib
from collections.abc import Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import Parameter, Tensor, amp

from mindcv_lite.data.datasets.image_folder import Split
from mindcv_lite.device.ranks import World
from mindcv_lite.errors import TrainingError, UserError
from mindcv_lite.models.build import moving_statistics
from mindcv_lite.recipe.keys import KEYS, MAY_CHANGE, Output, Recipe
from mindcv_lite.recipe.yaml_io import plain
from mindcv_lite.runs.state import State, find_state
from mindcv_lite.stateless_random import HASH
from mindcv_lite.training.distillation import TEACHERS
from mindcv_lite.training.optimizers import RATES
from mindcv_lite.training.train_step import TrainStep

log = logging.getLogger(__name__)

# In the facts of a run that has them: what earlier versions did in another way, and did not say.
NOISE, MOMENTS = "hash of the noise", "moments of adamw"
CHANGED = {
    NOISE: "drew the masks of dropout and the noise of random erasing by another hash",
    MOMENTS: "did not correct the bias of adamw's moments",
}
TEACHER = "hash of the teacher's file"
RENAMED = {"training photos": "training images"}  # what earlier versions called it
RANKS = "ranks"  # the numbers that each rank has its own of, a row for each rank


def find_common_state(output: Output, world: World) -> State | None:
    """The state to go on from, if the recipe asks for one and there is one. Raises `UserError` unless all ranks have
    it."""
    state = world.all_or_none(lambda: find_state(output.resume, Path(output.ckpt_save_dir)))
    if not _is_same_on_all_ranks(state.facts["step"] + 1 if state else 0, world):
        raise UserError(f"the ranks do not find the same state to go on from; {SAME_FILES}")
    return state


def fixed_facts(recipe: Recipe, images: Split, world: World, teachers: Sequence[str] = ()) -> dict[str, Any]:
    """What must not change from one part of a run to the next. `teachers`: a hash of each one's file."""
    unused = () if recipe.loss.teachers else ("teacher_temperature", "teacher_share", "teacher_amp_level")
    keys = {name: value for name, value in recipe.flat().items() if name not in (*MAY_CHANGE, *unused)}
    augmentation = recipe.augmentation
    draws_noise = recipe.model.drop_rate != 0 or (augmentation.re_prob != 0 and augmentation.re_value == "random")
    return keys | {
        "number of devices": world.size,
        "training images": f"{len(images)} (hash of names and classes {names_and_labels(images)})",
        TEACHER: ", ".join(teachers) or None,
        **({NOISE: HASH} if draws_noise else {}),
        **({MOMENTS: "corrected"} if recipe.optimizer.opt == "adamw" else {}),
    }


def names_and_labels(images: Split) -> str:
    """A hash of the names of the classes and of the images, a line each, and of the labels."""
    names = chain(images.class_names, map(os.path.basename, images.paths))
    digest, before = hashlib.sha256(), ""
    while lines := list(islice(names, 10_000)):  # not all at once, which takes 100 MB
        digest.update((before + "\n".join(lines)).encode("utf-8", "surrogateescape"))
        before = "\n"
    digest.update(images.labels.tobytes())
    return digest.hexdigest()[:8]


def require_same_run(state: State, fixed: dict[str, Any]) -> None:
    """Raise `UserError` that names what differs between a state and what `fixed_facts` says of this run."""
    # A state may be older than a key; it then had the value that the key has by itself.
    said = {RENAMED.get(name, name): value for name, value in state.facts["fixed"].items()}
    then = {name: key.default for name, key in KEYS.items()} | said
    if "follow_exif" not in said:  # which that version did not; it may be that no image is turned
        then["follow_exif"] = fixed.get("follow_exif")
        if then["follow_exif"]:
            log.warning(
                "warning: %s is of a version that did not turn images as their EXIF data ask, as is done from now on; "
                "--follow_exif False goes on as before",
                state.path,
            )
    differing = [
        f"{name} was {plain(then.get(name))}, is {plain(value)}"
        for name, value in fixed.items()
        if name not in CHANGED and plain(then.get(name)) != plain(value)
    ]
    if differing:
        raise UserError(
            f"{state.path} is the state of another run: {'; '.join(differing)}; "
            "give the earlier values, or start afresh without --resume"
        )
    for name, what in CHANGED.items():
        if then.get(name) != fixed.get(name):
            raise UserError(
                f"{state.path}: another version of this program {what}; go on with that version, or start afresh "
                "without --resume"
            )


def numbers_of(step: TrainStep, world: World) -> dict[str, np.ndarray]:
    """All numbers that the device keeps between two updates; every rank must call it."""
    own = _own_of_each_rank(step)
    ranks = world.gather(np.concatenate([parameter.asnumpy().ravel() for parameter in own.values()]))
    shared = {name: value.asnumpy() for name, value in _all_of(step).items() if name not in own}
    return shared | {RANKS: ranks}


def put_back(step: TrainStep, state: State, world: World) -> None:
    """Set the device's numbers to those of a state. Raises `UserError` if they do not fit."""
    wanted, own = _all_of(step), _own_of_each_rank(step)
    ends = np.cumsum([parameter.size for parameter in own.values()])
    row = np.split(state.numbers[RANKS][world.rank], ends[:-1])
    found = {name: value for name, value in state.numbers.items() if name != RANKS}
    found |= dict(zip(own, row, strict=True))
    if unfit := [name for name in {*wanted, *found} if name not in wanted or name not in found]:
        raise UserError(f"{state.path}: does not fit this version of the program: '{min(unfit)}' is missing or unknown")
    for name, parameter in wanted.items():
        parameter.set_data(Tensor(found[name].reshape(parameter.shape), parameter.dtype))


def require_same_start(step: TrainStep, world: World) -> None:
    """Raise `TrainingError` unless all ranks start from the same step with the same weights."""
    statistics = {each.name for each in moving_statistics(step.network)}  # these each rank has its own of
    weights = [each for each in step.network.get_parameters() if each.name not in statistics]
    taught = step.teachers.get_parameters() if step.teachers else ()
    content = b"".join(parameter.asnumpy().tobytes() for parameter in [*weights, *taught, step.step])
    if not _is_same_on_all_ranks(zlib.crc32(content), world):
        raise TrainingError(f"the ranks do not start from the same weights; {SAME_FILES}")


SAME_FILES = "ckpt_path, or ckpt_save_dir with --resume, must name the same files on every machine"


def _is_same_on_all_ranks(number: int, world: World) -> bool:
    """Whether all ranks come with the same number, of at most 48 bits; every rank must call it."""
    digits = np.array([number >> 24, number & 0xFFFFFF], np.float32)  # what float32 holds exactly
    return bool((world.gather(digits) == digits).all())


def _all_of(step: TrainStep) -> dict[str, Parameter]:
    # Sums of gradients are left out: between two updates they are used up. So are learning rates and a loss scale that
    # the recipe fixes, and teachers, whose files are checked.
    fixed = () if isinstance(step.scaler, amp.DynamicLossScaler) else ("scale_value",)
    left_out = ("accumulated.", TEACHERS, *fixed)
    kept = (each for each in step.get_parameters() if not each.name.startswith(left_out))
    return {each.name: each for each in kept if not each.name.endswith(RATES)}


def _own_of_each_rank(step: TrainStep) -> dict[str, Parameter]:
    statistics = moving_statistics(step.network)
    averages = step.average.of() if step.average else {}
    own = [*statistics, *(averages[each.name] for each in statistics if averages), step.loss_sum]
    return {parameter.name: parameter for parameter in own}
