"""Pictures that a page holds in itself: thumbnails, a large confusion matrix, the reliability diagram."""

import base64
import io
from collections.abc import Iterable

import numpy as np
from PIL import Image

from mindcv_lite.data.datasets.image_folder import Split
from mindcv_lite.data.image_reader import contents_of
from mindcv_lite.data.images.decoding import NOT_DECODED, opened, orientation, turned
from mindcv_lite.evaluation.report.statistics import BINS, Bin, wilson_interval

SIDE = 144  # pixels of a thumbnail, at most
MATRIX_SIDE = 1000  # pixels of a confusion matrix, at most
RIGHT, WRONG = (59, 130, 246), (249, 115, 22)  # colours of images on the diagonal, and beside it


def thumbnails(images: Split, indices: Iterable[int]) -> dict[int, str]:
    """These images made small, as data URIs; those that Pillow cannot read are left out."""
    pictures = {int(index): thumbnail(image.tobytes()) for image, index in contents_of(images, sorted(set(indices)))}
    return {index: picture for index, picture in pictures.items() if picture}


def thumbnail(content: bytes) -> str | None:
    """An encoded image made small and upright."""
    file = io.BytesIO()
    try:
        with opened(content) as image:
            image.draft("RGB", (SIDE, SIDE))  # of a JPEG, no more than this is decoded
            small = turned(image.convert("RGB"), orientation(image))
            small.thumbnail((SIDE, SIDE))
            small.save(file, "JPEG", quality=75)
    except NOT_DECODED:
        return None
    return _data_uri(file.getvalue(), "jpeg")


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def confusion_picture(counts: list[tuple[int, int, int]], outputs: list[int]) -> str:
    """A PNG of a row for each right output and a column for each predicted one, in the order of `outputs`.

    The stronger a colour, the larger the share of the row; what is empty is transparent. More classes than pixels share
    them.
    """
    index = {output: number for number, output in enumerate(outputs)}
    side = min(len(outputs), MATRIX_SIDE)
    matrix = np.zeros((side, side))
    wrong = ~np.eye(side, dtype=bool)
    for label, output, count in counts:
        if output in index:
            matrix[index[label] * side // len(outputs), index[output] * side // len(outputs)] += count
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    strength = np.where(matrix > 0, 70 + np.rint(57 * np.sqrt(share)), 0)  # of 127; a single image can still be seen
    levels = np.where(wrong, 128 + strength, strength).astype(np.uint8)
    scale = MATRIX_SIDE // side
    picture = Image.fromarray(np.repeat(np.repeat(levels, scale, 0), scale, 1), "P")
    picture.putpalette([*RIGHT * 128, *WRONG * 128])
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True, transparency=bytes(level % 128 * 2 for level in range(256)))
    return _data_uri(file.getvalue(), "png")


def reliability_diagram(bins: list[Bin]) -> str:
    """An SVG: top-1 over the probability of the prediction with 95 % intervals, and below how many images are where."""
    size, strip = 300, 40  # of the diagram, of the strip below
    parts = []
    for percent in range(0, 101, 25):
        at = size * percent / 100
        parts += [
            f'<path class="grid" d="M0 {size - at:g}H{size}M{at:g} 0V{size}"/>',
            f'<text x="-6" y="{size - at + 4:g}" text-anchor="end">{percent}</text>',
            f'<text x="{at:g}" y="{size + strip + 20}" text-anchor="middle">{percent}</text>',
        ]
    most = max((each.images for each in bins), default=1)
    for each in bins:
        low, high = (size * (1 - end) for end in wilson_interval(each.top1, each.images))
        left, width, tall = size * each.low + 1, size / BINS - 2, strip * each.images / most
        at, top = size * each.confidence, size * (1 - each.top1)
        parts += [
            f"<g><title>{each.images} images, mean probability {each.confidence:.1%}, top-1 {each.top1:.1%}</title>"
            f'<rect class="bar" x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{size - top:.1f}"/>'
            f'<path class="interval" d="M{at:.1f} {low:.1f}V{high:.1f}"/>'
            f'<circle cx="{at:.1f}" cy="{top:.1f}" r="3.5"/>'
            f'<rect class="count" x="{left:.1f}" y="{size + strip + 4 - tall:.1f}" width="{width:.1f}" '
            f'height="{tall:.1f}"/></g>'
        ]
    return (
        f'<svg viewBox="-52 -10 {size + 64} {size + strip + 58}" role="img" aria-label="reliability diagram">'
        f'{"".join(parts)}<path class="ideal" d="M0 {size}L{size} 0"/>'
        f'<text x="{size / 2:g}" y="{size + strip + 40}" text-anchor="middle">probability of the prediction, %</text>'
        f'<text transform="rotate(-90)" x="{-size / 2:g}" y="-36" text-anchor="middle">right, %</text></svg>'
    )
