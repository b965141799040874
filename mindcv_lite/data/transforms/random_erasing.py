"""Random erasing (Zhong et al. 2017): the host draws the rectangles, the device fills them after it has normalised.

So the images stay uint8 on their way, and an erased pixel is exactly the value asked for."""

import numpy as np
from mindspore import Tensor, nn, ops

from mindcv_lite.recipe.keys import Augmentation
from mindcv_lite.stateless_random import bits, normal


def draw_rectangles(random: np.random.Generator, count: int, augmentation: Augmentation) -> np.ndarray:
    """int32 (count, 4): top, left, bottom, right of what is erased of each image; all 0 where nothing is.

    Of `re_max_attempts` rectangles, whose area is even over `re_scale` and whose height / width is log-even over
    `re_ratio`, the first that fits is taken, anywhere in the image.
    """
    size, attempts = np.array(augmentation.input_size), augmentation.re_max_attempts
    lowest, highest = np.log(augmentation.re_ratio)
    area = random.uniform(*augmentation.re_scale, (count, attempts)) * size.prod()
    ratio = np.exp(random.uniform(lowest, highest, (count, attempts)))
    sizes = np.rint(np.sqrt([area * ratio, area / ratio])).astype(np.int32)  # (2, count, attempts)
    fits = ((sizes > 0) & (sizes < size.reshape(2, 1, 1))).all(0)
    first = fits.argmax(1)
    sizes = sizes[:, np.arange(count), first].T  # (count, 2)
    corners = random.integers(0, np.maximum(size - sizes + 1, 1))
    erased = (random.random(count) < augmentation.re_prob) & fits.any(1)
    return np.where(erased[:, None], np.hstack([corners, corners + sizes]), 0).astype(np.int32)


def inside(rectangles: Tensor, height: int, width: int) -> Tensor:
    """bool (batch, 1, height, width): which pixels lie in the rectangle (top, left, bottom, right) of their image."""
    y, x = Tensor(np.arange(height, dtype=np.int32)), Tensor(np.arange(width, dtype=np.int32))
    top, left, bottom, right = (rectangles[:, i : i + 1] for i in range(4))  # (batch, 1) each
    rows = ops.logical_and(y >= top, y < bottom)  # (batch, height)
    columns = ops.logical_and(x >= left, x < right)
    batch = rectangles.shape[0]
    return ops.logical_and(rows.reshape(batch, 1, height, 1), columns.reshape(batch, 1, 1, width))


class Erase(nn.Cell):
    """Fill a rectangle of each normalised image with a value, one for each channel, or with noise of deviation 1."""

    def __init__(self, augmentation: Augmentation):
        super().__init__()
        self.noise = augmentation.re_value == "random"
        if not self.noise:
            self.value = Tensor(np.array(augmentation.re_value, np.float32).reshape(1, -1, 1, 1))

    def construct(self, x: Tensor, rectangles: Tensor, seed: Tensor) -> Tensor:
        """x float32 (batch, channels, height, width), rectangles int32 (batch, 4), seed int32 () -> like x."""
        value = normal(x.shape[1:], bits((x.shape[0], 1, 1, 1), seed)) if self.noise else self.value
        return ops.where(inside(rectangles, *x.shape[2:]), value, x)
