"""Trainings, resumed ones and validation, as train.py and validate.py do them."""

import math
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import amp

from mindcv_lite.device.ranks import World
from mindcv_lite.doctor.examination import Answer, Heard
from mindcv_lite.doctor.findings import Failed, NotRun
from mindcv_lite.doctor.recipes import Bench
from mindcv_lite.doctor.scripts import Run, train, validate
from mindcv_lite.errors import TrainingError, UserError
from mindcv_lite.runs.results import RESULTS
from mindcv_lite.runs.state import PREVIOUS, read_state

# Relative difference of the mean loss of an epoch between two ways of the same training. On a CPU there is none. In
# float16 an NPU may add in another order at each graph level; none was tried.
BOUND = 0.02


class Trainings:
    """One training in several ways: the same images, the same losses."""

    def __init__(self, bench: Bench):
        self.bench = bench
        self.first: Run | None = None

    def sinking(self, jit_level: str) -> Answer:
        if not self.bench.has_npu:
            raise NotRun("no NPU: a CPU is fed batch by batch")
        return self._trained(f"sinking_{jit_level}", jit_level=jit_level)

    def fed(self) -> Answer:
        """Batch by batch."""
        return self._trained("fed", jit_level="O1", dataset_sink_mode=False)

    def _trained(self, name: str, **keys: Any) -> Answer:
        run, world = train(self.bench.recipe(name, val_while_train=True, **keys)), self.bench.world
        _require_equal_weights(run, world)
        # Rank 0 alone knows the losses; all ranks must have a first way, or none, or some would wait for the others.
        is_good = world.sum(np.array([_loss_fell(run)], np.float64))[0] == world.size
        first, self.first = self.first, self.first or (run if is_good else None)
        text = learned(run)
        figures: dict[str, Any] = {"losses": run.losses}
        if first:
            figures["difference"] = _require_losses_of(first, run)
            text += f", {figures['difference']:.2%} from those of the first way (at most {BOUND:.0%})"
        return text, figures

    def resumed(self) -> Answer:
        """The last epoch once more, from the state before it."""
        first, world = self._first(), self.bench.world
        state = first.folder / PREVIOUS
        _require_common(state, world)
        recipe = first.record.recipe.with_keys(resume=str(state), ckpt_save_dir=str(self.bench.folder / "resumed"))
        again = train(recipe)
        expected, got = first.weights, again.weights
        if all(np.array_equal(expected[name], got[name]) for name in expected):
            return "the last epoch from the state before it: the same weights to the bit", {}
        if not self.bench.has_npu:
            raise Failed("the last epoch, trained again from the state before it, ends with other weights")
        difference = difference_of(first.losses[-1:], again.losses)
        if difference > BOUND:
            raise Failed(f"the last epoch's loss is {difference:.2%} from that of the run that did not stop")
        return (
            f"loss of the last epoch {difference:.2%} from that of the run that did not stop (at most {BOUND:.0%})",
            {},
        )

    def validated(self) -> Answer:
        """The last checkpoint by validate.py."""
        first = self._first()
        model, step = first.record.recipe.model.model, int(first.record.step.step.asnumpy())
        checkpoint = first.folder / f"{model}-{first.record.recipe.schedule.epoch_size}_{step}.ckpt"
        _require_common(checkpoint, self.bench.world)
        score = validate(first.record.recipe.with_keys(ckpt_path=str(checkpoint)))
        for result in first.results[-1:]:  # which rank 0 has
            assert result.top1 is not None
            assert result.val_loss is not None
            images_apart = abs(score.top1 - result.top1) * score.images
            loss_apart = abs(score.loss - result.val_loss) / result.val_loss
            if images_apart > (1.01 if self.bench.has_npu else 0.01) or not loss_apart < (
                0.01 if self.bench.has_npu else 1e-4
            ):
                raise Failed(
                    f"top-1 {score.top1:.2%}, loss {score.loss:.4f}; in training the same checkpoint had "
                    f"{result.top1:.2%} and {result.val_loss:.4f}"
                )
        return f"{score} over {score.images} images, as in training", {"top1": score.top1, "images": score.images}

    def _first(self) -> Run:
        if not self.first:
            raise NotRun("no training came to its end")
        return self.first


def learned(run: Run) -> str:
    """The losses as text. Raises `Failed` unless the loss fell, and that on rank 0 alone: after it no rank may wait for
    another."""
    text = f"losses {' '.join(f'{loss:.4f}' for loss in run.losses)}"
    if not _loss_fell(run):
        raise Failed(f"{text}: the loss did not fall on images of three plain colours")
    return text


def _loss_fell(run: Run) -> bool:
    """Whether the last loss is below the first; False if either is NaN, True on ranks that do not know them."""
    return not run.losses or run.losses[-1] < run.losses[0]


def _require_losses_of(first: Run, run: Run) -> float:
    difference = difference_of(first.losses, run.losses)
    if not difference <= BOUND:
        raise Failed(
            f"losses {run.losses} are {difference:.2%} from those of the first way, {first.losses}; expected at most "
            f"{BOUND:.0%}"
        )
    return difference


def difference_of(expected: list[float], got: list[float]) -> float:
    """The largest relative difference."""
    pairs = zip(expected, got, strict=True)
    return max((abs(b - a) / abs(a) if math.isfinite(b) else math.inf for a, b in pairs), default=0.0)


def _require_common(path: Path, world: World) -> None:
    """Raise `NotRun`, on all ranks alike, unless every rank sees the file that rank 0 has written."""
    if world.sum(np.array([path.exists()], np.float64))[0] < world.size:
        raise NotRun("the ranks have no folder in common: set TMPDIR to a folder that all machines see")


def _require_equal_weights(run: Run, world: World) -> None:
    """Raise `Failed`, on all ranks alike, unless all have the same weights after the last epoch."""
    checksum = zlib.crc32(b"".join(value.tobytes() for value in run.weights.values()))
    digits = np.array([checksum >> 16, checksum & 0xFFFF], np.float32)
    if not (world.gather(digits) == digits).all():
        raise Failed("the ranks have different weights after training: gradients are not added up as they should be")


# --------------------------------------------------------------------------------------------- what recipes may ask for


def ema_clipping_and_scale(bench: Bench) -> Answer:
    """One graph of three features: to compile a graph takes minutes on an NPU.

    There from a loss scale with which gradients overflow in float16: such updates must be skipped.
    """
    first_scale = 2.0**24 if bench.has_npu else 2.0**16
    scale = {"loss_scale_type": "dynamic", "loss_scale": first_scale}
    run = train(bench.recipe("ema", ema=True, clip_grad=True, clip_value=0.5, val_while_train=False, **scale))
    _require_equal_weights(run, bench.world)
    text = learned(run)
    require_average(run, bench.world)
    skipped = require_skipped(run, first_scale, some=bench.has_npu)
    return f"{text}; {skipped}", {"losses": run.losses}


def require_average(run: Run, world: World) -> None:
    """Raise `Failed` unless what the run has saved is a moving average of the weights that it trained."""
    average, saved = run.record.step.average, run.record.eval_copy.parameters
    assert average
    statistics = "moving_mean", "moving_variance"
    averages = {name: each for name, each in average.of().items() if not name.endswith(statistics)}
    values = {name: each.asnumpy() for name, each in averages.items()}
    differing = [name for name, value in values.items() if not np.array_equal(value, saved[name].asnumpy())]
    if differing:
        raise Failed(f"what is saved is not the average of the weights: '{differing[0]}' differs")
    weights = run.weights
    if all(np.array_equal(value, weights[name]) for name, value in values.items()):
        raise Failed("the average of the weights is the last weights themselves")
    if world.rank == 0:  # which has written the state before the last epoch
        before = read_state(run.folder / PREVIOUS).numbers
        if all(np.array_equal(value, before[averages[name].name]) for name, value in values.items()):
            raise Failed("the average of the weights did not move in the last epoch")


def require_skipped(run: Run, first_scale: float, some: bool) -> str:
    """How many updates were skipped for an overflow. Raises `Failed` unless it is `some`, but not all, or else none,
    and the scale was halved for each."""
    step = run.record.step
    assert isinstance(step.scaler, amp.DynamicLossScaler)
    skipped, steps, scale = (int(each.asnumpy()) for each in (step.skipped, step.step, step.scaler.scale_value))
    text = f"{skipped} of {steps} updates skipped for an overflow, loss scale {first_scale:.0f} to {scale}"
    if scale != first_scale / 2**skipped or (skipped == 0) == some or skipped == steps:
        expected = "some skipped" if some else "none skipped in float32"
        raise Failed(f"{text}: expected {expected}, and the scale halved for each")
    return text


def accumulation(bench: Bench) -> Answer:
    run = train(bench.recipe("accumulation", gradient_accumulation_steps=4, val_while_train=False))
    _require_equal_weights(run, bench.world)
    batches, epochs = run.record.watch.batches, run.record.recipe.schedule.epoch_size
    updates, expected = int(run.record.step.optimizer.global_step.asnumpy()[0]), epochs * batches.updates
    if updates != expected:
        raise Failed(f"{updates} updates of {epochs * batches.steps} steps, expected {expected}")
    return f"{learned(run)}; {updates} updates of {epochs * batches.steps} steps", {"losses": run.losses}


def erasing_and_mixing(bench: Bench) -> Answer:
    keys = {"re_prob": 0.5, "re_value": "random", "mixup": 0.2, "cutmix": 1.0, "val_while_train": False}
    run = train(bench.recipe("mixing", **keys))
    _require_equal_weights(run, bench.world)
    return learned(run), {"losses": run.losses}


# ------------------------------------------------------------------------------------------------------ damaged images


def damaged_image(bench: Bench, heard: Heard, on_corrupt: str) -> Answer:
    """An image that becomes damaged while the run is at work. Rank 0 does the damage, and knows when."""
    world = bench.world
    if on_corrupt == "error" and world.size > 1 and not bench.sinks:
        raise NotRun("of several ranks that do not sink, one would stop within a step: start doctor without msrun")
    images = bench.images(on_corrupt)
    victim = max(images.glob("train/*/*.jpg"))
    # So many epochs that the image is read once more: MindSpore reads some 20 batches ahead, or 120 where it sinks.
    epochs = 40 if bench.sinks else 12
    recipe = bench.recipe(
        on_corrupt,
        data_dir=images,
        on_corrupt=on_corrupt,
        epoch_size=epochs,
        val_while_train=False,
        ckpt_save_interval=epochs,
        freeze="backbone",
    )
    ended = ""
    folder = Path(recipe.output.ckpt_save_dir)
    with damage_after_first_epoch(victim, folder) if world.rank == 0 else nullcontext([]) as damaged_at:
        try:
            train(recipe)
        except (UserError, TrainingError) as error:
            ended = str(error)
    end = time.perf_counter()
    if on_corrupt == "replace" and ended:  # this rank alone, maybe: the others would not answer
        raise Failed(f"the run ended, though another image was to take the place of a damaged one: {ended}")
    named = heard.first_time(victim.name) or (end if victim.name in ended else None)
    was_damaged, names = world.sum(np.array([bool(damaged_at), named is not None], np.float64))
    if not was_damaged:
        raise Failed(f"the run ended within its first epoch: {ended}")
    if not names:
        raise Failed(f"no rank named the damaged image{f': the run ended with: {ended}' if ended else ''}")
    if on_corrupt == "error" and not ended:
        raise Failed("the run went on to its end with a damaged image")
    if not damaged_at:
        return "rank 0 did the damage", {}
    until_end, until_named = end - damaged_at[0], named - damaged_at[0] if named else None
    who = "named by another rank" if until_named is None else f"named {until_named:.1f} s after it was damaged"
    how = f"the run ended after {until_end:.1f} s" if ended else "the run went on to its end"
    return f"{who}; {how}", {"seconds_until_named": until_named, "seconds_until_end": until_end}


@contextmanager
def damage_after_first_epoch(image: Path, folder: Path) -> Iterator[list[float]]:
    """Cut an image short as soon as the run in `folder` has a line of results; when that was, in a list."""
    over, damaged_at = threading.Event(), []

    def wait_and_damage() -> None:
        while not over.wait(0.01):
            if (folder / RESULTS).exists():
                now = time.perf_counter()  # before the damage, because a fast run names the image at once
                image.write_bytes(image.read_bytes()[: image.stat().st_size // 2])
                damaged_at.append(now)
                return

    thread = threading.Thread(target=wait_and_damage, daemon=True)
    thread.start()
    try:
        yield damaged_at
    finally:
        over.set()
        thread.join()
