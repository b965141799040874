"""What is measured: the training input, the training step, the evaluation."""

import itertools
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from mindspore import Tensor

from mindcv_lite.benchmark import mindcv
from mindcv_lite.benchmark.rounds import Plan, Round, Stopwatch, Work, in_turn, timed
from mindcv_lite.checkpoints.trained import recipe_to_evaluate
from mindcv_lite.checkpoints.weights import load_weights, read_weights
from mindcv_lite.data.datasets.image_folder import Split
from mindcv_lite.data.datasets.splits import training_splits, validation_split, with_num_classes
from mindcv_lite.data.pipeline import TrainingBatches, blank_batch
from mindcv_lite.data.waiting import Waiting
from mindcv_lite.device.ranks import World
from mindcv_lite.errors import UserError
from mindcv_lite.evaluation.score import EvaluationStep, evaluate
from mindcv_lite.models.build import evaluation_network, training_network
from mindcv_lite.recipe.keys import Recipe
from mindcv_lite.training.distillation import read_teachers
from mindcv_lite.training.optimizers import RateTable, build_optimizer
from mindcv_lite.training.train_step import TrainStep


@dataclass(frozen=True)
class LateSplit(Split):
    """Images of a file system that takes so many seconds to give a file, as one that many machines share may do."""

    latency: float

    def content(self, index: int) -> np.ndarray:
        time.sleep(self.latency)
        return super().content(index)


def pipeline(
    recipe: Recipe, world: World, plan: Plan, latency: float, mindcv_dir: str | None
) -> dict[str, list[Round]]:
    """The training input alone, from files that come `latency` seconds late; with `mindcv_dir`, MindCV's over that
    folder in turn with it."""
    batches, recipe = _training_batches(recipe, world)
    if latency:
        split = batches.images
        if type(split) is not Split:
            raise UserError(f"--latency: {recipe.data.data_dir} is no folder of images, whose files can be late")
        batches.images = LateSplit(split.paths, split.labels, split.class_names, latency)

    def ours() -> Work:
        for epoch in itertools.count():
            for images, *_ in batches.epoch(epoch):
                yield len(images)

    contestants = {"mindcv_lite": ours}
    if mindcv_dir:
        contestants["MindCV"] = mindcv.pipeline(recipe, mindcv_dir, world.settings.workers)
    return in_turn(contestants, plan)


def step(recipe: Recipe, world: World, plan: Plan) -> dict[str, list[Round]]:
    """The training step on one random batch again and again; where there are images, on those too, as in training.

    With compiled CPU kernels, in turn with a step of MindSpore's own; with a teacher, with a step without it.
    """
    batches, class_names = None, None
    if recipe.data.has_images:
        batches, recipe = _training_batches(recipe, world)
        class_names = batches.images.class_names
    steps_per_epoch = batches.steps if batches else recipe.optimizer.gradient_accumulation_steps
    train_step = build_step(recipe, world, steps_per_epoch, class_names)
    contestants = {"fixed data": train_step}
    if world.cpu_kernels:
        stock_step = build_step(recipe, replace(world, cpu_kernels=None), steps_per_epoch, class_names)
        contestants["MindSpore's operators"] = stock_step
    if recipe.loss.teachers:
        contestants["without a teacher"] = build_step(recipe.with_keys(teacher=""), world, steps_per_epoch)
    rows = [random_batch(recipe)]
    results = in_turn({name: partial(steps_on, rows, each) for name, each in contestants.items()}, plan)
    if batches:
        images = Waiting(batches.dataset().create_tuple_iterator(num_epochs=-1))
        results["with images"] = _rounds_of(train_step, images, plan)
        if batches.failure:
            raise batches.failure[1]
    return results


def _rounds_of(train_step: TrainStep, rows: Waiting, plan: Plan) -> list[Round]:
    """Rounds of one run through the rows, after one that compiles the graph, fills the queues and does not count."""

    running = steps_on(rows, train_step)
    next(running)
    return [timed(running, plan, rows) for _ in range(plan.rounds + 1)][1:]


def steps_on(rows: Iterable[tuple[Tensor, ...]], train_step: TrainStep) -> Work:
    """Steps on these batches, over and over."""
    while True:
        for row in rows:
            train_step(*row).asnumpy()  # waits for the device
            yield len(row[0])


def validate(recipe: Recipe, world: World, plan: Plan) -> dict[str, list[Round]]:
    """The whole evaluation of the validation split, by the weights of ckpt_path or by random ones."""
    if recipe.model.ckpt_path:
        weights = read_weights(recipe.model.ckpt_path)
        recipe = recipe_to_evaluate(weights, recipe)
        images = validation_split(recipe, weights.class_names)
    else:
        weights = None
        train, images = training_splits(recipe.with_keys(val_while_train=True))
        recipe = with_num_classes(recipe, train.class_names)
    assert images, "val_while_train asks for them"
    network = evaluation_network(recipe.model, world)
    if weights:
        load_weights(network, weights)
    evaluation_step = EvaluationStep(network, recipe, world.cpu_kernels)
    rounds = []
    for _ in range(plan.rounds + 1):  # the first one compiles the graph and does not count
        watch = Stopwatch()
        score = evaluate(evaluation_step, images, recipe, world)
        rounds.append(watch.round_of(score.images, waited=score.waited))
    return {"validation": rounds[1:]}


def _training_batches(recipe: Recipe, world: World) -> tuple[TrainingBatches, Recipe]:
    """The batches, and the recipe with num_classes filled in."""
    images, _ = training_splits(recipe.with_keys(val_while_train=False))
    recipe = with_num_classes(recipe, images.class_names)
    return TrainingBatches(images, recipe, world), recipe


def random_batch(recipe: Recipe) -> tuple[Tensor, ...]:
    """A batch of the shapes that the recipe's pipeline gives."""
    assert recipe.model.num_classes, "the recipe's num_classes is given, or filled in from the images"
    random = np.random.default_rng(recipe.system.seed)
    images, labels, weights, *drawn = blank_batch(recipe)
    images = random.integers(0, 256, images.shape, images.dtype)
    labels = random.integers(0, recipe.model.num_classes, labels.shape, labels.dtype)
    return tuple(map(Tensor, (images, labels, np.ones_like(weights), *drawn)))


def build_step(
    recipe: Recipe, world: World, steps_per_epoch: int, class_names: Sequence[str] | None = None
) -> TrainStep:
    """The recipe's training step at a rate of 0: the same arithmetic, and random labels do the weights no harm.

    `class_names`: of the images, which a teacher's classes are matched with.
    """
    if recipe.loss.teachers and class_names is None:
        raise UserError(
            "teacher: there are no images here, whose classes it could be matched with; --teacher '' takes it away"
        )
    network = training_network(recipe.model, world)
    rate = RateTable(lambda _: 0.0, updates=1)
    optimizer = build_optimizer(network.trainable_params(), recipe, rate, world.settings.target)
    teachers = read_teachers(recipe, class_names or (), world)
    train_step = TrainStep(network, optimizer, recipe, world, steps_per_epoch, teachers)
    train_step.set_train()
    return train_step
