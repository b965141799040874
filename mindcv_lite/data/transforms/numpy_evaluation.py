"""What evaluation does with decoded images, in NumPy: the pixels are those of MindSpore's operators, to the bit.

MindSpore resizes by OpenCV, whose fixed-point arithmetic this follows (OpenCV 4, modules/imgproc/src/resize.cpp). It is
here for programs that start without MindSpore, and `evaluation_transforms` is what it is tested against.
"""

from collections.abc import Iterator

import numpy as np

from mindcv_lite.recipe.keys import Augmentation

ONE = np.float32(2048)  # of a weight in fixed point
GREY = (9798, 19235, 3735)  # the weights of red, green and blue, of 32768


def fault_of(augmentation: Augmentation) -> str:
    """Why images are not prepared here as `augmentation` asks; nothing if they are."""
    if augmentation.interpolation != "bilinear":
        return f"interpolation is {augmentation.interpolation}"
    height, width = augmentation.input_size
    return f"images of {height} x {width} pixels are no squares" if height != width else ""


def prepared(pixels: np.ndarray, augmentation: Augmentation, in_channels: int) -> np.ndarray:
    """uint8 (height, width, 1 or 3) -> uint8 (side, side, in_channels): the shorter side becomes image_resize /
    crop_pct, then the centre is cut out."""
    (side, _), (shortest, _) = augmentation.input_size, augmentation.resized_size
    pixels = np.broadcast_to(pixels, (*pixels.shape[:2], 3))
    height, width = pixels.shape[:2]
    ratio = np.float32(max(height, width)) / np.float32(min(height, width))
    longest = int(ratio * np.float32(shortest))
    shape = (shortest, longest) if height < width else (longest, shortest)
    pixels = _resized_centre(pixels, shape, side)
    if in_channels == 3:
        return pixels
    return ((pixels @ np.array(GREY) + 16384) >> 15).astype(np.uint8)[..., None]


def _resized_centre(pixels: np.ndarray, shape: tuple[int, int], side: int) -> np.ndarray:
    """The centre (side, side) of an image resized to `shape`, height and width; no more is computed."""
    top, left = ((length - side) // 2 for length in shape)
    centre = np.s_[top : top + side, left : left + side]
    if pixels.shape[:2] == shape:
        return pixels[centre]
    if pixels.shape[:2] == (2 * shape[0], 2 * shape[1]):  # OpenCV takes means of four then
        halves = pixels.reshape(shape[0], 2, shape[1], 2, 3)[centre[0], :, centre[1]]
        return ((halves.sum((1, 3), np.int32) + 2) >> 2).astype(np.uint8)
    rows, heights = _neighbours(pixels.shape[0], shape[0], top, side)
    columns, widths = _neighbours(pixels.shape[1], shape[1], left, side)
    widths[:, columns[0] == columns[1]] = [[ONE], [0]]  # OpenCV knows one neighbour at the border, but across alone
    used, rows_of_used = np.unique(rows, return_inverse=True)
    left_part, right_part = _weighted(pixels[used].astype(np.int32), columns, widths[..., None], axis=1)
    across = (left_part + right_part) >> 4
    above, below = _weighted(across, rows_of_used.reshape(rows.shape), heights[..., None, None], axis=0)
    return (((above >> 16) + (below >> 16) + 2) >> 2).astype(np.uint8)


def _weighted(values: np.ndarray, neighbours: np.ndarray, weights: np.ndarray, axis: int) -> Iterator[np.ndarray]:
    """The first neighbour of each pixel along an axis times its weight, then the second."""
    for neighbour, weight in zip(neighbours, weights, strict=True):
        part = np.take(values, neighbour, axis)
        part *= weight  # in place: twice as fast
        yield part


def _neighbours(source: int, target: int, start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Of `count` of the `target` pixels, from `start` on, the two of `source` beside each, and their weights in fixed
    point: int32 (2, count)."""
    at = ((np.arange(start, start + count) + 0.5) * (1 / (target / source)) - 0.5).astype(np.float32)
    first = np.floor(at)
    share = at - first
    weights = np.rint(np.stack([1 - share, share]) * ONE).astype(np.int32)
    return np.clip(np.stack([first, first + 1]), 0, source - 1).astype(np.int32), weights
