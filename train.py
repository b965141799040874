"""Train MobileNetV3 by a recipe, on one device, or on all devices that msrun started this script for."""

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mindcv_lite.device.log import hold_log
from mindcv_lite.device.memory import memory_for
from mindcv_lite.models.block_tables import require_rows
from mindcv_lite.program import run_script
from mindcv_lite.recipe.keys import Recipe
from mindcv_lite.recipe.load import load_recipe
from mindcv_lite.recipe.rules import require_startable

if TYPE_CHECKING:
    from mindcv_lite.training.recorder import RunRecorder


def main(arguments: Sequence[str] | None = None) -> None:
    hold_log()
    recipe = load_recipe(list(sys.argv[1:] if arguments is None else arguments), __doc__)
    require_startable(recipe)
    with memory_for(recipe, trains=True):
        train(recipe)


def train(recipe: Recipe) -> "RunRecorder | None":
    """Train. Returns the recorder of the run, with its `best` and `last` checkpoints, `top1` and `folder`; None if the
    recipe asks for a dry run."""
    # What needs no MindSpore, which takes seconds to import: a wrong recipe or folder is answered at once.
    from mindcv_lite.data.datasets.splits import require_classes, training_splits, with_num_classes
    from mindcv_lite.data.sharding import require_steps
    from mindcv_lite.device.launcher import require_launcher, workers_started

    require_rows(recipe.model)
    require_launcher(recipe.system.distribute)
    train_split, val_split = training_splits(recipe)
    require_classes(train_split, recipe.data)
    require_steps(len(train_split), recipe.data, workers_started(os.environ) or 1)
    recipe = with_num_classes(recipe, train_split.class_names)

    from mindcv_lite.checkpoints.model_card import settled_by_card
    from mindcv_lite.checkpoints.pretrained import starting_weights
    from mindcv_lite.checkpoints.weights import load_weights
    from mindcv_lite.data.pipeline import TrainingBatches
    from mindcv_lite.device.context import keep_graphs, start_device
    from mindcv_lite.evaluation.score import EvaluationStep, evaluate
    from mindcv_lite.models.build import evaluation_network, training_network
    from mindcv_lite.runs.batch_sheet import draw_first_batch
    from mindcv_lite.training.calibration import quantised_weights
    from mindcv_lite.training.distillation import hashes_of, read_teachers
    from mindcv_lite.training.graceful_stop import StopRequest
    from mindcv_lite.training.linear_probe import fit_last_layer
    from mindcv_lite.training.loop import Watch, fit
    from mindcv_lite.training.optimizers import RateTable, build_optimizer, peak_rate
    from mindcv_lite.training.recorder import RunRecorder
    from mindcv_lite.training.resume import find_common_state
    from mindcv_lite.training.run_summary import describe, describe_in_full
    from mindcv_lite.training.schedules import learning_rate
    from mindcv_lite.training.train_step import TrainStep

    world = start_device(recipe)

    # Where to start: in the middle of an earlier run, from weights, or from nothing.
    state = find_common_state(recipe.output, world)
    weights = None if state else starting_weights(recipe, world)
    if (start := state or weights) and start.card:
        recipe = settled_by_card(recipe, start.card, start.path)

    if weights and recipe.model.quantize:
        weights = quantised_weights(weights, train_split, recipe, world)
    batches = TrainingBatches(train_split, recipe, world)
    network = training_network(recipe.model, world)
    teachers = read_teachers(recipe, train_split.class_names, world)
    has_new_head = load_weights(network, weights, remake_head=True) if weights else False
    probes = recipe.model.probe_only or (has_new_head and recipe.model.new_head == "probe")

    updates = recipe.schedule.epoch_size * batches.updates
    peak = peak_rate(recipe.optimizer, batches.global_batch, updates)
    rate = learning_rate(recipe.schedule, peak, batches.updates)
    table = RateTable(rate, updates)
    if not recipe.system.dry_run:
        graphs_differ_by = {"steps": batches.steps, "rates": table.length, "teachers": hashes_of(teachers)}
        world = keep_graphs(world, recipe, **graphs_differ_by, begins_with_probe=probes)  # which decides their order
        if probes:
            fit_last_layer(network, train_split, recipe, world)
    optimizer = build_optimizer(network.trainable_params(), recipe, table, world.settings.target)
    step = TrainStep(network, optimizer, recipe, world, batches.steps, teachers)

    describe(recipe, world, batches, step, rate, peak)
    if recipe.system.show_batch and world.rank == 0:
        draw_first_batch(batches, recipe, train_split.class_names)
    if recipe.system.dry_run:
        describe_in_full(recipe, peak)
        return None

    # What is scored and saved is a copy: in its own number format, with the mean BatchNorm statistics of all ranks.
    eval_network = evaluation_network(recipe.model, world)
    evaluation = EvaluationStep(eval_network, recipe, world.cpu_kernels)
    score = (lambda: evaluate(evaluation, val_split, recipe, world)) if val_split else None
    stop = StopRequest(world)
    watch = Watch(step, rate, batches, recipe, world)
    recorder = RunRecorder(watch, eval_network, score, train_split, stop)
    with recorder.recording(state), stop.listen():
        if probes:
            recorder.keep_epoch_0()
        if not recipe.model.probe_only:
            fit(step, batches, recipe, world, [watch, recorder])
    recorder.describe_end()
    return recorder


if __name__ == "__main__":
    run_script(main)
