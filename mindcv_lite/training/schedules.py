"""Learning-rate schedules: warm-up, then one of `SHAPES`. Plain NumPy, without MindSpore.

The rates are those of MindCV 0.3 (`mindcv/scheduler`), so that its published recipes train as published; a comment
marks each line that differs on purpose.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, overload

import numpy as np

from mindcv_lite.recipe.keys import Schedule


class Rate(Protocol):
    """The rate of an update, counted from 0; or of many."""

    @overload
    def __call__(self, step: int) -> float: ...

    @overload
    def __call__(self, step: np.ndarray) -> np.ndarray: ...


class Position(NamedTuple):
    """Steps of the run, counted from the end of the warm-up."""

    step: np.ndarray  # first is 0
    steps: int  # from the end of the warm-up to the end of the run
    steps_per_epoch: int


def learning_rate(schedule: Schedule, lr: float, steps_per_epoch: int) -> Rate:
    """The rate of each update of a run, as a function of the step: 0 ... epoch_size * steps_per_epoch - 1.

    `lr` is the peak, already scaled to the global batch. A run of at most `warmup_epochs` epochs is all warm-up.
    """
    shape = SHAPES[schedule.scheduler]
    warmup_steps = schedule.warmup_epochs * steps_per_epoch
    steps = schedule.epoch_size * steps_per_epoch - warmup_steps

    def rate(step: Any) -> Any:
        step = np.asarray(step)
        if schedule.lr_epoch_stair:
            step = step - step % steps_per_epoch
        warms_up, rates = step < warmup_steps, np.empty(step.shape)
        rates[warms_up] = _linear(schedule.warmup_factor * lr, lr, step[warms_up] / warmup_steps)
        rates[~warms_up] = shape(schedule, lr, Position(step[~warms_up] - warmup_steps, steps, steps_per_epoch))
        return rates if rates.ndim else float(rates)

    return rate


def misfit(schedule: Schedule, lr: float, steps_per_epoch: int) -> str | None:
    """One sentence, for a warning, if the schedule does not end with the run: why, the last rate, what to do."""
    problem = _problem(schedule, lr)
    if problem is None:
        return None
    finding, advice = problem
    last = learning_rate(schedule, lr, steps_per_epoch)(schedule.epoch_size * steps_per_epoch - 1)
    return f"{schedule.scheduler}: {finding}; the last learning rate is {last:.4g}; {advice}"


def _problem(schedule: Schedule, lr: float) -> tuple[str, str] | None:
    name, warmup, decay, cycles = schedule.scheduler, schedule.warmup_epochs, schedule.decay_epochs, schedule.num_cycles
    milestone = schedule.multi_step_decay_milestones[-1]
    epochs = schedule.epoch_size - warmup
    if epochs <= 0:
        finding = f"all {schedule.epoch_size} epochs of the run are within the {warmup} of warm-up"
        return finding, f"set warmup_epochs below {schedule.epoch_size}, or raise epoch_size"
    if name in ("cosine_decay", "one_cycle", "cyclic") and schedule.min_lr > lr:
        return f"min_lr {schedule.min_lr:.4g} is above the peak, {lr:.4g} after scaling", "lower min_lr"
    if name == "cosine_decay" and decay and cycles * decay != epochs:
        finding = f"warm-up and decay take {warmup} + {cycles} x {decay} epochs, the run has {schedule.epoch_size}"
        return finding, "leave out decay_epochs (--decay_epochs None) to fit the decay to the run"
    if name == "step_decay" and (decay is None or decay >= epochs):
        return f"the rate never steps down in the {epochs} epochs after the warm-up", f"set decay_epochs below {epochs}"
    if name == "multi_step_decay" and milestone >= epochs:
        finding = f"milestone {milestone} is not reached in the {epochs} epochs after the warm-up"
        return finding, f"keep multi_step_decay_milestones below {epochs}, or raise epoch_size"
    return None


# ------------------------------------------------------------------------------------------- shapes after the warm-up


def constant(schedule: Schedule, lr: float, at: Position) -> float:
    """lr, throughout."""
    return lr


def cosine_decay(schedule: Schedule, lr: float, at: Position) -> np.ndarray:
    """Half cosines from lr to min_lr, `num_cycles` of `decay_epochs` each; min_lr after the last one."""
    # Left out, decay_epochs is an equal share of the run, maybe no whole number: hence the count in step * cycles.
    cycles = schedule.num_cycles
    span = cycles * schedule.decay_epochs * at.steps_per_epoch if schedule.decay_epochs else at.steps
    cycle, position = np.divmod(at.step * cycles, span)
    # MindCV's later cycles start below min_lr, and rise, where cycle_decay is that small.
    top = np.maximum(lr * schedule.cycle_decay**cycle, schedule.min_lr)
    return np.where(cycle < cycles, _half_cosine(top, schedule.min_lr, position / span), schedule.min_lr)


def exponential_decay(schedule: Schedule, lr: float, at: Position) -> np.ndarray:
    """`decay_rate` per epoch."""
    return lr * schedule.decay_rate ** (at.step / at.steps_per_epoch)


def step_decay(schedule: Schedule, lr: float, at: Position) -> np.ndarray:
    """`decay_rate` every `decay_epochs`, never if left out."""
    decay_epochs = schedule.decay_epochs or schedule.epoch_size
    return lr * schedule.decay_rate ** (at.step // (decay_epochs * at.steps_per_epoch))


def multi_step_decay(schedule: Schedule, lr: float, at: Position) -> np.ndarray:
    """`decay_rate` at each milestone; as in MindCV, milestones count epochs from the end of the warm-up."""
    epoch = at.step // at.steps_per_epoch
    return lr * schedule.decay_rate ** np.searchsorted(schedule.multi_step_decay_milestones, epoch, side="right")


def polynomial_decay(schedule: Schedule, lr: float, at: Position) -> np.ndarray:
    """From lr to 0 over the run; the power is `decay_rate`."""
    return lr * (1 - at.step / at.steps) ** schedule.decay_rate


def one_cycle(schedule: Schedule, lr: float, at: Position) -> np.ndarray:
    """Half cosines from lr / 25 up to lr, in 0.3 of the run, and down to min_lr (https://arxiv.org/abs/1708.07120)."""
    peak, last = 0.3 * at.steps - 1, at.steps - 1  # in steps; the peak may lie between two
    rising = _half_cosine(lr / 25, lr, at.step / peak)
    # MindCV goes by way of lr / 25 / min_lr, and fails on a min_lr of 0.
    falling = _half_cosine(lr, schedule.min_lr, (at.step - peak) / (last - peak))
    return np.where(at.step <= peak, rising, falling)


def cyclic(schedule: Schedule, lr: float, at: Position) -> np.ndarray:
    """`num_cycles` triangles from min_lr up to lr and back (https://arxiv.org/abs/1506.01186)."""
    # MindCV cuts half a cycle to whole steps: one cycle more begins before the run ends, and half of one step is 0.
    position = at.step * schedule.num_cycles % at.steps / at.steps
    return _linear(lr, schedule.min_lr, np.abs(2 * position - 1))


SHAPES: dict[str, Callable[[Schedule, float, Position], np.ndarray | float]] = {
    "constant": constant,
    "cosine_decay": cosine_decay,
    "exponential_decay": exponential_decay,
    "step_decay": step_decay,
    "multi_step_decay": multi_step_decay,
    "polynomial_decay": polynomial_decay,
    "one_cycle": one_cycle,
    "cyclic": cyclic,
}


def _linear(start: float, end: float, progress: np.ndarray) -> np.ndarray:
    return start + (end - start) * progress


def _half_cosine(start: np.ndarray | float, end: float, progress: np.ndarray) -> np.ndarray:
    # The cosine of complex numbers is that of the C library. NumPy's own differs from processor to processor in its
    # last bit, which 1 + cos makes a large one towards the end of a run.
    return end + (start - end) * (1 + np.cos(math.pi * progress + 0j).real) / 2
