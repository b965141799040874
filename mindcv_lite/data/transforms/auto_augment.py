"""Automatic augmentation (`auto_augment`) from MindSpore's C++ operators.

MindSpore's own RandAugment and TrivialAugmentWide move an image out of the frame whenever they translate it (2.7 to
2.10: one image in nine is blank after one operation), so these two are put together here; its AutoAugment is sound.
"""

from dataclasses import dataclass
from math import atan, degrees, isinf
from statistics import NormalDist
from typing import Any

from mindspore.dataset import vision
from mindspore.dataset.vision import Inter

from mindcv_lite.recipe.auto_augment import STRONGEST, AutoAugment

QUANTILES = 15  # that stand for a distribution of magnitudes


@dataclass(frozen=True)
class Extent:
    """How far the operations go at full strength: tangent, shares of width and height, degrees, factor 1 +- x, bits."""

    shear: float
    translate: tuple[float, float]
    rotate: float
    enhance: float
    posterize: int


def policy_of(option: AutoAugment, size: tuple[int, int], interpolation: Inter, fill: tuple[int, int, int]) -> list:
    """The operators for images uint8 (*size, 3); `fill` is the colour of what an operation leaves empty."""
    if option.policy == "autoaug":  # takes the levels of a colour in another order, so: a grey
        return [vision.AutoAugment(vision.AutoAugmentPolicy.IMAGENET, interpolation, sum(fill) // 3)]
    if option.policy == "randaug":  # Cubuk et al. 2020
        extent, strengths = Extent(0.3, (150 / 331, 150 / 331), 30, 0.9, 4), drawn_strengths(option)
    else:  # TrivialAugment, wide (Mueller and Hutter 2021): one operation, of any strength
        height, width = size
        extent = Extent(0.99, (min(1, 32 / width), min(1, 32 / height)), 135, 0.99, 6)
        strengths = [step / 30 for step in range(31)]
    choices = [
        operation
        for strength in strengths
        for sign in (1, -1)
        for operation in operations_of(strength, sign, extent, interpolation, fill)
    ]
    count = option.operations if option.policy == "randaug" else 1
    # MindSpore seeds all operators alike: two equal operators would always choose the same. Choices of probability 0
    # also use random numbers. They shift the stream, and the operators differ.
    idle = (vision.HorizontalFlip(), 0.0)
    return [
        vision.RandomSelectSubpolicy([[*[idle] * index, (operation, 1.0)] for operation in choices])
        for index in range(count)
    ]


def drawn_strengths(option: AutoAugment) -> list[float]:
    """Strengths of randaug, 0 to 1, that are drawn equally often: the magnitude, or quantiles of its distribution."""
    if option.deviation == 0:
        return [option.magnitude / STRONGEST]
    shares = [(number + 0.5) / QUANTILES for number in range(QUANTILES)]
    if isinf(option.deviation):
        return [option.magnitude * share / STRONGEST for share in shares]
    drawn = [NormalDist(option.magnitude, option.deviation).inv_cdf(share) for share in shares]
    return [min(max(magnitude, 0), STRONGEST) / STRONGEST for magnitude in drawn]


def operations_of(strength: float, sign: int, extent: Extent, interpolation: Inter, fill: tuple[int, int, int]) -> list:
    """The 14 operations of both papers; those that have no direction are the same for both signs."""

    def affine(rotate: float = 0, translate: tuple = (0, 0), shear: tuple = (0, 0)) -> Any:
        return vision.Affine(rotate, list(translate), 1.0, list(shear), interpolation, fill)

    signed = sign * strength
    angle, factor = degrees(atan(signed * extent.shear)), 1 + signed * extent.enhance
    right, down = (signed * share for share in extent.translate)
    return [
        affine(),
        affine(shear=(angle, 0)),
        affine(shear=(0, angle)),
        affine(translate=(right, 0)),
        affine(translate=(0, down)),
        affine(rotate=signed * extent.rotate),
        vision.AdjustBrightness(factor),
        vision.AdjustSaturation(factor),
        vision.AdjustContrast(factor),
        vision.AdjustSharpness(factor),
        vision.Posterize(8 - round(strength * extent.posterize)),
        vision.Solarize((255 * (1 - strength), 255)),
        vision.AutoContrast(),
        vision.Equalize(),
    ]
