"""What a run leaves: after each epoch its weights, their score, a line of results.csv and the state to go on from."""

import logging
import math
import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import nn
from mindspore.train import Callback

from mindcv_lite.checkpoints.model_card import model_card
from mindcv_lite.checkpoints.weights import read_weights
from mindcv_lite.data.datasets.image_folder import Split
from mindcv_lite.device.memory import release_free_memory
from mindcv_lite.errors import Stopped, TrainingError, UserError
from mindcv_lite.evaluation.score import Score
from mindcv_lite.runs.batch_sheet import first_batch
from mindcv_lite.runs.checkpoint_saver import CheckpointSaver
from mindcv_lite.runs.curves import Curves
from mindcv_lite.runs.folder import claim, start_run
from mindcv_lite.runs.results import RESULTS, EpochResult, age_of_best, append_result, drop_results_after, read_results
from mindcv_lite.runs.state import State, keep_as_last, save_state
from mindcv_lite.runs.tensorboard import EventFile, events_folder
from mindcv_lite.signals import name_of, take_signals_back
from mindcv_lite.training.distillation import hashes_of
from mindcv_lite.training.eval_copy import EvalCopy
from mindcv_lite.training.graceful_stop import StopRequest
from mindcv_lite.training.loop import Watch
from mindcv_lite.training.resume import fixed_facts, numbers_of, put_back, require_same_run, require_same_start

log = logging.getLogger(__name__)


class RunRecorder(Callback):
    """What a run leaves: after each epoch its weights, their score, a line in results.csv and the state to go on from;
    the state alone when a signal asks it to stop within an epoch."""

    def __init__(
        self,
        watch: Watch,
        eval_network: nn.Cell,
        score: Callable[[], Score] | None,
        images: Split,
        stop: StopRequest,
    ):
        """`eval_network`: the network that is scored and saved, a copy of the trained one; `score`: how to score it."""
        self.watch, self.score, self.stop, self.class_names = watch, score, stop, images.class_names
        self.step, self.recipe, self.world = watch.step, watch.recipe, watch.world
        self.eval_copy = EvalCopy(self.step.network, self.step.average, eval_network, self.world)
        self.fixed = fixed_facts(self.recipe, images, self.world, hashes_of(self.step.teachers))
        self.claimed: int | None = None
        self.events: EventFile | None = None
        self.named: set[int] = set()  # images that cannot be decoded, which were named in the log
        output = self.recipe.output
        self.folder = Path(output.ckpt_save_dir)
        self.curves = Curves(self.folder)
        self.checkpoints = CheckpointSaver(
            self.folder, self.recipe.model.model, output.keep_checkpoint_max, output.ckpt_save_policy
        )

    @property
    def best(self) -> Path | None:
        """The checkpoint of the highest top-1, if the run was scored."""
        return self.checkpoints.best_path if self.checkpoints.best >= 0 else None

    @property
    def top1(self) -> float | None:
        """The top-1 of that checkpoint, 0 to 1."""
        return self.checkpoints.best if self.checkpoints.best >= 0 else None

    @property
    def last(self) -> Path | None:
        """The latest checkpoint, or of those that a policy kept, the one that was kept last."""
        return self.checkpoints.kept[-1][1] if self.checkpoints.kept else None

    def describe_end(self) -> None:
        """Say where the best network is, and what may be done with it."""
        checkpoint = self.best or self.last
        if self.world.rank or not (checkpoint and checkpoint.exists()):
            return
        card = read_weights(str(checkpoint)).card
        assert card, "the checkpoints of a run have model cards"
        score = "not scored" if card["top1"] is None else f"top-1 {card['top1']:.2%}"
        which = "best" if self.best else "latest"
        log.info("the %s network: epoch %d, %s: %s", which, card["epoch"], score, checkpoint)
        command, file = "python -m mindcv_lite", shlex.quote(str(checkpoint))
        recipe = shlex.quote(str(self.folder / "recipe.yaml"))
        if self.score:
            log.info("validate it: %s validate --config %s --ckpt_path %s --report report", command, recipe, file)
        log.info("predict:     %s predict %s /path/to/images", command, file)
        log.info("export it:   %s export %s --format onnx", command, file)

    @contextmanager
    def recording(self, state: State | None) -> Iterator[None]:
        """Hold the folder of the run, which goes on from `state` if there is one. Raises `UserError` if that is of
        another run."""
        try:
            self._start(state)
            yield
        finally:
            if self.events:
                self.events.close()
            if self.claimed is not None:
                os.close(self.claimed)

    def _start(self, state: State | None) -> None:
        if state:
            self._go_on_with(state)
        here = state if state and Path(state.path).resolve().parent == self.folder.resolve() else None
        if here:
            self.checkpoints.restore(here.facts["files"])
        require_same_start(self.step, self.world)  # here all ranks have read what start_run may set aside
        if self.world.rank == 0:
            self.claimed = claim(self.folder)
            if here:
                keep_as_last(Path(here.path))
            start_run(self.folder, self.recipe, goes_on=here is not None)
            drop_results_after(self.folder / RESULTS, self.step.steps_done)
            if self.recipe.output.tensorboard:
                self._start_events()

    def _go_on_with(self, state: State) -> None:
        require_same_run(state, self.fixed)
        begun, epochs = math.ceil(state.facts["step"] / self.watch.batches.steps), self.recipe.schedule.epoch_size
        if begun > epochs:
            raise UserError(
                f"epoch_size is {epochs}, but {state.path} is of epoch {begun}; use --epoch_size {begun} or more"
            )
        put_back(self.step, state, self.world)
        log.info("going on with %s, after step %d", state.path, state.facts["step"])

    def _start_events(self) -> None:
        folder, step = events_folder(self.folder), self.step.steps_done
        is_new = not folder.exists()
        self.events = EventFile(folder, step)
        if is_new:
            self.events.add_text("recipe", self.recipe.text(), step)
            picture = first_batch(self.watch.batches, self.recipe, self.class_names)
            self.events.add_picture("first batch", picture, step)

    def on_train_step_end(self, run_context) -> None:
        take_signals_back()
        steps = self.step.steps_done
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
        if failure:
            raise failure
        if epoch < self.recipe.schedule.epoch_size and (number := self.stop.of_any_rank()):
            raise self._stopped(number)
        if self.recipe.output.patience and self._is_out_of_patience(epoch, self.recipe.output.patience):
            self.watch.batches.over = True
            run_context.request_stop()

    def _is_out_of_patience(self, epoch: int, patience: int) -> bool:
        """Whether the best top-1 is `patience` epochs old; every rank must call it and gets the same answer."""
        age = 0
        if self.world.rank == 0:
            best, age = age_of_best(read_results(self.folder / RESULTS))
            epochs = self.recipe.schedule.epoch_size
            if age >= patience and epoch < epochs:
                text = "patience: no better top-1 since epoch %d: the training ends after epoch %d of %d, at lr %.4g"
                log.info(text, best, epoch, epochs, self.watch.last_rate())
                self.curves.draw(at_once=True)
        return self.world.sum(np.array([age]))[0] >= patience

    def keep_epoch_0(self) -> None:
        """Score, save and report the network as it is before it is trained."""
        if failure := self._keep_epoch(0):
            raise failure

    def _keep_epoch(self, epoch: int) -> UserError | TrainingError | None:
        """Score, save and report the network as it is after an epoch: what is kept is written before it is told.

        Returns what kept it from being scored, such as an image that cannot be decoded: the weights are saved.
        """
        output, step = self.recipe.output, self.step.steps_done
        last = epoch == self.recipe.schedule.epoch_size or self.recipe.model.probe_only
        replaced = self._replaced_in(epoch) if epoch else 0
        with self.world.compiling(self.eval_copy):
            self.eval_copy()
        weights = {name: parameter.asnumpy() for name, parameter in self.eval_copy.parameters.items()}
        _require_finite(weights)
        score, best, failure = None, False, None
        try:
            score = self.score() if self.score and (epoch % output.val_interval == 0 or last) else None
        except (UserError, TrainingError) as error:
            failure = error
        if self.world.rank == 0:
            top1 = score.top1 if score else None
            saved = weights, model_card(self.recipe, self.class_names, epoch=epoch, top1=top1)
            if (epoch and epoch % output.ckpt_save_interval == 0) or last or failure:
                self.checkpoints.save(epoch, step, *saved, top1)
            best = top1 is not None and self.checkpoints.save_if_best(*saved, top1)
            self._append_result(epoch, step, score)
        if epoch:
            self._save_state()
        if self.world.rank == 0:
            self._report(epoch, score, best, replaced)
            if epoch:
                self.curves.draw(at_once=last or failure is not None)
        self.world.wait_for_all()  # msrun ends all ranks as soon as one of them stops
        release_free_memory()
        return failure

    def _replaced_in(self, epoch: int) -> int:
        """How many images could not be decoded in this epoch, on all ranks; each rank names its own once."""
        batches = self.watch.batches
        replaced, images = batches.replaced[epoch - 1], batches.images
        for index in sorted({*replaced} - self.named):
            log.error("%s %s: another image takes its place", images.paths[index], images.flaw(index))
        self.named |= {*replaced}
        return int(self.world.sum(np.array([len(replaced)], np.float64))[0])

    def _save_state(self) -> None:
        numbers = numbers_of(self.step, self.world)
        if self.world.rank == 0:
            facts = {
                "step": self.step.steps_done,
                "fixed": self.fixed,
                "card": model_card(self.recipe, self.class_names),
                "files": self.checkpoints.facts(),
            }
            save_state(self.folder, numbers, facts)

    def _stopped(self, number: int) -> Stopped:
        if self.world.rank == 0:
            self.curves.draw(at_once=True)
        self.world.wait_for_all()
        step = self.step.steps_done
        where = f"step {step} (epoch {-(-step // self.watch.batches.steps)}/{self.recipe.schedule.epoch_size})"
        return Stopped(number, f"stopped after {where} by {name_of(number)}; --resume goes on from there")

    def _append_result(self, epoch: int, step: int, score: Score | None) -> None:
        known: dict[str, Any] = self.watch.figures() if epoch else {}
        if score:
            known |= {"top1": score.top1, "top5": score.top5, "val_loss": score.loss, "val_images": score.images}
            known |= {"balanced_accuracy": score.balanced_accuracy}
        settings = self.world.settings
        machine = {"devices": self.world.size, "device": settings.target, "jit_level": settings.jit_level}
        result = EpochResult(epoch, step, **known, **machine)
        append_result(self.folder / RESULTS, result)
        if self.events:
            self.events.add_result(result)

    def _report(self, epoch: int, score: Score | None, best: bool, replaced: int) -> None:
        facts = [str(score) if score else "", "the best so far" if best else ""]
        facts += self.watch.described() if epoch else ["only the last layer is fitted"]
        facts += [f"{replaced} image{'s' * (replaced > 1)} replaced" if replaced else ""]
        log.info("epoch %d/%d: %s", epoch, self.recipe.schedule.epoch_size, ", ".join(filter(None, facts)))
        if skipped := int(self.step.skipped.asnumpy()):
            log.info("%d updates skipped so far, because their gradients overflowed", skipped)


def _require_finite(weights: Mapping[str, np.ndarray]) -> None:
    """Raise `TrainingError` that names a weight that is not finite: such weights are not worth a file."""
    for name, value in weights.items():
        if not np.isfinite(value).all():
            raise TrainingError(
                f"'{name}' is not finite after this epoch, so nothing is saved of it: lower --lr, or raise "
                "--batch_size (a BatchNorm cannot work on a single value), and start again; earlier checkpoints, if "
                "any, are good: --ckpt_path starts from one"
            )
