"""The train step against its formulas in NumPy, with one dense layer standing for the network."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mindspore import Tensor, amp, nn, ops
from scipy.special import expit, log_softmax, softmax

from mindcv_lite.errors import UserError
from mindcv_lite.models.build import training_network
from mindcv_lite.recipe.keys import Recipe
from mindcv_lite.training.optimizers import RateTable, build_optimizer
from mindcv_lite.training.train_step import Clip, DynamicLossScaler, TrainStep
from tests.training.networks import BIAS, CLASSES, IMAGES, LABELS, RANDOM, SIDE, WEIGHT, WEIGHTS, Dense

pytestmark = pytest.mark.usefixtures("graph_mode")

RATES = (1e-3, 3e-3, 1e-2, 3e-2)


@pytest.fixture
def step_of(recipe, world) -> Callable[..., TrainStep]:
    def step_of(steps_per_epoch: int = 100, cpu_kernels: Path | None = None, **keys: Any) -> TrainStep:
        given = recipe(**{"weight_decay": 0.0, "momentum": 0.9, "num_classes": CLASSES} | keys)
        network = Dense()
        optimizer = build_optimizer(
            network.trainable_params(), given, RateTable(lambda steps: np.array(RATES)[steps], len(RATES)), "CPU"
        )
        step = TrainStep(network, optimizer, given, replace(world(given), cpu_kernels=cpu_kernels), steps_per_epoch)
        step.set_train()
        return step

    return step_of


@pytest.fixture(params=["MindSpore's kernels", "CPU kernels"])
def cpu_kernels(request) -> Path | None:
    return request.getfixturevalue("operators") if request.param == "CPU kernels" else None


def run(
    step: TrainStep, weights: np.ndarray = WEIGHTS, images: np.ndarray = IMAGES, labels: np.ndarray = LABELS
) -> float:
    return float(step(Tensor(images), Tensor(labels), Tensor(weights)).asnumpy())


def weights_of(step: TrainStep) -> list[np.ndarray]:
    return [parameter.asnumpy().copy() for parameter in step.network.get_parameters()]


def state_of(step: TrainStep) -> list[np.ndarray]:
    """Weights, moments and the optimizer's own count of updates."""
    return [parameter.asnumpy().copy() for parameter in step.optimizer.get_parameters()]


def loss_and_gradients(
    recipe: Recipe,
    weight: np.ndarray,
    bias: np.ndarray,
    weights: np.ndarray = WEIGHTS,
    images: np.ndarray = IMAGES,
    labels: np.ndarray = LABELS,
) -> tuple[float, np.ndarray, np.ndarray]:
    """In float64, by hand: no automatic differentiation."""
    mean, std, smoothing = recipe.augmentation.mean, recipe.augmentation.std, recipe.loss.label_smoothing
    x = ((images - np.array(mean)) / np.array(std)).transpose(0, 3, 1, 2).reshape(len(images), -1)
    logits = x @ weight.astype(np.float64).T + bias
    targets = (1 - smoothing) * np.eye(CLASSES)[labels] + smoothing / CLASSES
    if recipe.loss.loss == "CE":
        losses, slopes = -(targets * log_softmax(logits, 1)).sum(1), softmax(logits, 1) - targets
    else:
        p = expit(logits)
        losses = -(targets * np.log(p) + (1 - targets) * np.log(1 - p)).mean(1)
        slopes = (p - targets) / CLASSES
    slopes = slopes * weights[:, None] / len(weights)
    return float((losses * weights).mean()), slopes.T @ x, slopes.sum(0)


@pytest.mark.parametrize(
    ("keys", "weights"),
    [
        ({}, WEIGHTS),
        ({"loss": "CE", "label_smoothing": 0.1}, WEIGHTS),
        ({"loss": "BCE", "label_smoothing": 0.1}, WEIGHTS),
        ({"mean": "[10, 20, 30]", "std": "[100, 50, 200]"}, np.array([4 / 3, 0, 4 / 3, 4 / 3], np.float32)),
        ({"weight_decay": 0.1, "weight_decay_filter": "norm_and_bias"}, WEIGHTS),
    ],
)
def test_loss_and_two_updates_equal_those_worked_out_by_hand(step_of, recipe, keys, weights):
    step, given = step_of(**keys), recipe(**keys)
    weight, bias, v_weight, v_bias = WEIGHT.astype(np.float64), BIAS.astype(np.float64), 0.0, 0.0
    for rate in RATES[:2]:
        expected, g_weight, g_bias = loss_and_gradients(given, weight, bias, weights)
        assert run(step, weights) == pytest.approx(expected, rel=1e-5)
        v_weight = 0.9 * v_weight + g_weight + keys.get("weight_decay", 0.0) * weight
        v_bias = 0.9 * v_bias + g_bias
        weight, bias = weight - rate * v_weight, bias - rate * v_bias
        for ours, theirs in zip(weights_of(step), (weight, bias), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


def test_images_of_weight_zero_teach_nothing(step_of):
    step = step_of()
    assert run(step, 0 * WEIGHTS) == 0
    assert np.array_equal(weights_of(step)[0], WEIGHT)


def test_a_fixed_loss_scale_of_1024_gives_the_same_bits_as_none(step_of):
    plain, scaled = step_of(), step_of(loss_scale=1024)
    losses = [[run(step) for _ in range(3)] for step in (plain, scaled)]
    assert losses[0] == losses[1]  # and none is multiplied by the scale
    for ours, theirs in zip(state_of(plain), state_of(scaled), strict=True):
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("loss_scale_type", ["fixed", "dynamic"])
def test_a_loss_scale_below_one_is_refused_by_the_recipe(recipe, loss_scale_type):
    with pytest.raises(UserError, match="loss_scale"):
        recipe(loss_scale=0.5, loss_scale_type=loss_scale_type)


# ---------------------------------------------------------------------------------------------------------- overflow

# With std 0.01 the inputs are about 1e4 and so are the gradients: times 1e38 they are beyond float32 (3.4e38).
OVERFLOW = {"std": "[0.01, 0.01, 0.01]", "loss_scale": 2.0**120}


def overflow_until_update(step: TrainStep) -> int:
    """The number of steps that were skipped before the first update."""
    skipped = 0
    while step.optimizer.global_step.asnumpy() == 0:
        run(step)
        skipped += 1
        assert skipped < 60
    return skipped - 1


def test_a_dynamic_scale_halves_and_skips_until_the_gradients_fit(step_of, recipe):
    step = step_of(loss_scale_type="dynamic", **OVERFLOW)
    before, scales, losses = state_of(step), [], []
    for skipped in range(1, 4):
        losses.append(run(step))
        scales.append(float(step.scaler.scale_value.asnumpy()))
        assert int(step.skipped.asnumpy()) == skipped
        for ours, theirs in zip(state_of(step), before, strict=True):
            assert np.array_equal(ours, theirs)
    assert scales == [2.0**119, 2.0**118, 2.0**117]
    expected, *gradients = loss_and_gradients(recipe(**OVERFLOW), WEIGHT, BIAS, WEIGHTS)
    assert losses == pytest.approx([expected] * 3, rel=1e-4)  # the loss itself is finite and not scaled
    assert int(step.broken_step.asnumpy()) == -1

    skipped = 3 + overflow_until_update(step)
    assert int(step.skipped.asnumpy()) == skipped
    scale = float(step.scaler.scale_value.asnumpy())
    assert scale == 2.0 ** (120 - skipped)
    largest = max(np.abs(gradient).max() for gradient in gradients)
    # The largest scale that fits; sums within the gradient may overflow up to a factor of 16 earlier.
    assert 2.0**128 / 32 < largest * scale < 2.0**128
    # However many were skipped, the first update is made with the first rate.
    for ours, start, gradient in zip(weights_of(step), (WEIGHT, BIAS), gradients, strict=True):
        np.testing.assert_allclose(ours, start - RATES[0] * gradient, rtol=1e-4, atol=1e-5)


def test_skips_between_updates_do_not_advance_the_rate(step_of, recipe):
    keys = OVERFLOW | {"momentum": 0.0, "loss_scale_type": "dynamic", "loss_scale": 1024}
    step = step_of(**keys)
    run(step)
    assert int(step.skipped.asnumpy()) == 0
    for parameter, value in zip(step.network.get_parameters(), (WEIGHT, BIAS), strict=True):
        parameter.set_data(Tensor(value))
    step.scaler.scale_value.set_data(Tensor(OVERFLOW["loss_scale"], step.scaler.scale_value.dtype))
    while int(step.optimizer.global_step.asnumpy()[0]) == 1:
        run(step)
    assert int(step.skipped.asnumpy()) > 3
    _, *gradients = loss_and_gradients(recipe(**keys), WEIGHT, BIAS, WEIGHTS)
    for ours, start, gradient in zip(weights_of(step), (WEIGHT, BIAS), gradients, strict=True):
        np.testing.assert_allclose(ours, start - RATES[1] * gradient, rtol=1e-4, atol=1e-5)


def test_the_dynamic_scale_and_its_counter_move_as_mindspores():
    class Both(nn.Cell):
        def __init__(self):
            super().__init__()
            self.ours, self.theirs = (kind(4.0, 2, 3) for kind in (DynamicLossScaler, amp.DynamicLossScaler))

        def construct(self, finite: Tensor) -> Tensor:
            self.theirs.adjust(finite)
            return ops.depend(finite, self.ours.adjust(finite))

    both = Both()
    for scaler, name in ((both.ours, "ours"), (both.theirs, "theirs")):
        scaler.scale_value.name, scaler.counter.name = f"{name}.scale_value", f"{name}.counter"
    scales = []
    for finite in "fff tttt f tttttt ttf f tt".replace(" ", ""):
        both(Tensor(finite == "t"))
        found, expected = ((s.scale_value.asnumpy(), s.counter.asnumpy()) for s in (both.ours, both.theirs))
        assert found == expected
        scales.append(float(found[0]))
    assert (min(scales), max(scales)) == (1, 4)  # it halves down to 1, and doubles after three without an overflow


def test_drop_overflow_update_skips_with_a_fixed_scale_and_keeps_it(step_of):
    step = step_of(drop_overflow_update=True, **OVERFLOW)
    before = state_of(step)
    for _ in range(2):
        run(step)
    assert int(step.skipped.asnumpy()) == 2
    assert float(step.scaler.scale_value.asnumpy()) == 2.0**120
    for ours, theirs in zip(state_of(step), before, strict=True):
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("keys", [{"drop_overflow_update": True}, {"loss_scale_type": "dynamic"}])
def test_without_overflow_nothing_is_skipped(step_of, keys):
    step, plain = step_of(loss_scale=1024, **keys), step_of()
    for _ in range(2):
        assert run(step) == run(plain)
    assert int(step.skipped.asnumpy()) == 0
    for ours, theirs in zip(weights_of(step), weights_of(plain), strict=True):
        assert np.array_equal(ours, theirs)


def test_a_fixed_scale_without_drop_overflow_update_updates_all_the_same(step_of):
    step = step_of(**OVERFLOW)
    run(step)
    assert int(step.optimizer.global_step.asnumpy()[0]) == 1
    assert not np.all(np.isfinite(weights_of(step)[0]))


# ------------------------------------------------------------------------------------------------------ accumulation

SPLIT = RANDOM.integers(0, 256, (64, SIDE, SIDE, 3), np.uint8)
CLASS_OF = RANDOM.integers(0, CLASSES, 64).astype(np.int32)


def run_batch(step: TrainStep, number: int, size: int) -> float:
    """A step over the batch of that number."""
    images = slice(number * size, (number + 1) * size)
    return run(step, np.ones(size, np.float32), SPLIT[images], CLASS_OF[images])


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_two_updates_of_four_batches_of_eight_equal_those_of_one_batch_of_32(step_of, momentum):
    keys = {"momentum": momentum, "weight_decay": 0.1}
    whole, parts = step_of(**keys), step_of(gradient_accumulation_steps=4, **keys)
    losses = [run_batch(whole, number, 32) for number in range(2)]
    losses_of_parts = [run_batch(parts, number, 8) for number in range(8)]
    assert np.reshape(losses_of_parts, (2, 4)).mean(1) == pytest.approx(losses, rel=1e-5)
    assert int(parts.optimizer.global_step.asnumpy()[0]) == 2
    moved = np.abs(weights_of(whole)[0] - WEIGHT).max()
    assert moved > 5e-4
    for ours, theirs in zip(weights_of(parts), weights_of(whole), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)  # float32, summed in another order


def test_the_last_update_of_an_epoch_takes_the_mean_of_what_is_left_and_each_update_the_next_rate(step_of, recipe):
    step = step_of(steps_per_epoch=6, gradient_accumulation_steps=4, momentum=0.0)
    weight, bias = WEIGHT.astype(np.float64), BIAS.astype(np.float64)
    updates = [range(4), range(4, 6), range(6, 10), range(10, 12)]
    for rate, batches in zip(RATES, updates, strict=True):
        gradients = []
        for number in batches:
            before = weights_of(step)
            run_batch(step, number, 4)
            assert np.array_equal(weights_of(step)[0], before[0]) is (number != batches[-1])
            images = slice(4 * number, 4 * (number + 1))
            _, *gradient = loss_and_gradients(recipe(), weight, bias, WEIGHTS, SPLIT[images], CLASS_OF[images])
            gradients.append(gradient)
        weight = weight - rate * np.mean([gradient[0] for gradient in gradients], axis=0)
        bias = bias - rate * np.mean([gradient[1] for gradient in gradients], axis=0)
        for ours, theirs in zip(weights_of(step), (weight, bias), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)
    assert int(step.optimizer.global_step.asnumpy()[0]) == len(updates)
    assert int(step.step.asnumpy()) == 12


def test_an_overflow_in_one_batch_skips_the_whole_update_and_the_next_is_made_without_it(step_of, recipe):
    step = step_of(gradient_accumulation_steps=2, momentum=0.0, loss_scale_type="dynamic", loss_scale=1024)
    overflowing = np.array([1e38, 1, 1, 1], np.float32)  # a weight: the gradient times 1024 is beyond float32
    for weights in (overflowing, WEIGHTS):
        run(step, weights)
    assert int(step.skipped.asnumpy()) == 1
    assert np.array_equal(weights_of(step)[0], WEIGHT)
    for _ in range(2):
        run(step)
    assert int(step.skipped.asnumpy()) == 1
    _, *gradients = loss_and_gradients(recipe(), WEIGHT, BIAS)
    for ours, start, gradient in zip(weights_of(step), (WEIGHT, BIAS), gradients, strict=True):
        np.testing.assert_allclose(ours, start - RATES[0] * gradient, rtol=0, atol=1e-6)


# ------------------------------------------------------------------------------------------------------------ average


def averages_of(step: TrainStep) -> list[np.ndarray]:
    assert step.average
    return [average.asnumpy().copy() for average in step.average.of().values()]


def averaged(history: list[np.ndarray], ema_decay: float) -> np.ndarray:
    """Of weights at the start and after each update: the share of each in the average, worked out at once."""
    decays = [min(ema_decay, (1 + n) / (10 + n)) for n in range(1, len(history))]
    shares = [np.prod(decays)]
    shares += [(1 - decay) * np.prod(decays[index + 1 :]) for index, decay in enumerate(decays)]
    assert np.sum(shares) == pytest.approx(1)
    return np.tensordot(shares, np.array(history, np.float64), 1)


@pytest.mark.parametrize(("ema_decay", "accumulated"), [(0.9999, 1), (0.2, 2)])  # 0.2 is the lesser from n = 2 on
def test_the_average_after_n_updates_is_its_closed_form(step_of, cpu_kernels, ema_decay, accumulated):
    step = step_of(cpu_kernels=cpu_kernels, ema=True, ema_decay=ema_decay, gradient_accumulation_steps=accumulated)
    history = [weights_of(step)]
    for _ in range(4):
        for number in range(accumulated):
            before = averages_of(step)
            run(step)
            moved = not np.array_equal(averages_of(step)[0], before[0])
            assert moved is (number == accumulated - 1)  # once an update, not once a step
        history.append(weights_of(step))
    assert np.abs(history[-1][0] - WEIGHT).max() > 1e-2
    for index, average in enumerate(averages_of(step)):
        expected = averaged([weights[index] for weights in history], ema_decay)
        np.testing.assert_allclose(average, expected, rtol=0, atol=1e-6)


def test_the_average_of_weights_that_do_not_move_is_the_same_bits(step_of, cpu_kernels):
    step = step_of(cpu_kernels=cpu_kernels, ema=True)
    for _ in range(5):
        run(step, 0 * WEIGHTS)
    assert int(step.optimizer.global_step.asnumpy()[0]) == 5
    for average, start in zip(averages_of(step), (WEIGHT, BIAS), strict=True):
        assert np.array_equal(average, start)


def test_skipped_updates_do_not_move_the_average_nor_count_in_its_decay(step_of, cpu_kernels):
    keys = OVERFLOW | {"loss_scale": 1024, "loss_scale_type": "dynamic"}
    step = step_of(cpu_kernels=cpu_kernels, ema=True, **keys)
    history = [weights_of(step)]
    run(step)
    history.append(weights_of(step))
    for parameter, value in zip(step.network.get_parameters(), (WEIGHT, BIAS), strict=True):
        parameter.set_data(Tensor(value))  # the update went so far that the next gradients would be small
    before = averages_of(step)
    assert not np.array_equal(before[0], WEIGHT)  # so that another move would show
    step.scaler.scale_value.set_data(Tensor(OVERFLOW["loss_scale"], step.scaler.scale_value.dtype))
    while int(step.optimizer.global_step.asnumpy()[0]) == 1:
        for average, expected in zip(averages_of(step), before, strict=True):
            assert np.array_equal(average, expected)
        run(step)
    assert int(step.skipped.asnumpy()) > 3
    history.append(weights_of(step))
    for index, average in enumerate(averages_of(step)):
        expected = averaged([weights[index] for weights in history], 0.9999)
        np.testing.assert_allclose(average, expected, rtol=1e-5, atol=1e-6)  # weights of about 100


def test_the_average_of_a_network_is_that_of_its_weights_after_each_update_and_of_its_statistics(
    recipe, world, operators, three_rows
):
    given = recipe(num_classes=CLASSES, ema=True, opt="adamw")
    alone = replace(world(given), cpu_kernels=operators)
    network = training_network(given.model, alone)
    rates = RateTable(lambda updates: np.full(len(updates), 0.1), 4)
    optimizer = build_optimizer(network.trainable_params(), given, rates, "CPU")
    step = TrainStep(network, optimizer, given, alone, 100)
    step.set_train()
    history = [weights_of(step)]
    for _ in range(4):
        run(step, images=RANDOM.integers(0, 256, (4, 32, 32, 3), np.uint8))
        history.append(weights_of(step))
    for index, average in enumerate(averages_of(step)):
        expected = averaged([weights[index] for weights in history], 0.9999)
        np.testing.assert_allclose(average, expected, rtol=1e-5, atol=1e-5)


def test_averages_have_names_that_no_weight_has(step_of):
    step = step_of(ema=True, gradient_accumulation_steps=2)
    names = [parameter.name for parameter in step.get_parameters()]
    assert len(names) == len(set(names))
    assert step.average
    assert list(step.average.of()) == ["dense.weight", "dense.bias"]
    assert not any(average.requires_grad for average in step.average.of().values())


# ----------------------------------------------------------------------------------------------------------- clipping

GRADIENTS = (RANDOM.normal(size=(3, 4)).astype(np.float32), RANDOM.normal(size=5).astype(np.float32))
NORM = float(np.sqrt(sum((gradient.astype(np.float64) ** 2).sum() for gradient in GRADIENTS)))


def clipped(largest_norm: float, gradients: tuple[np.ndarray, ...]) -> list[np.ndarray]:
    return [each.asnumpy() for each in Clip(largest_norm)(tuple(Tensor(gradient) for gradient in gradients))]


@pytest.mark.parametrize("share", [0.9, 0.01])
def test_gradients_above_the_norm_are_scaled_to_it_together(share):
    ours = clipped(share * NORM, GRADIENTS)
    for each, gradient in zip(ours, GRADIENTS, strict=True):
        np.testing.assert_allclose(each, share * gradient, rtol=1e-6)
    assert np.linalg.norm(np.concatenate([each.ravel() for each in ours])) == pytest.approx(share * NORM, rel=1e-6)


@pytest.mark.parametrize("largest_norm", [1.001 * NORM, 100.0])
def test_gradients_below_the_norm_are_untouched_to_the_bit(largest_norm):
    for each, gradient in zip(clipped(largest_norm, GRADIENTS), GRADIENTS, strict=True):
        assert np.array_equal(each, gradient)


def test_gradients_of_zero_stay_zero():
    assert not np.any(clipped(1.0, (np.zeros(3, np.float32),)))


def test_a_step_clips_the_mean_of_its_batches(step_of, recipe):
    step = step_of(clip_grad=True, clip_value=0.1, gradient_accumulation_steps=2, momentum=0.0)
    weight, bias = WEIGHT.astype(np.float64), BIAS.astype(np.float64)
    gradients = []
    for number in range(2):
        images = slice(4 * number, 4 * (number + 1))
        gradients.append(loss_and_gradients(recipe(), weight, bias, WEIGHTS, SPLIT[images], CLASS_OF[images])[1:])
        run_batch(step, number, 4)
    g_weight, g_bias = (np.mean(pair, axis=0) for pair in zip(*gradients, strict=True))
    norm = np.sqrt((g_weight**2).sum() + (g_bias**2).sum())
    assert norm > 0.2
    for ours, start, gradient in zip(weights_of(step), (WEIGHT, BIAS), (g_weight, g_bias), strict=True):
        # RATES[0] * 0.1 is the norm of the move: its rounding in weights of about 1 is 6e-8.
        np.testing.assert_allclose(ours - start, -RATES[0] * 0.1 / norm * gradient, rtol=0, atol=2e-7)


@pytest.mark.parametrize("keys", [{}, {"loss_scale_type": "dynamic", "gradient_accumulation_steps": 2}])
def test_clipping_sees_gradients_without_the_loss_scale(step_of, keys):
    plain, scaled = (step_of(clip_grad=True, clip_value=0.1, loss_scale=scale, **keys) for scale in (1, 1024))
    for step in (plain, scaled):
        for _ in range(4):
            run(step)
    for ours, theirs in zip(state_of(plain), state_of(scaled), strict=True):
        assert np.array_equal(ours, theirs)
    assert not np.array_equal(weights_of(plain)[0], WEIGHT)


# ---------------------------------------------------------------------------------------------------------- counters


def test_loss_sum_adds_up_the_losses_of_the_running_epoch(step_of):
    step = step_of(steps_per_epoch=3)
    losses = [run(step) for _ in range(7)]
    assert float(step.loss_sum.asnumpy()) == pytest.approx(losses[6])  # the third epoch has begun
    losses += [run(step) for _ in range(2)]
    assert float(step.loss_sum.asnumpy()) == pytest.approx(sum(losses[6:9]), rel=1e-6)  # and holds until the next
    assert int(step.step.asnumpy()) == 9
    assert int(step.broken_step.asnumpy()) == -1


@pytest.mark.parametrize("poison", [np.nan, np.inf])
@pytest.mark.parametrize("keys", [{}, {"loss_scale_type": "dynamic"}])
def test_broken_step_is_the_first_step_whose_loss_was_not_finite(step_of, poison, keys):
    step = step_of(**keys)
    for _ in range(2):
        run(step)
    assert int(step.broken_step.asnumpy()) == -1
    bias = step.network.dense.bias
    good = bias.asnumpy().copy()
    bias.set_data(Tensor(np.full(CLASSES, poison, np.float32)))
    assert not np.isfinite(run(step))
    assert int(step.broken_step.asnumpy()) == 2
    run(step)
    assert int(step.broken_step.asnumpy()) == 2
    for parameter, value in zip((step.network.dense.weight, bias), (WEIGHT, good), strict=True):
        parameter.set_data(Tensor(value))
    for moments in step.optimizer.moments:
        moments.set_data(Tensor(np.zeros(moments.shape, np.float32)))
    assert np.isfinite(run(step))
    assert int(step.broken_step.asnumpy()) == 2  # it stays: the host may look much later
    assert int(step.step.asnumpy()) == 5


def test_counters_are_no_weights(step_of):
    step = step_of()
    names = [parameter.name for parameter in step.get_parameters()]
    assert len(names) == len(set(names))
    assert {parameter.name for parameter in step.network.get_parameters()} == {"dense.weight", "dense.bias"}
    assert not any(parameter.requires_grad for parameter in (step.loss_sum, step.step, step.skipped, step.broken_step))
