"""What is about to happen, in numbers that were worked out, before it happens."""

import logging
from collections.abc import Callable

import numpy as np

from mindcv_lite.data.datasets.image_folder import Split
from mindcv_lite.data.pipeline import TrainingBatches
from mindcv_lite.device.ranks import World
from mindcv_lite.models.block_tables import VARIANTS
from mindcv_lite.models.build import layer_names
from mindcv_lite.models.complexity import complexity_of
from mindcv_lite.models.quantised import FACTORS, ZERO
from mindcv_lite.program import lack
from mindcv_lite.recipe.keys import Optimizer, Recipe
from mindcv_lite.runs.curves import CURVES
from mindcv_lite.training.optimizers import layer_share
from mindcv_lite.training.schedules import misfit
from mindcv_lite.training.train_step import TrainStep

log = logging.getLogger(__name__)


def describe(
    recipe: Recipe, world: World, batches: TrainingBatches, step: TrainStep, rate: Callable[[int], float], peak: float
) -> None:
    """Say how much is trained, by which teachers, in how many steps, at which rates, and where the results go."""
    trained = sum(parameter.size for parameter in step.network.trainable_params())
    frozen = sum(weight.size for weight in step.network.get_parameters() if not _is_statistic(weight.name)) - trained
    log.info(
        "%s: %d trainable parameters%s, %d classes",
        recipe.model.model,
        trained,
        f", {frozen} frozen ({_frozen_part(recipe)})" if frozen else "",
        recipe.model.num_classes,
    )
    for teacher in step.teachers.each if step.teachers else ():
        log.info(
            "teacher %s: %s at %d x %d pixels, %s multiply-adds an image and step; one pass of its student has %s",
            *(teacher.path, teacher.recipe.model.model, *teacher.recipe.augmentation.input_size),
            *(f"{multiply_adds(each):,}" for each in (teacher.recipe, recipe)),
        )
    if not recipe.model.probe_only:
        _describe_steps(recipe, world, batches, rate, peak)
    log.info("checkpoints and results.csv go to %s", recipe.output.ckpt_save_dir)
    if sentence := lack(CURVES, "matplotlib"):
        log.info(sentence)


def _describe_steps(
    recipe: Recipe, world: World, batches: TrainingBatches, rate: Callable[[int], float], peak: float
) -> None:
    whole, batch, accumulated = batches.global_batch, recipe.data.batch_size, batches.accumulated
    updates = batches.updates * recipe.schedule.epoch_size
    log.info(
        "global batch %d = %d x %d devices%s, %d updates an epoch, %d in all",
        whole,
        batch,
        world.size,
        f" x {accumulated} accumulated" if accumulated > 1 else "",
        batches.updates,
        updates,
    )
    if recipe.data.sampling == "balanced":
        log.info("sampling balanced: %s", times_drawn(batches.images, batches.count))
    scaled = _origin_of_peak(recipe.optimizer, whole, updates)
    log.info("learning rate: first %.4g, peak %.4g%s, last %.4g", rate(0), peak, scaled, rate(updates - 1))
    if warning := misfit(recipe.schedule, peak, batches.updates):
        log.warning("warning: %s", warning)


def times_drawn(images: Split, draws: int) -> str:
    """How often an epoch of balanced draws takes an image of the smallest class, and of the largest."""
    sizes = np.bincount(images.labels)
    present = np.flatnonzero(sizes)
    each = draws / len(present)
    times = [
        f"of '{images.class_names[label]}' ({sizes[label]}) {each / sizes[label]:.3g} times"
        for label in dict.fromkeys((present[sizes[present].argmin()], present[sizes[present].argmax()]))
    ]
    return f"about {each:.0f} images an epoch of each of {len(present)} classes: an image {', '.join(times)}"


def _origin_of_peak(settings: Optimizer, global_batch: int, updates: int) -> str:
    """How the peak came of lr, if it is another number."""
    numbers, words = f"{settings.lr:g}", "lr"
    if base := settings.base_batch_size:
        numbers, words = f"{numbers} x {global_batch} / {base}", f"{words} x global batch / base_batch_size"
    if (base := settings.base_updates) and updates < base:
        numbers, words = f"{numbers} x {updates} / {base}", f"{words} x updates / base_updates"
    return f" = {numbers} ({words})" if words != "lr" else ""


def describe_in_full(recipe: Recipe, peak: float) -> None:
    """Print the resolved recipe and, with layer_decay, the peak rate of each layer."""
    print(recipe.with_keys(dry_run=False).text(), end="")
    if recipe.optimizer.layer_decay:
        print("# peak learning rate of each layer")
        for layer, name in enumerate(layer_names(recipe.model.model)):
            print(f"#   {name:<16} {peak * layer_share(layer, recipe):.4g}")


def multiply_adds(recipe: Recipe) -> int:
    """For one image, of the recipe's network."""
    model = recipe.model
    assert model.num_classes, "the recipe's num_classes is filled in"
    size = recipe.augmentation.input_size
    lines = complexity_of(VARIANTS[model.model], model.num_classes, model.in_channels, size)
    return sum(line.multiply_adds for line in lines)


def _frozen_part(recipe: Recipe) -> str:
    return "backbone" if recipe.model.freeze == "backbone" else f"the first {recipe.model.freeze} rows"


def _is_statistic(name: str) -> bool:
    return name.endswith(("moving_mean", "moving_variance", ZERO, FACTORS))
