"""Thumbnails of any kind of image, and the pixels of a confusion matrix."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from mindcv_lite.data.datasets.image_folder import Split
from mindcv_lite.evaluation.report.pictures import MATRIX_SIDE, SIDE, confusion_picture, thumbnail, thumbnails


def image_of(uri: str) -> Image.Image:
    start, content = uri.split(",")
    assert start in ("data:image/jpeg;base64", "data:image/png;base64")
    return Image.open(io.BytesIO(base64.b64decode(content)))


def encoded(mode: str, size: tuple[int, int], kind: str) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size, 1).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize(
    ("mode", "size", "kind"),
    [
        *[("RGB", (4000, 3000), "JPEG"), ("L", (1, 1), "JPEG"), ("CMYK", (90, 300), "JPEG")],
        *[("P", (300, 200), "PNG"), ("RGBA", (5000, 2), "PNG"), ("1", (7, 900), "PNG"), ("RGB", (32, 32), "BMP")],
    ],
)
def test_an_image_of_any_kind_becomes_a_small_jpeg(mode, size, kind):
    uri = thumbnail(encoded(mode, size, kind))
    assert uri
    small = image_of(uri)
    assert (small.format, small.mode) == ("JPEG", "RGB")
    assert max(small.size) == min(SIDE, max(size))


@pytest.mark.parametrize("content", [b"", b"no image", b"GIF89a", encoded("RGB", (64, 64), "PNG")[:80]])
def test_what_pillow_cannot_read_has_no_picture(content):
    assert thumbnail(content) is None


def test_pictures_are_known_by_the_index_of_their_image(tmp_path):
    paths = [str(tmp_path / f"{number}.png") for number in range(4)]
    for number, path in enumerate(paths):
        Image.new("L", (8 + number, 8)).save(path)
    (tmp_path / "2.png").unlink()
    found = thumbnails(Split(paths, np.zeros(4, np.int32), ("a",)), [3, 1, 3, 2])
    assert {index: image_of(uri).size for index, uri in found.items()} == {1: (9, 8), 3: (11, 8)}


def test_a_matrix_of_many_classes_shows_each_cell_at_its_position():
    counts = [(10, 10, 5), (10, 30, 5), (20, 10, 1), (20, -1, 1)]
    picture = image_of(confusion_picture(counts, [10, 20, 30])).convert("RGBA")
    cell = MATRIX_SIDE // 3
    assert picture.size == (3 * cell, 3 * cell)
    opaque = {
        (row, column)
        for row in range(3)
        for column in range(3)
        if picture.getpixel((column * cell + cell // 2, row * cell + cell // 2))[3]  # pyrefly: ignore
    }
    assert opaque == {(0, 0), (0, 2), (1, 0)}


@pytest.mark.parametrize("classes", [MATRIX_SIDE, 2 * MATRIX_SIDE + 1])
def test_a_matrix_of_very_many_classes_is_no_larger_than_its_limit(classes):
    counts = [(label, label, 1) for label in range(classes)]
    picture = image_of(confusion_picture(counts, list(range(classes)))).convert("RGBA")
    assert picture.size == (MATRIX_SIDE, MATRIX_SIDE)
    alpha = np.asarray(picture)[..., 3]
    assert np.array_equal(alpha > 0, np.eye(MATRIX_SIDE, dtype=bool))
