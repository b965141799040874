"""Transforms against NumPy and PIL: what the network sees of an image."""

import io
import typing
from collections.abc import Sequence
from typing import Any

import mindspore.dataset as ds
import numpy as np
import pytest
from mindspore import Tensor
from PIL import Image

from mindcv_lite.data.transforms.decode_augment import INTERPOLATIONS, evaluation_transforms, training_transforms
from mindcv_lite.data.transforms.normalize import Normalize
from mindcv_lite.recipe.keys import Augmentation

WHOLE: dict[str, Any] = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0)}  # of a square image
PLAIN: dict[str, Any] = {"hflip": 0.0, "color_jitter": 0.0}


def noise(height: int, width: int, *channels: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, *channels), np.uint8)


def encoded(image: np.ndarray | Image.Image, kind: str = "PNG", **options: Any) -> np.ndarray:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return np.frombuffer(buffer.getvalue(), np.uint8)


def transformed(original: np.ndarray, transforms: Sequence, copies: int = 1) -> np.ndarray:
    """`copies` of an encoded image, each transformed by itself, in MindSpore's pipeline: (copies, height, width...)."""
    ds.config.set_seed(1)
    rows = ds.GeneratorDataset([(original,)] * copies, ["image"], shuffle=False, num_parallel_workers=1)
    rows = rows.map(list(transforms), "image", num_parallel_workers=1)
    return np.stack([image for (image,) in rows.create_tuple_iterator(num_epochs=1, output_numpy=True)])


# ------------------------------------------------------------------------------------------------------- evaluation

# Weights of the pixels by their distance; bicubic is Keys' with a = -0.75, as in OpenCV.
KERNELS = {
    "bilinear": lambda x: np.maximum(0, 1 - x),
    "bicubic": lambda x: np.where(
        x <= 1, (1.25 * x - 2.25) * x**2 + 1, np.where(x < 2, -0.75 * (x**3 - 5 * x**2 + 8 * x - 4), 0)
    ),
}


def resized(image: np.ndarray, size: int, interpolation: str) -> np.ndarray:
    """The first axis resampled to `size`; pixels are squares, the border is repeated, nothing is smoothed before."""
    old = len(image)
    if interpolation == "nearest":
        return image[np.arange(size) * old // size]
    centres = (np.arange(size)[:, None] + 0.5) * old / size - 0.5
    positions = np.floor(centres) + np.arange(-1, 3)
    weights = KERNELS[interpolation](np.abs(centres - positions))
    return np.einsum("st,st...->s...", weights, image[np.clip(positions, 0, old - 1).astype(int)].astype(float))


def centre_of_resized(image: np.ndarray, side: int, crop_pct: float, interpolation: str) -> np.ndarray:
    height, width = image.shape[:2]
    short = int(side / crop_pct)
    size = (short, int(width * short / height)) if height <= width else (int(height * short / width), short)
    image = resized(image, size[0], interpolation)
    image = resized(image.swapaxes(0, 1), size[1], interpolation).swapaxes(0, 1)
    top, left = ((length - side) // 2 for length in size)
    return np.clip(image[top : top + side, left : left + side], 0, 255)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize(
    ("height", "width", "crop_pct"),
    [(40, 48, 0.875), (48, 40, 0.875), (47, 61, 0.9), (33, 90, 0.875), (20, 21, 1.0), (150, 64, 0.7)],
)
def test_evaluation_resizes_the_shorter_side_and_cuts_out_the_centre(height, width, crop_pct, interpolation):
    original = noise(height, width, 3)
    settings = Augmentation(image_resize=32, crop_pct=crop_pct, interpolation=interpolation)
    (image,) = transformed(encoded(original), evaluation_transforms(settings, 3))
    assert image.shape == (32, 32, 3)
    assert image.dtype == np.uint8
    expected = centre_of_resized(original, 32, crop_pct, interpolation)
    # MindSpore computes in integers: one of 255 levels, and half a level of rounding; a shift by a pixel gives 200.
    tolerance = 0 if interpolation == "nearest" else 1.5
    np.testing.assert_allclose(image, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize(("height", "width"), [(64, 96), (96, 64), (80, 80), (33, 300), (61, 97)])
@pytest.mark.parametrize("size", [(24, 48), (48, 24)])
def test_evaluation_of_a_rectangle_cuts_out_the_centre_of_what_just_covers_it(height, width, size, interpolation):
    original = noise(height, width, 3)
    settings = Augmentation(image_resize=size, crop_pct=0.75, interpolation=interpolation)
    images = transformed(encoded(original), evaluation_transforms(settings, 3), copies=3)
    assert images.shape == (3, *size, 3)
    assert (images == images[0]).all()  # nothing is random
    tall, wide = (int(side / 0.75) for side in size)
    # The largest part of the image of that shape, from its centre.
    rows, columns = min(height, int(width * tall / wide + 0.5)), min(width, int(height * wide / tall + 0.5))
    top, left = (height - rows + 1) // 2, (width - columns + 1) // 2
    image = resized(original[top : top + rows, left : left + columns], tall, interpolation)
    image = resized(image.swapaxes(0, 1), wide, interpolation).swapaxes(0, 1)
    top, left = (tall - size[0]) // 2, (wide - size[1]) // 2
    expected = np.clip(image[top : top + size[0], left : left + size[1]], 0, 255)
    np.testing.assert_allclose(images[0], expected, rtol=0, atol=0 if interpolation == "nearest" else 1.5)


def test_training_crops_a_rectangle_and_auto_augment_keeps_its_shape():
    for policy in (None, "randaug-m9-n2", "trivialaugwide", "autoaug"):
        settings = Augmentation(image_resize=(24, 48), auto_augment=policy, ratio=(1.5, 2.5))
        assert transformed(encoded(noise(60, 80, 3)), training_transforms(settings, 3), 3).shape == (3, 24, 48, 3)


def test_area_interpolation_is_the_mean_of_the_pixels_that_become_one():
    original = noise(96, 96, 3)
    settings = Augmentation(image_resize=32, crop_pct=1.0, interpolation="area")
    (image,) = transformed(encoded(original), evaluation_transforms(settings, 3))
    expected = original.reshape(32, 3, 32, 3, 3).mean((1, 3))
    np.testing.assert_allclose(image, expected, rtol=0, atol=0.51)  # rounding


def test_there_is_an_interpolation_for_each_of_the_recipe():
    assert set(INTERPOLATIONS) == set(typing.get_args(typing.get_type_hints(Augmentation)["interpolation"]))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
def test_training_resizes_as_evaluation_does(interpolation):
    image = noise(48, 48, 3)
    settings = Augmentation(image_resize=32, crop_pct=1.0, interpolation=interpolation, **WHOLE, **PLAIN)
    (trained,) = transformed(encoded(image), training_transforms(settings, 3))
    (evaluated,) = transformed(encoded(image), evaluation_transforms(settings, 3))
    assert np.array_equal(trained, evaluated)


# ------------------------------------------------------------------------------------------------------------ kinds


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        *[("JPEG", mode) for mode in ("RGB", "L", "CMYK")],
        *[("PNG", mode) for mode in ("RGB", "RGBA", "L", "LA", "P")],
        *[("BMP", mode) for mode in ("RGB", "L")],
    ],
)
def test_each_kind_of_image_becomes_the_colours_that_pil_sees(kind, mode, training):
    pixels = np.full((32, 32, 4), 128, np.uint8)
    pixels[:, :16, :3], pixels[:16, 16:, :3], pixels[16:, 16:, :3] = (200, 30, 60), (20, 220, 90), (40, 60, 240)
    picture = Image.fromarray(pixels if mode == "RGBA" else pixels[..., :3]).convert(mode)
    original = encoded(picture, kind, **({"progressive": True} if kind == "JPEG" else {}))
    seen = Image.open(io.BytesIO(original.tobytes()))
    assert seen.mode == mode
    settings = Augmentation(image_resize=32, crop_pct=1.0, **WHOLE, **PLAIN)
    (image,) = transformed(
        original, training_transforms(settings, 3) if training else evaluation_transforms(settings, 3)
    )
    np.testing.assert_allclose(image, np.asarray(seen.convert("RGB")), rtol=0, atol=1)


@pytest.mark.parametrize("training", [True, False])
def test_one_channel_is_the_luminance(training):
    original = noise(32, 32, 3)
    settings = Augmentation(image_resize=32, crop_pct=1.0, **WHOLE, **PLAIN)
    steps = training_transforms(settings, 1) if training else evaluation_transforms(settings, 1)
    (image,) = transformed(encoded(original), steps)
    np.testing.assert_allclose(image, np.asarray(Image.fromarray(original).convert("L")), rtol=0, atol=1)


# ---------------------------------------------------------------------------------------------------------- training


def test_without_jitter_and_flips_the_whole_image_stays_as_it_is():
    image = noise(32, 32, 3)
    for color_jitter in (0.0, None):
        settings = Augmentation(image_resize=32, hflip=0.0, color_jitter=color_jitter, **WHOLE)
        images = transformed(encoded(image), training_transforms(settings, 3), copies=4)
        assert np.array_equal(images, np.stack([image] * 4))


def test_flips_of_probability_one_turn_every_image_over():
    image = noise(32, 32, 3)
    left_right = Augmentation(image_resize=32, hflip=1.0, color_jitter=0.0, **WHOLE)
    up_down = Augmentation(image_resize=32, hflip=0.0, vflip=1.0, color_jitter=0.0, **WHOLE)
    images = transformed(encoded(image), training_transforms(left_right, 3), copies=4)
    assert np.array_equal(images, np.stack([image[:, ::-1]] * 4))
    images = transformed(encoded(image), training_transforms(up_down, 3), copies=4)
    assert np.array_equal(images, np.stack([image[::-1]] * 4))


@pytest.mark.parametrize(("flip", "axis"), [("hflip", 1), ("vflip", 0)])
def test_a_flip_of_a_quarter_turns_a_quarter_of_the_images_over(flip, axis):
    original = noise(8, 8, 3)
    settings = Augmentation(image_resize=8, **WHOLE | PLAIN | {flip: 0.25})
    images = transformed(encoded(original), training_transforms(settings, 3), copies=400)
    flipped = np.array([np.array_equal(image, np.flip(original, axis)) for image in images])
    assert all(np.array_equal(image, original) for image in images[~flipped])
    assert flipped.mean() == pytest.approx(0.25, abs=0.11)  # five standard errors


def test_crops_have_areas_and_shapes_of_the_ranges_asked_for_and_lie_anywhere():
    height, width = 100, 200
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0], image[..., 1] = np.arange(width), 2 * np.arange(height)[:, None]  # a pixel tells where it was
    settings = Augmentation(image_resize=32, scale=(0.1, 0.4), ratio=(0.5, 2.0), **PLAIN)
    images = transformed(encoded(image), training_transforms(settings, 3), copies=200).astype(float)
    red, green = images[:, 16, :, 0], images[:, :, 16, 1] / 2
    across, down = (red[:, -2] - red[:, 1]) * 32 / 29, (green[:, -2] - green[:, 1]) * 32 / 29
    area, ratio = across * down / (height * width), across / down
    # A pixel of rounding in sides of 32 pixels and more.
    assert 0.09 < area.min() < 0.13
    assert 0.36 < area.max() < 0.42
    assert 0.47 < ratio.min() < 0.6
    assert 1.7 < ratio.max() < 2.1
    assert red.min() < 5
    assert red.max() > 194
    assert green.min() < 3
    assert green.max() > 96


def test_jitter_changes_brightness_contrast_and_saturation_each_within_its_range():
    stripes = np.zeros((32, 32, 3), np.uint8)
    colour = np.array([150, 80, 72])
    stripes[:11], stripes[11:22], stripes[22:] = 50, 150, colour
    grey = float(colour @ [0.299, 0.587, 0.114])
    mean = (11 * 50 + 11 * 150 + 10 * grey) / 32
    settings = Augmentation(image_resize=32, hflip=0.0, color_jitter=0.4, **WHOLE)
    images = transformed(encoded(stripes), training_transforms(settings, 3), copies=200).astype(float)
    dark, light, coloured = images[:, 0, 0, 0], images[:, 15, 0, 0], images[:, 31, 0]
    brightness = (11 * dark + 11 * light + 10 * coloured @ [0.299, 0.587, 0.114]) / 32 / mean
    contrast = (light - dark) / 100 / brightness
    saturation = (coloured[:, 0] - coloured[:, 1]) / 70 / brightness / contrast
    for factor in (brightness, contrast, saturation):
        assert factor.min() == pytest.approx(0.6, abs=0.06)  # a level of rounding in as few as 15
        assert factor.max() == pytest.approx(1.4, abs=0.06)
    assert np.abs(np.corrcoef([brightness, contrast, saturation]) - np.eye(3)).max() < 0.3


# ------------------------------------------------------------------------------------------------------ on the device


@pytest.mark.usefixtures("pynative_mode")
@pytest.mark.parametrize(("mean", "std"), [((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)), ((100.0,), (50.0,))])
def test_normalize_subtracts_the_mean_and_divides_by_the_deviation_of_each_channel(operators, mean, std):
    images = noise(2, 5, 4, 3) if len(mean) == 3 else noise(2, 5, 4)
    expected = (images.reshape(2, 5, 4, -1).astype(float) - mean) / std
    for cpu_kernels in (None, operators):
        values = Normalize(mean, std, cpu_kernels)(Tensor(images)).asnumpy()
        assert values.dtype == np.float32
        np.testing.assert_allclose(values, expected.transpose(0, 3, 1, 2), rtol=0, atol=2e-6)
