"""What the log and results.csv say of an epoch's time: the compilation of the graph is told by itself."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from mindspore import Tensor, dataset, nn
from mindspore.train import Model

from mindcv_lite.recipe.keys import Recipe
from mindcv_lite.training import loop
from mindcv_lite.training.loop import Watch
from mindcv_lite.training.optimizers import RateTable, build_optimizer
from mindcv_lite.training.train_step import TrainStep
from tests.training.networks import NormAndDense

STEPS, BATCH = 4, 2
BATCHES: Any = SimpleNamespace(steps=STEPS, count=STEPS * BATCH, require_whole=lambda epoch: None)


@pytest.fixture
def step_of(recipe, world, graph_mode) -> Callable[..., tuple[TrainStep, Recipe]]:
    def step_of() -> tuple[TrainStep, Recipe]:
        given, network = recipe(num_classes=2), NormAndDense(0)
        optimizer = build_optimizer(network.trainable_params(), given, RateTable(lambda step: 0.1, 9), "CPU")
        step = TrainStep(network, optimizer, given, world(given), STEPS)
        step.set_train()
        return step, given

    return step_of


@pytest.fixture
def clock(monkeypatch) -> SimpleNamespace:
    """A clock that the test moves on."""
    clock = SimpleNamespace(now=100.0, perf_counter=lambda: clock.now)
    monkeypatch.setattr(loop, "time", clock)
    return clock


class Watched:
    """MindSpore's calls of a Watch, by hand: a device whose compilation and steps take as long as the test says."""

    def __init__(self, watch: Watch, clock: SimpleNamespace):
        self.watch, self.clock, self.compiled_with = watch, clock, []
        arguments = SimpleNamespace(cur_epoch_num=1, train_network=self, train_dataset_element=())
        self.context = SimpleNamespace(original_args=lambda: arguments)

    def compile(self, *inputs: object) -> None:
        self.compiled_with.append(inputs)
        self.clock.now += 184.0

    def epoch(self, seconds: float, steps_a_call: int) -> None:
        count = self.watch.step.step
        self.watch.on_train_epoch_begin(self.context)
        for _ in range(STEPS // steps_a_call):
            self.watch.on_train_step_begin(self.context)
            self.clock.now += seconds * steps_a_call / STEPS
            count.set_data(Tensor(count.asnumpy() + steps_a_call, count.dtype))
            self.watch.on_train_step_end(self.context)
        self.watch.on_train_epoch_end(self.context)


@pytest.mark.parametrize("sink", [True, False])
def test_the_compilation_is_told_by_itself_and_not_in_the_speed_of_the_first_epoch(step_of, world, clock, log, sink):
    step, given = step_of()
    here = world(given)
    here = replace(here, settings=replace(here.settings, target="Ascend", sink=sink))
    watch = Watch(step, lambda step: 0.1, BATCHES, given, here)
    watched, figures = Watched(watch, clock), []
    for seconds in (8.0, 4.0):
        watched.epoch(seconds, steps_a_call=STEPS if sink else 1)
        figures.append((watch.graph_compile, watch.seconds, watch.ms_per_step, watch.images_per_second))
    assert figures == [(184.0, 8.0, 2000.0, 1.0), (None, 4.0, 1000.0, 2.0)]
    assert watched.compiled_with == [()]
    assert log.messages[0] == (
        "compiling the graph for Ascend (MindCV measured 184 s for the small network, 354 s for the large one)"
    )
    next_line = "; the next line comes at the end of an epoch, after 4 steps" if sink else ""
    assert log.messages[1:] == [f"graph compiled in 184.0 s{next_line}"]


@pytest.mark.parametrize(("seconds", "lines"), [(12.0, 0), (24.0, 1), (44.0, 3)])
def test_an_epoch_of_few_and_slow_steps_says_that_it_goes_on(step_of, world, clock, log, seconds, lines):
    step, given = step_of()
    Watched(Watch(step, lambda step: 0.1, BATCHES, given, world(given)), clock).epoch(seconds, steps_a_call=1)
    assert sum(message.startswith("epoch 1, step ") for message in log.messages) == lines


def test_the_graph_that_is_compiled_ahead_is_the_one_that_runs(step_of, world, log, monkeypatch):
    step, given = step_of()
    columns = ["image", "label", "weight"]
    rows = [
        (np.full((BATCH, 2, 2, 3), row, np.uint8), np.arange(BATCH, dtype=np.int32), np.ones(BATCH, np.float32))
        for row in range(STEPS)
    ]
    watch = Watch(step, lambda step: 0.1, BATCHES, given, world(given))
    ahead, compile_step = [], watch._compile

    def compile_and_look(network: nn.Cell, inputs: tuple) -> None:
        compile_step(network, inputs)
        ahead.extend(network.compile_cache or ())

    monkeypatch.setattr(watch, "_compile", compile_and_look)
    data = dataset.GeneratorDataset(rows, columns, shuffle=False)
    Model(step).train(2, data, [watch], dataset_sink_mode=False)
    assert len(ahead) == 1
    assert list(step.compile_cache or ()) == ahead
    assert log.messages[0] == "compiling the graph"
