"""The training loop: MindSpore's Model drives the steps, and `Watch` times them and shows how far they are."""

import logging
import math
import time
from collections.abc import Callable
from contextlib import ExitStack

import numpy as np
from mindspore import nn
from mindspore.train import Callback, Model

from mindcv_lite.data.pipeline import TrainingBatches
from mindcv_lite.device.memory import release_free_memory
from mindcv_lite.device.ranks import World
from mindcv_lite.errors import TrainingError, UserError
from mindcv_lite.program import progress_bar
from mindcv_lite.recipe.keys import Recipe
from mindcv_lite.training.train_step import TrainStep

log = logging.getLogger(__name__)

SILENCE = 10.0  # seconds
# By MindCV, at jit_level O2 on Ascend 910*; this project has no NPU.
UPSTREAM_COMPILES = " for Ascend (MindCV measured 184 s for the small network, 354 s for the large one)"


def fit(step: TrainStep, batches: TrainingBatches, recipe: Recipe, world: World, callbacks: list[Callback]) -> None:
    """Train from the step's count to the end of the recipe's epochs. Raises `TrainingError` on a broken loss."""
    step.set_train()
    first_step, epochs, sink = step.steps_done, recipe.schedule.epoch_size, world.settings.sink
    epoch, position = divmod(first_step, batches.steps)
    if epoch == epochs:
        log.info("epoch %d of %d is done: nothing is left to do", epoch, epochs)
    if position and sink:
        raise UserError(
            f"the run stopped within epoch {epoch + 1}, which a sinking device cannot go on with: "
            "--dataset_sink_mode False"
        )
    model = Model(step)
    try:
        if position:  # the rest of an epoch: MindSpore wants as many batches from a dataset in each epoch
            rest = batches.dataset(first_step, epochs)
            model.train(epoch + 1, rest, callbacks, dataset_sink_mode=False, initial_epoch=epoch)
            epoch += 1
        if epoch < epochs and not batches.over:
            dataset = batches.dataset(epoch * batches.steps, epochs)
            model.train(epochs, dataset, callbacks, dataset_sink_mode=sink, initial_epoch=epoch)
    finally:
        batches.over = True


class Watch(Callback):
    """Time, speed and loss of the running epoch: the progress bar, the lines between, and the stop on a broken loss.

    The graph is compiled by a call of its own before the first step, so that the seconds are known and the epoch's do
    not include them. A sinking device reports once an epoch, after its last step; then the waiting for data is not
    known (None).
    """

    def __init__(
        self, step: TrainStep, rate: Callable[[int], float], batches: TrainingBatches, recipe: Recipe, world: World
    ):
        self.step, self.rate, self.batches, self.recipe, self.world = step, rate, batches, recipe, world
        self.compiled = False
        self.compiling = ExitStack()
        self.loss = math.nan
        self.seconds = 0.0
        self.images_per_second = self.ms_per_step = 0.0
        self.waited: float | None = None
        self.graph_compile: float | None = None  # seconds, in the epoch in which the graph was compiled

    def on_train_epoch_begin(self, run_context) -> None:
        self.began = self.idle_since = self.line_since = time.perf_counter()
        self.waited = None if self.world.settings.sink else 0.0
        self.graph_compile = None
        self.done = self.first = self.step.steps_done % self.batches.steps
        epoch = run_context.original_args().cur_epoch_num
        title = f"epoch {epoch}/{self.recipe.schedule.epoch_size}"
        shown = not self.world.settings.sink and self.world.rank == 0
        steps = self.batches.steps
        self.bar = progress_bar(total=steps, initial=self.done, desc=title, unit="step", shown=shown)

    def on_train_step_begin(self, run_context) -> None:
        if not self.world.settings.sink:
            self.batches.require_whole(run_context.original_args().cur_epoch_num - 1)
        if self.waited is not None:
            self.waited += time.perf_counter() - self.idle_since
        self.compiling.enter_context(self.world.compiling(self.step))
        if not self.compiled:
            self.compiled = True
            arguments = run_context.original_args()
            self._compile(arguments.train_network, arguments.train_dataset_element)

    def _compile(self, network: nn.Cell, inputs: tuple) -> None:
        """Compile the graph of a step; a sinking device's `network` fetches its inputs itself, so there are none."""
        settings = self.world.settings
        log.info("compiling the graph%s", UPSTREAM_COMPILES if settings.target == "Ascend" else "")
        began = time.perf_counter()
        network.compile(*inputs)
        self.graph_compile = time.perf_counter() - began
        release_free_memory()
        self.began += self.graph_compile
        self.line_since = time.perf_counter()
        next_line = f"; the next line comes at the end of an epoch, after {self.batches.steps} steps"
        log.info("graph compiled in %.1f s%s", self.graph_compile, next_line if settings.sink else "")

    def on_train_step_end(self, run_context) -> None:
        self.compiling.close()
        steps = self.batches.steps
        self.done = (self.step.steps_done - 1) % steps + 1  # waits for the device
        self.idle_since = time.perf_counter()
        self.bar.update(self.done - self.bar.n)
        if self._wants_line() and self.done < steps:
            self.check_loss()
            self.line_since = time.perf_counter()
            self.bar.set_postfix(loss=f"{self.loss:.4f}")
            if self.bar.disable:
                epoch = run_context.original_args().cur_epoch_num
                log.info(
                    "epoch %d, step %d/%d: loss %.4f, lr %.4g", epoch, self.done, steps, self.loss, self.last_rate()
                )

    def _wants_line(self) -> bool:
        """Whether the log wants a line after this step: every `log_interval` steps; of one rank without a progress bar
        (several have to agree) also after `SILENCE`."""
        interval = self.recipe.output.log_interval
        waited = self.world.size == 1 and self.bar.disable and time.perf_counter() - self.line_since > SILENCE
        return bool(interval) and (self.done % interval == 0 or waited)

    def on_train_epoch_end(self, run_context) -> None:
        self.bar.close()
        epoch = run_context.original_args().cur_epoch_num
        self.world.all_or_none(lambda: self.batches.require_whole(epoch - 1))
        self.seconds = time.perf_counter() - self.began
        steps = self.done - self.first
        self.images_per_second = self.batches.count * steps / self.batches.steps / self.seconds
        self.ms_per_step = 1000 * self.seconds / steps
        self.check_loss()

    def resume_clock(self) -> None:
        """What was done since the step ended was no waiting for data."""
        self.idle_since = time.perf_counter()

    def last_rate(self) -> float:
        """The learning rate of the last update; updates that were skipped for an overflow do not count."""
        return self.rate(max(0, int(self.step.optimizer.global_step.asnumpy()[0]) - 1))

    def figures(self) -> dict[str, float | None]:
        """The epoch's columns of results.csv."""
        return {
            "train_loss": self.loss,
            "lr": self.last_rate(),
            "images_per_second": self.images_per_second,
            "waited": self.waited,
            "seconds": self.seconds,
            "ms_per_step": self.ms_per_step,
            "graph_compile": self.graph_compile,
        }

    def described(self) -> list[str]:
        """The same for the log."""
        return [
            f"loss in training {self.loss:.4f}",
            f"lr {self.last_rate():.4g}",
            f"{self.images_per_second:.1f} images/s",
            f"{self.ms_per_step:.2f} ms/step",
            f"{self.seconds:.1f} s",
            "" if self.waited is None else f"{self.waited:.1f} s ({self.waited / self.seconds:.1%}) of it for data",
            "" if self.graph_compile is None else f"graph compile {self.graph_compile:.1f} s",
        ]

    def check_loss(self) -> None:
        """The mean loss of the epoch so far, over all ranks; all of them stop if one of them broke."""
        step = self.step
        broken = int(step.broken_step.asnumpy())
        numbers = np.array([step.loss_sum.asnumpy() / self.done, broken >= 0], np.float64)
        loss, ranks_broken = self.world.sum(numbers)
        if ranks_broken:
            where, rate = "a step", "on another rank"
            if broken >= 0:
                where, rate = f"step {broken + 1}", f"at learning rate {self.rate(self.batches.update_of(broken)):.4g}"
            raise TrainingError(
                f"the loss of {where} ({self.batches.steps} steps an epoch) is not finite {rate}; lower --lr, or raise "
                "--warmup_epochs, and start again; earlier checkpoints, if any, are good: --ckpt_path starts from one"
            )
        self.loss = loss / self.world.size
