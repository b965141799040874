"""Mixup and CutMix: what is drawn, and that pixels and targets are mixed in the same shares."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from mindspore import Tensor
from scipy.stats import beta, kstest

from mindcv_lite.data.transforms.mixup_cutmix import Mix, draw_mix
from mindcv_lite.recipe.keys import Augmentation

SIDE, CLASSES = 16, 6


def draws(count: int = 1000, **keys: Any) -> np.ndarray:
    random, augmentation = np.random.default_rng(0), replace(Augmentation(image_resize=SIDE), **keys)
    return np.stack([draw_mix(random, augmentation) for _ in range(count)])


def test_mixup_takes_the_same_share_of_pixels_and_target_from_the_beta_distribution():
    drawn = draws(mixup=0.4)
    assert np.array_equal(drawn[:, 0], drawn[:, 1])
    assert not drawn[:, 2:].any()
    assert kstest(drawn[:, 0], beta(0.4, 0.4).cdf).pvalue > 1e-3


def test_cutmix_keeps_of_the_target_what_the_rectangle_leaves_of_the_image():
    drawn = draws(cutmix=1.0)
    assert np.all(drawn[:, 1] == 1)
    top, left, bottom, right = drawn[:, 2:].T
    assert ((top >= 0) & (top <= bottom) & (bottom <= SIDE) & (left >= 0) & (left <= right) & (right <= SIDE)).all()
    np.testing.assert_allclose(drawn[:, 0], 1 - (bottom - top) * (right - left) / SIDE**2, atol=1e-6)
    assert drawn[:, 0].min() < 0.3
    assert drawn[:, 0].max() == 1
    assert {top.min(), left.min(), SIDE - bottom.max(), SIDE - right.max()} == {0}


def test_cutmix_of_a_rectangle_cuts_out_its_shape_anywhere_in_it():
    drawn = draws(cutmix=1.0, image_resize=(1000, 2000))
    top, left, bottom, right = drawn[:, 2:].T
    whole = (top > 0) & (left > 0) & (bottom < 1000) & (right < 2000)
    assert np.abs(2 * (bottom - top) - (right - left))[whole].max() <= 2  # rounding
    np.testing.assert_allclose(drawn[:, 0], 1 - (bottom - top) * (right - left) / 2e6, atol=1e-6)
    assert (top.min(), left.min(), bottom.max(), right.max()) == (0, 0, 1000, 2000)


def test_cutmix_cuts_out_squares_where_no_border_cuts():
    drawn = draws(cutmix=1.0, image_resize=2000)
    top, left, bottom, right = drawn[:, 2:].T
    whole = (top > 0) & (left > 0) & (bottom < 2000) & (right < 2000)
    assert np.array_equal((bottom - top)[whole], (right - left)[whole])


@pytest.mark.parametrize("alpha", [1.0, 2.0, 8.0])
def test_cutmix_has_the_shares_of_the_beta_distribution_where_no_border_cuts(alpha):
    side = 2**14
    _, _, top, left, bottom, right = draws(4000, cutmix=alpha, image_resize=side).T
    whole = (top > 0) & (left > 0) & (bottom < side) & (right < side)
    # A rectangle of side l is whole where its centre is l / 2 or more from the borders: with probability (1 - l)^2.
    grid = np.linspace(0, 1, 100_001)[1:-1]
    density = beta.pdf(grid, alpha, alpha) * (1 - np.sqrt(1 - grid)) ** 2
    distribution = np.cumsum(density) / density.sum()
    kept = 1 - (bottom - top)[whole] * (right - left)[whole] / side**2
    assert kstest(kept, lambda share: np.interp(share, grid, distribution)).pvalue > 1e-3


@pytest.mark.parametrize("cutmix_prob", [0.3, 0.8])
def test_as_many_batches_are_mixed_as_the_probability_says_either_way_as_likely(cutmix_prob):
    drawn = draws(mixup=1.0, cutmix=1.0, cutmix_prob=cutmix_prob)
    mixed_up, cut = drawn[:, 1] < 1, drawn[:, 2:].any(1)
    error = 5 * np.sqrt(0.25 / len(drawn))
    assert mixed_up.mean() == pytest.approx(cutmix_prob / 2, abs=error)
    assert cut.mean() == pytest.approx(cutmix_prob / 2, abs=error)
    untouched = drawn[~mixed_up & ~cut]
    assert np.array_equal(untouched[:, :2], np.ones_like(untouched[:, :2]))


@pytest.mark.usefixtures("pynative_mode")
@pytest.mark.parametrize("batch", [1, 2, 5, 75])
@pytest.mark.parametrize("keys", [{"mixup": 1.0}, {"cutmix": 1.0}], ids=["mixup", "cutmix"])
def test_each_image_is_mixed_with_the_one_half_a_batch_on_and_its_target_in_the_shares_of_the_pixels(batch, keys):
    owners = np.arange(batch)  # image n has the value n everywhere: a pixel tells whose it is
    images = np.broadcast_to(owners.reshape(-1, 1, 1, 1), (batch, 3, SIDE, SIDE)).astype(np.float32)
    targets = np.random.default_rng(2).dirichlet(np.ones(CLASSES), batch).astype(np.float32)
    for drawn in draws(8, **keys):
        mixed, soft = (each.asnumpy() for each in Mix()(Tensor(images), Tensor(targets), Tensor(drawn)))
        following = np.roll(owners, -(batch // 2))
        expected = drawn[0] * owners + (1 - drawn[0]) * following
        np.testing.assert_allclose(mixed.mean((1, 2, 3)), expected, rtol=0, atol=2e-5 * batch)
        np.testing.assert_allclose(soft.sum(1), 1, rtol=0, atol=1e-6)
        np.testing.assert_allclose(soft, drawn[0] * targets + (1 - drawn[0]) * targets[following], atol=1e-6)
        if "cutmix" in keys:
            top, left, bottom, right = drawn[2:].astype(int)
            assert np.array_equal(
                mixed[:, 0, top:bottom, left:right].ravel(), np.repeat(following, (bottom - top) * (right - left))
            )
