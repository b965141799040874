"""Losses of each image against SciPy in float64."""

import typing

import numpy as np
import pytest
from mindspore import Tensor, ops
from scipy.special import expit, log_softmax, softmax

from mindcv_lite.losses import LOSSES, binary_cross_entropy, cross_entropy, soft_targets
from mindcv_lite.recipe.keys import Loss

pytestmark = pytest.mark.usefixtures("pynative_mode")

CLASSES = 7
LABELS = np.array([0, 6, 3, 3, 1], np.int32)
LOGITS = np.random.default_rng(0).normal(0, 4, (5, CLASSES)).astype(np.float32)


def smoothed(label_smoothing: float) -> np.ndarray:
    """Of the target, a share is spread evenly over all classes, the right one among them."""
    return (1 - label_smoothing) * np.eye(CLASSES)[LABELS] + label_smoothing / CLASSES


def targets_of(label_smoothing: float) -> Tensor:
    return soft_targets(Tensor(LABELS), CLASSES, label_smoothing)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 0.9])
def test_targets_are_one_hot_with_a_share_spread_over_all_classes(label_smoothing):
    targets = targets_of(label_smoothing).asnumpy()
    assert targets.dtype == np.float32
    np.testing.assert_allclose(targets, smoothed(label_smoothing), rtol=0, atol=1e-7)
    np.testing.assert_allclose(targets.sum(1), 1, atol=1e-6)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 0.9])
def test_cross_entropy_is_that_of_the_softmax(label_smoothing):
    losses = cross_entropy(Tensor(LOGITS), targets_of(label_smoothing)).asnumpy()
    assert losses.shape == (5,)
    expected = -(smoothed(label_smoothing) * log_softmax(LOGITS.astype(np.float64), 1)).sum(1)
    np.testing.assert_allclose(losses, expected, rtol=2e-6)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 0.9])
def test_binary_cross_entropy_is_that_of_each_classs_sigmoid_averaged_over_the_classes(label_smoothing):
    losses = binary_cross_entropy(Tensor(LOGITS), targets_of(label_smoothing)).asnumpy()
    assert losses.shape == (5,)
    right, wrong = expit(LOGITS.astype(np.float64)), expit(-LOGITS.astype(np.float64))
    targets = smoothed(label_smoothing)
    expected = -(targets * np.log(right) + (1 - targets) * np.log(wrong)).mean(1)
    np.testing.assert_allclose(losses, expected, rtol=2e-6)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_huge_logits_give_the_exact_finite_loss(label_smoothing):
    logits = np.zeros((5, CLASSES), np.float32)
    logits[:, 3], logits[:, 0] = 3e4, -3e4  # exp(89) is beyond float32
    targets = smoothed(label_smoothing)
    expected = {
        cross_entropy: (targets * (3e4 - logits)).sum(1),
        # Each class costs max(x, 0) - x t, and the five at 0 cost log 2.
        binary_cross_entropy: (np.maximum(logits, 0) - logits * targets + np.log(2) * (logits == 0)).mean(1),
    }
    for loss, values in expected.items():
        np.testing.assert_allclose(loss(Tensor(logits), targets_of(label_smoothing)).asnumpy(), values, rtol=1e-6)


@pytest.mark.parametrize("huge", [False, True])
def test_gradients_are_those_of_the_formulas_for_huge_logits_too(huge):
    logits = LOGITS * 3e4 if huge else LOGITS
    targets = targets_of(0.1)
    expected = {
        cross_entropy: softmax(logits.astype(np.float64), 1) - smoothed(0.1),
        binary_cross_entropy: (expit(logits.astype(np.float64)) - smoothed(0.1)) / CLASSES,
    }
    for loss, values in expected.items():
        gradient = ops.grad(lambda x, loss=loss: loss(x, targets).sum())(Tensor(logits)).asnumpy()
        np.testing.assert_allclose(gradient, values, rtol=0, atol=1e-5)  # MindSpore's exp is right to five digits


def test_there_is_a_loss_for_each_of_the_recipe():
    assert set(LOSSES) == set(typing.get_args(typing.get_type_hints(Loss)["loss"]))
