"""Images that NumPy prepares for evaluation have the pixels of MindSpore's operators, to the bit."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mindcv_lite.data.images.decoding import as_bmp, pixels_of, read_file
from mindcv_lite.data.transforms.decode_augment import evaluation_transforms
from mindcv_lite.data.transforms.numpy_evaluation import fault_of, prepared

LENGTHS = st.integers(1, 400)


def by_mindspore(content: np.ndarray, recipe) -> np.ndarray:
    for transform in evaluation_transforms(recipe.augmentation, recipe.model.in_channels):
        content = transform(content)
    return content.reshape(*content.shape[:2], -1)


@settings(deadline=None, max_examples=150)
@given(LENGTHS, LENGTHS, st.integers(32, 120), st.sampled_from([0.5, 0.875, 0.95, 1.0]), st.sampled_from([1, 3]))
@example(100, 130, 50, 1.0, 3)  # halved across and down, which OpenCV does by means
@example(130, 100, 50, 1.0, 1)
@example(64, 64, 64, 1.0, 3)  # nothing to resize
@example(100, 101, 50, 1.0, 3)
@example(1, 300, 32, 1.0, 3)
def test_resized_and_cropped_pixels_are_mindspores(recipe, height, width, side, crop_pct, in_channels):
    if max(height, width) * side > 20_000 * min(height, width):  # MindSpore would make a picture of gigabytes
        return
    noise = np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)
    asked = recipe(image_resize=side, crop_pct=crop_pct, in_channels=in_channels)
    expected = by_mindspore(as_bmp(noise[None])[0], asked)
    np.testing.assert_array_equal(prepared(noise, asked.augmentation, in_channels), expected)


def test_photos_decoded_by_pillow_have_mindspores_pixels(recipe, shared):
    asked = recipe(image_resize=224)
    photos = sorted((shared / "data/flowers5/val").glob("*/*.jpg"))[::10]
    assert photos
    for path in photos:
        content = read_file(str(path))[0]
        found = prepared(pixels_of(content.tobytes()), asked.augmentation, 3)
        np.testing.assert_array_equal(found, by_mindspore(content, asked))


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        ({}, ""),
        ({"interpolation": "bicubic"}, "interpolation is bicubic"),
        ({"image_resize": "[32, 64]"}, "images of 32 x 64 pixels are no squares"),
    ],
    ids=str,
)
def test_what_is_not_prepared_here_is_said(recipe, keys, fault):
    assert fault_of(recipe(**keys).augmentation) == fault
