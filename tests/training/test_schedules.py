"""Rates against numbers worked out by hand, or listed by MindCV 0.3 (`create_scheduler`) for the same settings."""

import math
import typing
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindcv_lite.recipe.keys import Schedule
from mindcv_lite.training.schedules import SHAPES, learning_rate, misfit

WITHOUT_WARMUP = ("one_cycle", "cyclic")


def schedule_of(scheduler: Any, epoch_size: int, warmup_epochs: int = 0, **keys: Any) -> Schedule:
    return Schedule(scheduler=scheduler, epoch_size=epoch_size, warmup_epochs=warmup_epochs, **keys)


def rates(schedule: Schedule, lr: float, steps_per_epoch: int) -> list[float]:
    rate = learning_rate(schedule, lr, steps_per_epoch)
    return [rate(step) for step in range(schedule.epoch_size * steps_per_epoch)]


def close(expected: list[float]) -> Any:
    return pytest.approx(expected, rel=1e-9, abs=1e-12)  # float64; MindCV's lists below are cut to 12 digits


# ------------------------------------------------------------------------------------------------------------- values


def test_there_is_a_shape_for_each_scheduler_of_the_recipe():
    assert set(SHAPES) == set(typing.get_args(typing.get_type_hints(Schedule)["scheduler"]))


def test_warm_up_is_linear_from_its_factor_to_the_peak():
    schedule = schedule_of("constant", 3, warmup_epochs=2, warmup_factor=0.2)
    assert rates(schedule, 1.0, 4) == close([0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.0, 1.0, 1.0])


def test_constant_without_warm_up_is_the_peak_throughout():
    assert rates(schedule_of("constant", 2), 0.3, 3) == [0.3] * 6


def test_cosine_falls_from_the_peak_to_one_step_before_min_lr():
    # cos(0), cos(60 degrees), cos(90), cos(120) ... of one cycle in six steps
    root = math.sqrt(3) / 4
    expected = [1.0, 0.5 + root, 0.75, 0.5, 0.25, 0.5 - root]
    assert rates(schedule_of("cosine_decay", 3, min_lr=0), 1.0, 2) == close(expected)


def test_cosine_cycles_start_at_decayed_peaks_and_stay_at_min_lr_after_the_last():
    keys = {"min_lr": 0.1, "decay_epochs": 2, "num_cycles": 2, "cycle_decay": 0.5}
    first, second = [0.8, 0.697487373415, 0.45, 0.202512626585], [0.4, 0.356066017178, 0.25, 0.143933982822]
    expected = [0.0, 0.4, *first, *second, 0.1, 0.1]  # MindCV, its sixth epoch beyond both cycles
    assert rates(schedule_of("cosine_decay", 6, warmup_epochs=1, **keys), 0.8, 2) == close(expected)


@pytest.mark.parametrize(("epochs", "cycles", "starts"), [(4, 2, [0, 12]), (4, 3, [0, 8, 16]), (1, 2, [0, 3])])
def test_cosine_without_decay_epochs_fits_all_cycles_into_the_run(epochs, cycles, starts):
    cycle = rates(schedule_of("cosine_decay", epochs, min_lr=0, num_cycles=cycles), 1.0, 6)
    assert [step for step, rate in enumerate(cycle) if rate == 1.0] == starts
    assert cycle == close(cycle[: starts[1]] * cycles)


def test_a_cosine_cycle_whose_peak_decayed_below_min_lr_stays_at_min_lr():
    schedule = schedule_of("cosine_decay", 4, min_lr=0.3, num_cycles=2, cycle_decay=0.1)
    assert rates(schedule, 1.0, 2)[4:] == close([0.3] * 4)


def test_exponential_decays_by_its_rate_over_an_epoch():
    schedule = schedule_of("exponential_decay", 3, warmup_epochs=1, decay_rate=0.25)
    assert rates(schedule, 0.8, 2) == close([0.0, 0.4, 0.8, 0.4, 0.2, 0.1])


def test_step_decay_steps_every_decay_epochs_after_the_warm_up():
    schedule = schedule_of("step_decay", 6, warmup_epochs=1, decay_epochs=2, decay_rate=0.1)
    expected = [0.0, 0.4, 0.8, 0.8, 0.8, 0.8, 0.08, 0.08, 0.08, 0.08, 0.008, 0.008]
    assert rates(schedule, 0.8, 2) == close(expected)


def test_step_decay_without_decay_epochs_never_steps():
    assert rates(schedule_of("step_decay", 50), 0.8, 2) == [0.8] * 100


def test_multi_step_decay_counts_its_milestones_from_the_end_of_the_warm_up():
    schedule = schedule_of("multi_step_decay", 5, warmup_epochs=1, decay_rate=0.1, multi_step_decay_milestones=(1, 3))
    expected = [0.0, 0.4, 0.8, 0.8, 0.08, 0.08, 0.08, 0.08, 0.008, 0.008]
    assert rates(schedule, 0.8, 2) == close(expected)


def test_polynomial_decays_towards_zero_with_decay_rate_as_power():
    schedule = schedule_of("polynomial_decay", 3, warmup_epochs=1, warmup_factor=0.5, decay_rate=2.0)
    assert rates(schedule, 0.8, 2) == close([0.4, 0.6, 0.8, 0.8 * 9 / 16, 0.8 / 4, 0.8 / 16])


def test_one_cycle_rises_from_a_25th_to_the_peak_and_falls_to_min_lr():
    expected = [0.04, 0.52, 1.0, 0.950979589612, 0.81362745192, 0.615147862308]
    expected += [0.394852137692, 0.19637254808, 0.0590204103883, 0.01]  # MindCV
    assert rates(schedule_of("one_cycle", 5, min_lr=0.01), 1.0, 2) == close(expected)


def test_one_cycle_ends_at_a_min_lr_of_zero():
    assert rates(schedule_of("one_cycle", 5, min_lr=0.0), 1.0, 2)[-1] == 0


def test_cyclic_goes_up_and_down_num_cycles_times():
    expected = [0.1, 0.3, 0.5, 0.3, 0.1, 0.3, 0.5, 0.3]
    assert rates(schedule_of("cyclic", 4, min_lr=0.1, num_cycles=2), 0.5, 2) == close(expected)


def test_cyclic_starts_no_extra_cycle_where_the_steps_do_not_divide():
    expected = [0.0, 0.4, 0.8, 0.8, 0.4]  # MindCV: 0, 0.5, 1, 0.5 and, in a second cycle, 0
    assert rates(schedule_of("cyclic", 5, min_lr=0.0), 1.0, 1) == close(expected)


def test_a_staircase_keeps_the_rate_of_the_first_step_of_each_epoch():
    schedule = schedule_of("exponential_decay", 4, warmup_epochs=2, decay_rate=0.25, lr_epoch_stair=True)
    assert rates(schedule, 0.8, 2) == close([0.0, 0.0, 0.4, 0.4, 0.8, 0.8, 0.2, 0.2])


# ---------------------------------------------------------------------------------------------------- published recipe

PUBLISHED: dict[str, Any] = {"scheduler": "cosine_decay", "warmup_epochs": 4, "min_lr": 0.0}  # mobilenet_v3_small_100
STEPS_PER_EPOCH = 2135


def test_the_published_recipe_gives_the_published_rates():
    rate = learning_rate(Schedule(epoch_size=470, **PUBLISHED), 0.77, STEPS_PER_EPOCH)
    warmup = 4 * STEPS_PER_EPOCH
    assert rate(0) == 0
    assert rate(1) == pytest.approx(0.77 / 8540)
    assert rate(warmup - 1) == pytest.approx(0.77 * 8539 / 8540)
    assert rate(warmup) == 0.77
    assert rate(warmup + 233 * STEPS_PER_EPOCH) == pytest.approx(0.77 / 2)
    # One step before pi, (1 + cos) / 2 is a quarter of the step's square; 1 + cos cancels all but five digits.
    assert rate(470 * STEPS_PER_EPOCH - 1) == pytest.approx(0.77 / 4 * (math.pi / (466 * 2135)) ** 2, rel=1e-4)


def test_leaving_decay_epochs_out_equals_the_published_466():
    explicit = learning_rate(Schedule(epoch_size=470, decay_epochs=466, **PUBLISHED), 0.77, STEPS_PER_EPOCH)
    left_out = learning_rate(Schedule(epoch_size=470, **PUBLISHED), 0.77, STEPS_PER_EPOCH)
    steps = range(0, 470 * STEPS_PER_EPOCH, 997)
    assert [left_out(step) for step in steps] == close([explicit(step) for step in steps])


def test_the_published_recipe_cut_to_20_epochs_still_ends_near_min_lr():
    short = Schedule(epoch_size=20, **PUBLISHED)
    assert learning_rate(short, 0.77, STEPS_PER_EPOCH)(20 * STEPS_PER_EPOCH - 1) < 1e-8
    assert misfit(short, 0.77, STEPS_PER_EPOCH) is None


# --------------------------------------------------------------------------------------------------------- properties


@st.composite
def runs(draw: st.DrawFn) -> tuple[Schedule, float, int]:
    """A schedule that a recipe may hold, with its peak and steps per epoch; no factor above 1."""
    scheduler: Any = draw(st.sampled_from(sorted(SHAPES)))
    lr = draw(st.floats(1e-6, 10))
    composes = scheduler not in WITHOUT_WARMUP
    schedule = Schedule(
        scheduler=scheduler,
        epoch_size=draw(st.integers(1, 12)),
        warmup_epochs=draw(st.integers(0, 14)) if composes else 0,
        warmup_factor=draw(st.floats(0, 1)),
        min_lr=lr * draw(st.floats(0, 1)),
        decay_epochs=draw(st.none() | st.integers(1, 15)),
        decay_rate=draw(st.floats(0.01, 1)),
        multi_step_decay_milestones=tuple(sorted(draw(st.sets(st.integers(1, 15), min_size=1)))),
        lr_epoch_stair=draw(st.booleans()) if composes else False,
        num_cycles=draw(st.integers(1, 5)),
        cycle_decay=draw(st.floats(0.01, 1)),
    )
    return schedule, lr, draw(st.integers(1, 9))


@settings(deadline=None)
@given(runs())
def test_every_rate_is_finite_and_between_zero_and_the_peak(run):
    _, lr, _ = run
    assert all(0 <= rate <= lr * (1 + 1e-15) for rate in rates(*run))  # one rounding of float64; nan fails too


@settings(deadline=None)
@given(runs())
def test_the_rates_of_many_updates_at_once_are_those_of_each(run):
    schedule, _, steps_per_epoch = run
    many = learning_rate(*run)(np.arange(schedule.epoch_size * steps_per_epoch))
    assert many.tolist() == rates(*run)


@settings(deadline=None)
@given(runs())
def test_a_staircase_is_the_per_step_rate_at_the_first_step_of_the_epoch(run):
    schedule, lr, steps_per_epoch = run
    stairs = rates(replace(schedule, lr_epoch_stair=True), lr, steps_per_epoch)
    smooth = rates(replace(schedule, lr_epoch_stair=False), lr, steps_per_epoch)
    assert stairs == [rate for rate in smooth[::steps_per_epoch] for _ in range(steps_per_epoch)]


# ------------------------------------------------------------------------------------------------------------- misfits


@pytest.mark.parametrize("scheduler", sorted(SHAPES))
def test_a_run_no_longer_than_its_warm_up_is_all_warm_up(scheduler):
    schedule = schedule_of(scheduler, 2, warmup_epochs=4)
    assert rates(schedule, 0.8, 2) == close([0.0, 0.1, 0.2, 0.3])
    expected = f"{scheduler}: all 2 epochs of the run are within the 4 of warm-up; the last learning rate is 0.3; "
    assert misfit(schedule, 0.8, 2) == expected + "set warmup_epochs below 2, or raise epoch_size"
    assert "all 4 epochs of the run are within" in str(misfit(replace(schedule, epoch_size=4), 0.8, 2))


@pytest.mark.parametrize("scheduler", sorted(SHAPES))
def test_a_schedule_that_fills_its_run_is_no_misfit(scheduler):
    decay_epochs = 30 if scheduler == "step_decay" else None
    schedule = schedule_of(scheduler, 100, decay_epochs=decay_epochs)
    assert misfit(schedule, 0.8, 2) is None


def test_a_cosine_longer_than_the_run_is_a_misfit_that_names_the_last_rate():
    schedule = schedule_of("cosine_decay", 4, warmup_epochs=1, decay_epochs=6, min_lr=0.0)
    expected = "cosine_decay: warm-up and decay take 1 + 1 x 6 epochs, the run has 4; the last learning rate is "
    advice = "leave out decay_epochs (--decay_epochs None) to fit the decay to the run"
    assert misfit(schedule, 0.8, 1) == f"{expected}{0.8 * 0.75:.4g}; {advice}"  # 2 of 6 epochs: cos(60 degrees)


@pytest.mark.parametrize(
    ("keys", "last"),
    [
        ({"scheduler": "cosine_decay", "decay_epochs": 10, "min_lr": 0.125}, "0.125"),  # 14 of 24 epochs
        ({"scheduler": "cosine_decay", "decay_epochs": 10, "num_cycles": 3, "min_lr": 0.125}, "0.125"),  # 34 of 24
        ({"scheduler": "step_decay"}, "0.5"),
        ({"scheduler": "step_decay", "decay_epochs": 20}, "0.5"),
        ({"scheduler": "multi_step_decay", "multi_step_decay_milestones": (10, 20), "decay_rate": 0.5}, "0.25"),
    ],
)
def test_decay_that_does_not_end_with_the_run_is_a_misfit(keys, last):
    warning = misfit(schedule_of(epoch_size=24, warmup_epochs=4, **keys), 0.5, 100)
    assert f"; the last learning rate is {last}; " in str(warning)


@pytest.mark.parametrize("scheduler", ["cosine_decay", "one_cycle", "cyclic"])
def test_min_lr_above_the_scaled_peak_is_a_misfit(scheduler):
    assert "min_lr 0.01 is above the peak, 0.001" in str(misfit(schedule_of(scheduler, 5, min_lr=0.01), 0.001, 10))
