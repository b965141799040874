"""Seconds to the first training step and to the first evaluation batch: most of them go into compiling a graph."""

import logging

from mindcv_lite.benchmark.rounds import Plan, Round, Stopwatch
from mindcv_lite.processes import in_processes
from mindcv_lite.recipe.keys import Recipe


def first_steps(recipe: Recipe, plan: Plan) -> dict[str, list[Round]]:
    """Each round is a process of its own: a process that has compiled a graph keeps it."""
    rounds = []
    for _ in range(plan.rounds):
        with in_processes(_first_steps_here, [recipe], "measures", or_threads=False) as tasks:
            rounds.append(tasks[0].result())
    return {"fresh processes": rounds}


def _first_steps_here(recipe: Recipe) -> Round:
    """A round, on random data. Importing MindSpore and drawing the weights are over when its clocks start."""
    logging.disable(logging.INFO)  # the same lines in every round
    from mindcv_lite.benchmark.subjects import build_step, random_batch
    from mindcv_lite.device.context import start_device
    from mindcv_lite.evaluation.score import EvaluationStep
    from mindcv_lite.models.build import evaluation_network

    world = start_device(recipe)
    batch = random_batch(recipe)
    train_step = build_step(recipe, world, recipe.optimizer.gradient_accumulation_steps)
    watch = Stopwatch()
    train_step(*batch).asnumpy()
    first_step_seconds = watch.seconds

    evaluation_step = EvaluationStep(evaluation_network(recipe.model, world), recipe, world.cpu_kernels)
    evaluation_step.set_train(False)
    watch = Stopwatch()
    evaluation_step(*batch[:3])[0].asnumpy()
    return {"first_step_seconds": first_step_seconds, "first_evaluation_seconds": watch.seconds}
