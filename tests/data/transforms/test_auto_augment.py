"""Automatic augmentation: what each operation does, how often it comes, and that nothing leaves the frame."""

from collections.abc import Sequence
from typing import Any

import mindspore.dataset as ds
import numpy as np
import pytest
from mindspore.dataset.vision import Inter
from PIL import Image, ImageEnhance

from mindcv_lite.data.transforms.auto_augment import Extent, drawn_strengths, operations_of, policy_of
from mindcv_lite.recipe.auto_augment import parse

FILL = (7, 8, 9)
SIDE = 40
NAMES = (
    *("identity", "shear x", "shear y", "translate x", "translate y", "rotate", "brightness", "saturation"),
    *("contrast", "sharpness", "posterize", "solarize", "auto contrast", "equalize"),
)
EXTENT = Extent(0.3, (0.5, 0.5), 30, 0.9, 4)
IMAGE = np.random.default_rng(0).integers(60, 200, (SIDE, SIDE, 3), np.uint8)


def transformed(original: np.ndarray, operators: Sequence[Any], copies: int = 1) -> np.ndarray:
    ds.config.set_seed(3)
    rows = ds.GeneratorDataset([(original,)] * copies, ["image"], shuffle=False, num_parallel_workers=1)
    rows = rows.map(list(operators), "image", num_parallel_workers=1)
    return np.stack([image for (image,) in rows.create_tuple_iterator(num_epochs=1, output_numpy=True)])


def changed(name: str, strength: float, sign: int, image: np.ndarray = IMAGE) -> np.ndarray:
    operators = operations_of(strength, sign, EXTENT, Inter.NEAREST, FILL)
    return transformed(image, [operators[NAMES.index(name)]])[0].astype(int)


@pytest.mark.parametrize("name", NAMES[:12])
def test_no_strength_changes_nothing(name):
    for sign in (1, -1):
        assert np.array_equal(changed(name, 0, sign), IMAGE)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_translations_move_by_their_share_of_the_side_and_fill_what_is_left(strength, sign):
    distance = round(strength * 0.5 * SIDE)
    for name, axis in (("translate x", 1), ("translate y", 0)):
        expected = np.roll(IMAGE, sign * distance, axis).astype(int)
        gap = slice(0, distance) if sign > 0 else slice(SIDE - distance, None)
        expected[(slice(None), gap) if axis else (gap, slice(None))] = FILL
        assert np.array_equal(changed(name, strength, sign), expected)


@pytest.mark.parametrize("sign", [1, -1])
def test_shear_and_rotation_move_a_line_by_their_angle(sign):
    line = np.zeros((101, 101, 3), np.uint8)
    line[:, 50] = 255  # upright, through the centre
    for name, tangent in (("shear x", 0.3), ("rotate", np.tan(np.pi / 6))):
        rows, columns = np.nonzero(changed(name, 1.0, sign, line)[..., 0] == 255)
        slope = np.polyfit(rows, columns, 1)[0]
        assert abs(slope) == pytest.approx(tangent, abs=0.02)
    rows, columns = np.nonzero(changed("shear y", 1.0, sign, line.swapaxes(0, 1))[..., 0] == 255)
    assert abs(np.polyfit(columns, rows, 1)[0]) == pytest.approx(0.3, abs=0.02)


def test_the_two_signs_are_opposite():
    for name in ("shear x", "shear y", "rotate"):
        there, back = changed(name, 1.0, 1), changed(name, 1.0, -1)
        mirrored = changed(name, 1.0, 1, IMAGE[:, ::-1].copy())[:, ::-1]
        assert not np.array_equal(there, back)
        assert (np.abs(mirrored - back) > 0).mean() < 0.25  # but for rounding to the nearest pixel


@pytest.mark.parametrize(("strength", "sign"), [(0.5, 1), (1.0, 1), (0.5, -1), (1.0, -1)])
def test_brightness_contrast_saturation_and_sharpness_are_those_of_pil(strength, sign):
    pairs = {"brightness": "Brightness", "contrast": "Contrast", "saturation": "Color", "sharpness": "Sharpness"}
    for name, enhancer in pairs.items():
        expected = getattr(ImageEnhance, enhancer)(Image.fromarray(IMAGE)).enhance(1 + sign * strength * 0.9)
        np.testing.assert_allclose(changed(name, strength, sign), np.asarray(expected), rtol=0, atol=2)  # rounding


@pytest.mark.parametrize(("strength", "bits"), [(0.25, 7), (0.5, 6), (1.0, 4)])
def test_posterize_keeps_the_upper_bits(strength, bits):
    assert np.array_equal(changed("posterize", strength, 1), IMAGE >> (8 - bits) << (8 - bits))


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_solarize_inverts_what_is_bright(strength):
    expected = np.where(255 * (1 - strength) <= IMAGE, 255 - IMAGE.astype(int), IMAGE)
    assert np.array_equal(changed("solarize", strength, 1), expected)


@pytest.mark.parametrize("text", ["randaug-m10-n1", "randaug-m10-n3", "trivialaugwide", "autoaug"])
def test_no_image_becomes_a_single_colour(text):
    images = transformed(IMAGE, policy_of(parse(text), (SIDE, SIDE), Inter.NEAREST, FILL), 500)
    assert images.std((1, 2)).max(1).min() > 0


def test_each_operation_of_randaug_is_as_likely():
    operators = policy_of(parse("randaug-m10-n1"), (SIDE, SIDE), Inter.NEAREST, FILL)
    images = transformed(IMAGE, operators, 1400)
    kinds = np.unique(images.reshape(len(images), -1), axis=0, return_counts=True)[1]
    # A direction has half an operation's share. 14 operations: identity, 9 with two directions, 4 without one.
    assert len(kinds) == 1 + 9 * 2 + 4
    assert kinds.max() == pytest.approx(100, abs=50)
    assert kinds.min() == pytest.approx(50, abs=35)


def test_randaug_draws_its_strength_from_the_distribution_that_is_asked_for():
    options = "m9", "m7-mstd0.5", "m10-mstd1", "m8-mstdinf"
    drawn = (drawn_strengths(parse(f"randaug-{option}")) for option in options)
    fixed, normal, clipped, even = (10 * np.array(strengths) for strengths in drawn)
    assert fixed.tolist() == [9]
    assert (normal.mean(), normal.std()) == (pytest.approx(7, abs=1e-9), pytest.approx(0.5, abs=0.03))
    assert (clipped.max(), (clipped == 10).mean()) == (10, pytest.approx(0.5, abs=0.05))
    assert (even.min(), even.max()) == (pytest.approx(0, abs=0.3), pytest.approx(8, abs=0.3))
    np.testing.assert_allclose(np.diff(even), 8 / len(even))
    images = transformed(IMAGE, policy_of(parse("randaug-m7-mstd0.5"), (SIDE, SIDE), Inter.NEAREST, FILL), 1500)
    assert len(np.unique(images.reshape(len(images), -1), axis=0)) > 300


def test_operations_in_a_row_are_drawn_independently():
    white = np.full((SIDE, SIDE, 3), 200, np.uint8)
    one, two = (
        transformed(white, policy_of(parse(f"randaug-m10-n{n}"), (SIDE, SIDE), Inter.NEAREST, FILL), 1000)
        for n in (1, 2)
    )
    untouched = [(images == 200).all((1, 2, 3)).mean() for images in (one, two)]
    assert untouched[1] == pytest.approx(untouched[0] ** 2, abs=0.08)  # were they the same, it would be untouched[0]


def test_trivialaugwide_draws_its_strength():
    operators = policy_of(parse("trivialaugwide"), (SIDE, SIDE), Inter.NEAREST, FILL)
    images = transformed(IMAGE, operators, 1500)
    assert len(np.unique(images.reshape(len(images), -1), axis=0)) > 300
