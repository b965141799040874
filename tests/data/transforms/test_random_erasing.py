"""Random erasing: which rectangles are drawn, and that nothing but them is filled."""

from dataclasses import replace
from typing import Any

import mindspore
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mindspore import Tensor

from mindcv_lite.data.transforms.random_erasing import Erase, draw_rectangles
from mindcv_lite.recipe.keys import Augmentation

SIDE = 24
SEED = Tensor(5, mindspore.int32)


def rectangles(count: int = 2000, **keys: Any) -> np.ndarray:
    augmentation = replace(Augmentation(image_resize=224, re_prob=1), **keys)
    return draw_rectangles(np.random.default_rng(0), count, augmentation)


def sizes_of(drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return drawn[:, 2] - drawn[:, 0], drawn[:, 3] - drawn[:, 1]


def test_areas_and_shapes_cover_their_ranges_and_the_positions_the_whole_image():
    drawn = rectangles()
    assert drawn.dtype == np.int32
    height, width = sizes_of(drawn)
    area, ratio = height * width / 224**2, height / width
    assert 0.0195 < area.min() < 0.03  # a pixel of rounding in sides of 18 and more
    assert 0.31 < area.max() < 0.335
    assert 0.29 < ratio.min() < 0.32
    assert 3.1 < ratio.max() < 3.5
    assert np.median(ratio) == pytest.approx(1, abs=0.12)  # log-even: as many are tall as are wide
    assert drawn.min() == 0
    assert drawn.max() == 224


@pytest.mark.parametrize("re_prob", [0.25, 0.9])
def test_as_many_images_are_erased_as_the_probability_says(re_prob):
    erased = rectangles(re_prob=re_prob).any(1)
    assert erased.mean() == pytest.approx(re_prob, abs=5 * np.sqrt(re_prob * (1 - re_prob) / 2000))


def test_what_does_not_fit_is_tried_again_and_then_left():
    tall = {"re_scale": (0.2, 0.33), "re_ratio": (3.0, 8.0)}  # higher than the image, more often than not
    once, often = (rectangles(re_max_attempts=attempts, **tall).any(1).mean() for attempts in (1, 50))
    assert once < 0.6
    assert often > 0.99
    assert not rectangles(re_scale=(1, 1), re_ratio=(4, 4)).any()


@settings(deadline=None)
@given(
    st.tuples(*[st.integers(1, 40)] * 2),
    st.tuples(*[st.floats(0.01, 1)] * 2).map(sorted),
    st.tuples(*[st.floats(0.01, 100)] * 2).map(sorted),
)
def test_no_rectangle_leaves_its_image(size, scale, ratio):
    drawn = rectangles(20, image_resize=size, re_scale=tuple(scale), re_ratio=tuple(ratio))
    height, width = sizes_of(drawn)
    assert ((height > 0) == (width > 0)).all()
    assert (drawn >= 0).all()
    assert (drawn <= size * 2).all()


# ------------------------------------------------------------------------------------------------------- on the device

DRAWN = np.array([[2, 3, 9, 28], [0, 0, 0, 0], [0, 0, 24, 1]], np.int32)
WIDTH = SIDE + 6
IMAGES = np.random.default_rng(1).normal(size=(3, 3, SIDE, WIDTH)).astype(np.float32)


def erased(value: Any, seed: Tensor = SEED) -> np.ndarray:
    erase = Erase(Augmentation(image_resize=(SIDE, WIDTH), re_prob=1, re_value=value))
    return erase(Tensor(IMAGES), Tensor(DRAWN), seed).asnumpy()


def mask() -> np.ndarray:
    inside = np.zeros((3, 1, SIDE, WIDTH), bool)
    for image, (top, left, bottom, right) in zip(inside, DRAWN, strict=True):
        image[:, top:bottom, left:right] = True
    return inside


@pytest.mark.usefixtures("pynative_mode")
@pytest.mark.parametrize("value", [0.0, -1.5, (0.5, 1.0, 2.0)])
def test_the_rectangles_and_nothing_else_have_the_value(value):
    expected = np.where(mask(), np.reshape(np.array(value, np.float32), (1, -1, 1, 1)), IMAGES)
    assert np.array_equal(erased(value), expected)


@pytest.mark.usefixtures("pynative_mode")
def test_noise_fills_the_rectangles_and_is_another_for_each_image_channel_and_seed():
    inside, noisy, other = np.broadcast_to(mask(), IMAGES.shape), erased("random"), erased("random", SEED + 1)
    assert np.array_equal(noisy[~inside], IMAGES[~inside])
    values = noisy[inside]
    assert len(np.unique(values)) == len(values)
    assert values.mean() == pytest.approx(0, abs=0.25)
    assert values.std() == pytest.approx(1, abs=0.2)
    assert not np.intersect1d(values, other[inside]).size
    assert np.array_equal(noisy, erased("random"))
