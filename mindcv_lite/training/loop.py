"""The training loop: MindSpore's Model drives the steps, the callbacks below watch, score, save and report."""

import logging
import math
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import nn
from mindspore.train import Callback, Model
from tqdm import tqdm

from mindcv_lite.checkpoints.weights import model_card
from mindcv_lite.data.datasets.folder import Photos
from mindcv_lite.data.pipeline import TrainingBatches
from mindcv_lite.device.ranks import World
from mindcv_lite.errors import Stopped, TrainingError, UserError
from mindcv_lite.evaluation.score import Score
from mindcv_lite.recipe.keys import Recipe
from mindcv_lite.runs.batch_sheet import first_batch
from mindcv_lite.runs.curves import Curves
from mindcv_lite.runs.folder import Checkpoints, State, claim, keep_as_last, save_state, start_run
from mindcv_lite.runs.results import RESULTS, EpochResult, append_result, drop_results_after
from mindcv_lite.runs.tensorboard import EventFile
from mindcv_lite.signals import take_signals_back
from mindcv_lite.training.distillation import hashes_of
from mindcv_lite.training.eval_copy import Publish
from mindcv_lite.training.resume import fixed_facts, numbers_of, put_back, require_same_run, require_same_start
from mindcv_lite.training.stop import StopRequest
from mindcv_lite.training.train_step import TrainStep

log = logging.getLogger(__name__)

# By MindCV, at jit_level O2 on Ascend 910*; this project has no NPU.
UPSTREAM_COMPILES = " for Ascend (MindCV measured 184 s for the small network, 354 s for the large one)"


def fit(step: TrainStep, batches: TrainingBatches, recipe: Recipe, world: World, callbacks: list[Callback]) -> None:
    """Train from the step's count to the end of the recipe's epochs. Raises `TrainingError` on a broken loss."""
    step.set_train()
    first_step, epochs, sink = int(step.step.asnumpy()), recipe.schedule.epoch_size, world.settings.sink
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
        if epoch < epochs:
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
        self.began = self.idle_since = time.perf_counter()
        self.waited = None if self.world.settings.sink else 0.0
        self.graph_compile = None
        self.done = self.first = int(self.step.step.asnumpy()) % self.batches.steps
        epoch = run_context.original_args().cur_epoch_num
        title = f"epoch {epoch}/{self.recipe.schedule.epoch_size}"
        silent = True if self.world.settings.sink or self.world.rank else None  # None: only on a terminal
        steps = self.batches.steps
        self.bar = tqdm(total=steps, initial=self.done, desc=title, unit="step", leave=False, disable=silent)

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
        self.began += self.graph_compile
        next_line = f"; the next line comes at the end of an epoch, after {self.batches.steps} steps"
        log.info("graph compiled in %.1f s%s", self.graph_compile, next_line if settings.sink else "")

    def on_train_step_end(self, run_context) -> None:
        self.compiling.close()
        steps = self.batches.steps
        self.done = (int(self.step.step.asnumpy()) - 1) % steps + 1  # waits for the device
        self.idle_since = time.perf_counter()
        self.bar.update(self.done - self.bar.n)
        interval = self.recipe.output.log_interval
        if interval and self.done % interval == 0 and self.done < steps:
            self.check_loss()
            self.bar.set_postfix(loss=f"{self.loss:.4f}")
            if self.bar.disable:
                epoch = run_context.original_args().cur_epoch_num
                log.info(
                    "epoch %d, step %d/%d: loss %.4f, rate %.4g", epoch, self.done, steps, self.loss, self.last_rate()
                )

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


class Record(Callback):
    """What a run leaves: after each epoch its weights, their score, a line in results.csv and the state to go on from;
    the state alone when a signal asks it to stop within an epoch."""

    def __init__(
        self,
        watch: Watch,
        published: nn.Cell,
        score: Callable[[], Score] | None,
        photos: Photos,
        stop: StopRequest,
    ):
        """`published`: the network that is scored and saved, a copy of the trained one; `score`: how to score it."""
        self.watch, self.score, self.stop, self.class_names = watch, score, stop, photos.class_names
        self.step, self.recipe, self.world = watch.step, watch.recipe, watch.world
        self.publish = Publish(self.step.network, self.step.average, published, self.world)
        self.fixed = fixed_facts(self.recipe, photos, self.world, hashes_of(self.step.teachers))
        self.events: EventFile | None = None
        self.named: set[str] = set()  # photos that cannot be decoded, which were named in the log
        output = self.recipe.output
        self.folder = Path(output.ckpt_save_dir)
        self.curves = Curves(self.folder)
        self.checkpoints = Checkpoints(
            self.folder, self.recipe.model.model, output.keep_checkpoint_max, output.ckpt_save_policy
        )

    def start(self, state: State | None) -> None:
        """Make the folder of the run, or go on with what is there. Raises `UserError` if that is of another run."""
        goes_on = False
        if state:
            require_same_run(state, self.fixed)
            self._require_epochs_left(state)
            put_back(self.step, state, self.world)
            log.info("going on with %s, after step %d", state.path, state.facts["step"])
            goes_on = Path(state.path).resolve().parent == self.folder.resolve()
            if goes_on:
                self.checkpoints.restore(state.facts["files"])
        require_same_start(self.step, self.world)  # here all ranks have read what start_run may set aside
        if self.world.rank == 0:
            claim(self.folder)
            if state and goes_on:
                keep_as_last(Path(state.path))
            start_run(self.folder, self.recipe, goes_on)
            drop_results_after(self.folder / RESULTS, int(self.step.step.asnumpy()))
            if self.recipe.output.tensorboard:
                self._start_events()

    def _start_events(self) -> None:
        folder, step = self.folder / "tensorboard", int(self.step.step.asnumpy())
        is_new = not folder.exists()
        self.events = EventFile(folder, step)
        if is_new:
            self.events.add_text("recipe", self.recipe.text(), step)
            picture = first_batch(self.watch.batches, self.recipe, self.class_names)
            self.events.add_picture("first batch", picture, step)

    def _require_epochs_left(self, state: State) -> None:
        begun, epochs = math.ceil(state.facts["step"] / self.watch.batches.steps), self.recipe.schedule.epoch_size
        if begun > epochs:
            raise UserError(
                f"epoch_size is {epochs}, but {state.path} is of epoch {begun}; use --epoch_size {begun} or more"
            )

    def on_train_step_end(self, run_context) -> None:
        take_signals_back()
        steps = int(self.step.step.asnumpy())
        ends_update = steps % self.watch.batches.steps % self.watch.batches.accumulated == 0
        if ends_update and self.watch.done < self.watch.batches.steps and (number := self.stop.of_any_rank()):
            self.watch.bar.close()
            self.watch.check_loss()
            self._save_state()
            raise self._stopped(number)
        self.watch.resume_clock()

    def on_train_epoch_end(self, run_context) -> None:
        epoch = run_context.original_args().cur_epoch_num
        failure = self._keep_epoch(epoch)
        self._save_state()
        if failure:
            raise failure
        if epoch < self.recipe.schedule.epoch_size and (number := self.stop.of_any_rank()):
            raise self._stopped(number)

    def keep_epoch_0(self) -> None:
        """Score, save and report the network as it is before it is trained."""
        if failure := self._keep_epoch(0):
            raise failure

    def _keep_epoch(self, epoch: int) -> UserError | TrainingError | None:
        """Score, save and report the network as it is after an epoch.

        Returns what kept it from being scored, such as a photo that cannot be decoded: the weights are saved.
        """
        output, step = self.recipe.output, int(self.step.step.asnumpy())
        last = epoch == self.recipe.schedule.epoch_size or self.recipe.model.probe_only
        replaced = self._replaced_in(epoch) if epoch else 0
        with self.world.compiling(self.publish):
            self.publish()
        published = {name: parameter.asnumpy() for name, parameter in self.publish.parameters.items()}
        require_finite(published)
        score, failure = None, None
        try:
            score = self.score() if self.score and (epoch % output.val_interval == 0 or last) else None
        except (UserError, TrainingError) as error:
            failure = error
        if self.world.rank == 0:
            top1 = score.top1 if score else None
            weights = published, model_card(self.recipe, self.class_names, epoch=epoch, top1=top1)
            if (epoch and epoch % output.ckpt_save_interval == 0) or last or failure:
                self.checkpoints.save(epoch, step, *weights, top1)
            best = top1 is not None and self.checkpoints.save_if_best(*weights, top1)
            self._report(epoch, step, score, best, replaced)
            if epoch:
                self.curves.draw(at_once=last or failure is not None)
        return failure

    def _replaced_in(self, epoch: int) -> int:
        """How many photos could not be decoded in this epoch, on all ranks; each rank names its own once."""
        replaced = self.watch.batches.replaced[epoch - 1]
        for path in sorted({*replaced} - self.named):
            log.error("%s cannot be decoded: another photo takes its place", path)
        self.named |= {*replaced}
        return int(self.world.sum(np.array([len(replaced)], np.float64))[0])

    def _save_state(self) -> None:
        numbers = numbers_of(self.step, self.world)
        if self.world.rank == 0:
            facts = {
                "step": int(self.step.step.asnumpy()),
                "fixed": self.fixed,
                "card": model_card(self.recipe, self.class_names),
                "files": self.checkpoints.facts(),
            }
            save_state(self.folder, numbers, facts)
        self.world.wait_for_all()  # msrun ends all ranks as soon as one of them stops

    def _stopped(self, number: int) -> Stopped:
        if self.world.rank == 0:
            self.curves.draw(at_once=True)
        step = int(self.step.step.asnumpy())
        where = f"step {step} (epoch {-(-step // self.watch.batches.steps)}/{self.recipe.schedule.epoch_size})"
        return Stopped(number, f"stopped after {where} by {signal.Signals(number).name}; --resume goes on from there")

    def _report(self, epoch: int, step: int, score: Score | None, best: bool, replaced: int) -> None:
        facts = [str(score) if score else "", "the best so far" if best else ""]
        facts += self._facts_of_training() if epoch else ["nothing trained yet"]
        facts += [f"{replaced} photo{'s' * (replaced > 1)} replaced" if replaced else ""]
        log.info("epoch %d/%d: %s", epoch, self.recipe.schedule.epoch_size, ", ".join(filter(None, facts)))
        watch = self.watch
        if skipped := int(watch.step.skipped.asnumpy()):
            log.info("%d updates skipped so far, because their gradients overflowed", skipped)
        known: dict[str, Any] = {}
        if score:
            known |= {"top1": score.top1, "top5": score.top5, "val_loss": score.loss, "val_photos": score.photos}
        if epoch:
            known |= {"train_loss": watch.loss, "rate": watch.last_rate(), "images_per_second": watch.images_per_second}
            known |= {"waited": watch.waited, "seconds": watch.seconds, "ms_per_step": watch.ms_per_step}
            known |= {"graph_compile": watch.graph_compile}
        settings = self.world.settings
        machine = {"devices": self.world.size, "device": settings.target, "jit_level": settings.jit_level}
        result = EpochResult(epoch, step, **known, **machine)
        append_result(self.folder / RESULTS, result)
        if self.events:
            self.events.add_result(result)

    def _facts_of_training(self) -> list[str]:
        watch = self.watch
        return [
            f"loss in training {watch.loss:.4f}",
            f"rate {watch.last_rate():.4g}",
            f"{watch.images_per_second:.1f} images/s",
            f"{watch.ms_per_step:.2f} ms/step",
            f"{watch.seconds:.1f} s",
            "" if watch.waited is None else f"{watch.waited:.1f} s ({watch.waited / watch.seconds:.1%}) of it for data",
            "" if watch.graph_compile is None else f"graph compile {watch.graph_compile:.1f} s",
        ]


def require_finite(weights: Mapping[str, np.ndarray]) -> None:
    """Raise `TrainingError` that names a weight that is not finite: such weights are not worth a file."""
    for name, value in weights.items():
        if not np.isfinite(value).all():
            raise TrainingError(
                f"'{name}' is not finite after this epoch, so nothing is saved of it: lower --lr, or raise "
                "--batch_size (a BatchNorm cannot work on a single value), and start again; earlier checkpoints, if "
                "any, are good: --ckpt_path starts from one"
            )
