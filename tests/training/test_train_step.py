"""The train step against its formulas in NumPy, with one dense layer standing for the network."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from mindspore import Tensor, nn
from scipy.special import expit, log_softmax, softmax

from mindcv_lite.errors import UserError
from mindcv_lite.recipe import Recipe
from mindcv_lite.training.optimizers import RateTable, build_optimizer
from mindcv_lite.training.train_step import TrainStep

pytestmark = pytest.mark.usefixtures("graph_mode")

CLASSES, SIDE = 5, 2
RATES = (1e-3, 3e-3, 1e-2, 3e-2)
RANDOM = np.random.default_rng(0)
WEIGHT = RANDOM.normal(0, 0.3, (CLASSES, 3 * SIDE * SIDE)).astype(np.float32)
BIAS = RANDOM.normal(0, 0.3, CLASSES).astype(np.float32)
IMAGES = RANDOM.integers(0, 256, (4, SIDE, SIDE, 3), np.uint8)
LABELS = np.array([0, 4, 2, 2], np.int32)
WEIGHTS = np.array([1.0, 1.0, 1.0, 1.0], np.float32)


class Layer(nn.Cell):
    """Logits of an image by one dense layer."""

    def __init__(self):
        super().__init__()
        self.dense = nn.Dense(WEIGHT.shape[1], CLASSES, Tensor(WEIGHT), Tensor(BIAS))

    def construct(self, x: Tensor) -> Tensor:
        return self.dense(x.reshape(x.shape[0], -1))


@pytest.fixture
def step_of(recipe, world) -> Callable[..., TrainStep]:
    def step_of(steps_per_epoch: int = 100, **keys: Any) -> TrainStep:
        given = recipe(**{"weight_decay": 0.0, "momentum": 0.9} | keys)
        network = Layer()
        optimizer = build_optimizer(
            network.trainable_params(), given.optimizer, RateTable(lambda step: RATES[step], len(RATES)), "CPU"
        )
        step = TrainStep(network, optimizer, given, world(given), steps_per_epoch)
        step.set_train()
        return step

    return step_of


def run(step: TrainStep, weights: np.ndarray = WEIGHTS) -> float:
    return float(step(Tensor(IMAGES), Tensor(LABELS), Tensor(weights)).asnumpy())


def weights_of(step: TrainStep) -> list[np.ndarray]:
    return [parameter.asnumpy().copy() for parameter in step.network.get_parameters()]


def state_of(step: TrainStep) -> list[np.ndarray]:
    """Weights, moments and the optimizer's own count of updates."""
    return [parameter.asnumpy().copy() for parameter in step.optimizer.get_parameters()]


def loss_and_gradients(
    recipe: Recipe, weight: np.ndarray, bias: np.ndarray, weights: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """In float64, by hand: no automatic differentiation."""
    mean, std, smoothing = recipe.augmentation.mean, recipe.augmentation.std, recipe.loss.label_smoothing
    x = ((IMAGES - np.array(mean)) / np.array(std)).transpose(0, 3, 1, 2).reshape(len(IMAGES), -1)
    logits = x @ weight.astype(np.float64).T + bias
    targets = (1 - smoothing) * np.eye(CLASSES)[LABELS] + smoothing / CLASSES
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


def test_photos_of_weight_zero_teach_nothing(step_of):
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
