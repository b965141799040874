"""What reaches the network: normalised, erased and mixed images, and soft targets."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import mindspore
import numpy as np
import pytest
from mindspore import Tensor

from mindcv_lite.data.pipeline import draws
from mindcv_lite.data.transforms.batch_transforms import Preparation
from mindcv_lite.recipe.keys import Recipe

SIDE, CLASSES, BATCH = 8, 5, 3
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (BATCH, SIDE, SIDE, 3), np.uint8)
LABELS = np.array([4, 0, 2], np.int32)


def prepared(
    recipe: Recipe, drawn: tuple[np.ndarray, ...], cpu_kernels: Path | None = None
) -> tuple[np.ndarray, np.ndarray]:
    tensors = Tensor(IMAGES), Tensor(LABELS), tuple(map(Tensor, drawn)), Tensor(1, mindspore.int32)
    images, targets = Preparation(recipe, cpu_kernels)(*tensors)
    return images.asnumpy(), targets.asnumpy()


def by_hand(recipe: Recipe, drawn: tuple[np.ndarray, ...]) -> tuple[np.ndarray, np.ndarray]:
    """In floats on the host, as if the images had left it normalised."""
    augmentation, smoothing = recipe.augmentation, recipe.loss.label_smoothing
    x = ((IMAGES - np.array(augmentation.mean)) / np.array(augmentation.std)).transpose(0, 3, 1, 2)
    targets = (1 - smoothing) * np.eye(CLASSES)[LABELS] + smoothing / CLASSES
    if augmentation.erases:
        for image, (top, left, bottom, right) in zip(x, drawn[0], strict=True):
            image[:, top:bottom, left:right] = augmentation.re_value
    if augmentation.mixes:
        own, share, *rectangle = drawn[-1]
        top, left, bottom, right = map(int, rectangle)
        others = np.roll(x, -(BATCH // 2), 0)
        x = share * x + (1 - share) * others
        x[:, :, top:bottom, left:right] = others[:, :, top:bottom, left:right]
        targets = own * targets + (1 - own) * np.roll(targets, -(BATCH // 2), 0)
    return x, targets


@pytest.mark.usefixtures("graph_mode")
@pytest.mark.parametrize(
    "keys",
    [{}, {"re_prob": 1, "re_value": 0.5}, {"mixup": 0.5}, {"cutmix": 1.0}, {"re_prob": 1, "mixup": 0.5, "cutmix": 1}],
    ids=["plain", "erased", "mixup", "cutmix", "all"],
)
def test_uint8_images_become_what_floats_on_the_host_would_be(operators: Path, recipe: Any, keys):
    given = recipe(num_classes=CLASSES, image_resize=SIDE, label_smoothing=0.1, **keys)
    stream = draws(given.augmentation, BATCH, seed=3)
    for cpu_kernels in (None, None, operators):
        drawn = next(stream)
        images, targets = prepared(given, drawn, cpu_kernels)
        expected_images, expected_targets = by_hand(given, drawn)
        np.testing.assert_allclose(images, expected_images, rtol=0, atol=1e-5)
        np.testing.assert_allclose(targets, expected_targets, rtol=0, atol=1e-6)
        np.testing.assert_allclose(targets.sum(1), 1, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("keys", "shapes"),
    [
        ({}, []),
        ({"re_prob": 0.5}, [(BATCH, 4)]),
        ({"mixup": 0.2}, [(6,)]),
        ({"mixup": 0.2, "cutmix_prob": 0}, []),
        ({"re_prob": 0.5, "cutmix": 1}, [(BATCH, 4), (6,)]),
    ],
)
def test_the_host_draws_what_the_recipe_asks_for_and_no_more(recipe, keys, shapes):
    augmentation = replace(recipe().augmentation, **keys)
    assert [each.shape for each in next(draws(augmentation, BATCH, seed=1))] == shapes
