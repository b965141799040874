"""Train MobileNetV3 by a recipe, on one device, or on all devices that msrun started this script for."""

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mindcv_lite.errors import run_script
from mindcv_lite.recipe import Recipe, load_recipe, require_paths

if TYPE_CHECKING:
    from mindspore import nn

    from mindcv_lite.data.pipeline import TrainingBatches
    from mindcv_lite.device import World

log = logging.getLogger("mindcv_lite")


def main() -> None:
    recipe = load_recipe(sys.argv[1:], __doc__)
    require_paths(recipe)

    # MindSpore takes seconds to import: a wrong recipe has been answered by now.
    from mindcv_lite import device
    from mindcv_lite.checkpoint import start_run
    from mindcv_lite.data.pipeline import TrainingBatches
    from mindcv_lite.data.source import training_photos, with_num_classes
    from mindcv_lite.evaluation import EvaluationStep, evaluate
    from mindcv_lite.network import build_network
    from mindcv_lite.training.loop import EpochEnd, Watch, fit
    from mindcv_lite.training.optimizers import RateTable, build_optimizer, peak_rate
    from mindcv_lite.training.schedules import learning_rate, misfit
    from mindcv_lite.training.train_step import TrainStep
    from mindcv_lite.weights import load_weights, read_weights

    device.require_launcher(recipe.system.distribute)
    world = device.start(recipe)
    train_photos, val_photos = training_photos(recipe)
    recipe = with_num_classes(recipe, train_photos.class_names)
    batches = TrainingBatches(train_photos, recipe, world)

    network = build_network(recipe.model, world.settings.amp_level)
    if recipe.model.ckpt_path:
        load_weights(network, read_weights(recipe.model.ckpt_path), recipe)

    peak = peak_rate(recipe.optimizer, recipe.data.batch_size, world.size)
    rate = learning_rate(recipe.schedule, peak, batches.steps)
    table = RateTable(rate, updates=recipe.schedule.epoch_size * batches.steps)
    optimizer = build_optimizer(network.trainable_params(), recipe.optimizer, table, world.settings.target)
    step = TrainStep(network, optimizer, recipe, world, batches.steps)

    describe(recipe, world, batches, network, peak)
    if warning := misfit(recipe.schedule, peak, batches.steps):
        log.warning("warning: %s", warning)
    world.wait_for_all()  # another rank may still be reading the weights that start_run sets aside
    if world.rank == 0:
        start_run(Path(recipe.output.ckpt_save_dir), recipe)

    # What is scored and saved is a copy: in its own number format, with the mean BatchNorm statistics of all ranks.
    published = build_network(recipe.model, world.settings.val_amp_level)
    evaluation = EvaluationStep(published, recipe)
    score = (lambda: evaluate(evaluation, val_photos, recipe, world)) if val_photos else None
    watch = Watch(step, rate, batches, recipe, world)
    fit(step, batches, recipe, world, [watch, EpochEnd(watch, published, score, train_photos.class_names)])


def describe(recipe: Recipe, world: "World", batches: "TrainingBatches", network: "nn.Cell", peak: float) -> None:
    """Say what is about to happen, with the numbers that were worked out."""
    parameters = sum(parameter.size for parameter in network.trainable_params())
    log.info("%s: %d trainable parameters, %d classes", recipe.model.model, parameters, recipe.model.num_classes)
    batch, devices, base = recipe.data.batch_size, world.size, recipe.optimizer.base_batch_size
    log.info("global batch %d = %d x %d, %d steps an epoch", batch * devices, batch, devices, batches.steps)
    scaled = (
        f" = {recipe.optimizer.lr:g} x {batch * devices} / {base} (lr x global batch / base_batch_size)" if base else ""
    )
    log.info("peak learning rate %.4g%s", peak, scaled)
    log.info("checkpoints and results.csv go to %s", recipe.output.ckpt_save_dir)


if __name__ == "__main__":
    run_script(main)
