"""Which encoded images can be decoded, and encoding without loss."""

import warnings

import numpy as np
import pytest
from mindspore.dataset import vision
from PIL import Image

from mindcv_lite.data.images.validity import as_bmp, decodes, is_hopeless, opened, read_image


@pytest.fixture(autouse=True)
def working_directory(monkeypatch, tmp_path):
    """MindSpore's decoder writes abnormal_image.jpg there."""
    monkeypatch.chdir(tmp_path)


def test_exactly_the_images_that_can_be_decoded_do(image_folder):
    folder = image_folder({"train": {"a": 7}}) / "train/a"
    (folder / "1.jpg").write_bytes((folder / "1.jpg").read_bytes()[:100])
    (folder / "3.jpg").write_bytes(b"")
    (folder / "4.jpg").write_bytes(b"not an image at all")
    (folder / "6.jpg").unlink()
    sound = [number for number in range(7) if decodes(read_image(str(folder / f"{number}.jpg")))]
    assert sound == [0, 2, 5]


def test_an_image_is_read_as_it_is(image_folder):
    path = image_folder({"train": {"a": 1}}) / "train/a/0.jpg"
    assert read_image(str(path)).tobytes() == path.read_bytes()


def test_an_image_that_ends_within_its_jpeg_tables_does_not_decode(image_folder):
    path = image_folder({"train": {"a": 1}}) / "train/a/0.jpg"
    whole = path.read_bytes()
    tables = slice(whole.index(b"\xff\xc0"), whole.index(b"\xff\xda"))  # from start of frame to start of scan
    for end in range(tables.start, tables.stop, 50):
        assert not decodes(np.frombuffer(whole[:end], np.uint8))
        path.write_bytes(whole[:end])
        assert len(read_image(str(path))) == 0  # MindSpore's decoder must not see it


def test_a_broken_image_leaves_no_copy_of_itself_behind(image_folder, tmp_path):
    path = image_folder({"train": {"a": 1}}) / "train/a/0.jpg"
    path.write_bytes(path.read_bytes()[:100])
    assert not decodes(read_image(str(path)))
    assert [entry.name for entry in tmp_path.iterdir()] == ["images"]


def test_of_a_large_image_that_decodes_nothing_is_said(image_folder, monkeypatch):
    content = read_image(str(image_folder({"train": {"a": 1}}) / "train/a/0.jpg"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1500)  # of 1920: Pillow warns, and refuses twice as many
    with warnings.catch_warnings(record=True) as said:
        assert decodes(content)
    assert not said


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_as_bmp_keeps_its_pixels(channels):
    images = np.random.default_rng(0).integers(0, 256, (3, 5, 8, channels), np.uint8)
    for content, image in zip(as_bmp(images), images, strict=True):
        assert not is_hopeless(content)
        with opened(content.tobytes()) as original:
            assert np.array_equal(np.asarray(original), np.broadcast_to(image, (5, 8, 3)))
        assert np.array_equal(vision.Decode()(content), np.broadcast_to(image, (5, 8, 3)))
