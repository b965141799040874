"""Mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019): the host draws how, the device mixes a batch with itself.

Each image is mixed with the one half a batch further on, so that any batch size will do, and the copies of an image,
which `aug_repeats` puts side by side, do not meet in a batch of several images."""

import mindspore
import numpy as np
from mindspore import Tensor, nn, ops

from mindcv_lite.data.transforms.random_erasing import inside
from mindcv_lite.recipe.keys import Augmentation


def draw_mix(random: np.random.Generator, augmentation: Augmentation) -> np.ndarray:
    """float32 (6,): the share of an image's own class, that of its own pixels outside a rectangle, and the rectangle
    (top, left, bottom, right) that the other image fills.

    A batch is mixed with probability `cutmix_prob`; where both ways are asked for, each is as likely. The shares are
    drawn from Beta(alpha, alpha), alpha being `mixup` or `cutmix`.
    """
    size = np.array(augmentation.input_size)
    ways = [name for name in ("mixup", "cutmix") if getattr(augmentation, name) > 0]
    mixed, way = random.random() < augmentation.cutmix_prob, ways[random.integers(len(ways))]
    share, centre = random.beta(*[getattr(augmentation, way)] * 2), [random.integers(0, side) for side in size]
    if not mixed:
        return np.array([1, 1, 0, 0, 0, 0], np.float32)
    if way == "mixup":
        return np.array([share, share, 0, 0, 0, 0], np.float32)
    half = (size * np.sqrt(1 - share)).astype(int) // 2
    corners = np.clip([centre - half, centre + half], 0, size)  # the border may cut it off
    own = 1 - np.prod(corners[1] - corners[0]) / size.prod()
    return np.array([own, 1, *corners.ravel()], np.float32)


class Mix(nn.Cell):
    """Images float32 (batch, channels, height, width) and targets (batch, classes) mixed as `draw_mix` says."""

    # pyrefly: ignore [bad-override]
    def construct(self, images: Tensor, targets: Tensor, mix: Tensor) -> tuple[Tensor, Tensor]:
        rectangle = mix[2:].reshape(1, 4).astype(mindspore.int32)
        others = partners(images)
        mixed = images * mix[1] + others * (1.0 - mix[1])
        images = ops.where(inside(rectangle, *images.shape[2:]), others, mixed)
        return images, targets * mix[0] + partners(targets) * (1.0 - mix[0])


def partners(x: Tensor) -> Tensor:
    """The row half a batch further on, of each row; after the last comes the first."""
    half = x.shape[0] // 2
    return ops.concat((x[half:], x[:half])) if half else x
