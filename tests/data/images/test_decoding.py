"""Which encoded images can be decoded, and encoding without loss."""

import io
import warnings
from typing import Any

import numpy as np
import pytest
from mindspore.dataset import vision
from PIL import Image, ImageOps

from mindcv_lite.data.images.decoding import as_bmp, decodes, for_mindspore, is_native, opened, pixels_of, read_file

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 57, 3), np.uint8))


def encoded(image: Image.Image, kind: str, **options: Any) -> np.ndarray:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return np.frombuffer(file.getvalue(), np.uint8)


def test_exactly_the_images_that_can_be_decoded_do(image_folder):
    folder = image_folder({"train": {"a": 7}}) / "train/a"
    (folder / "1.jpg").write_bytes((folder / "1.jpg").read_bytes()[:100])
    (folder / "3.jpg").write_bytes(b"")
    (folder / "4.jpg").write_bytes(b"not an image at all")
    sound = [number for number in range(7) if decodes(read_file(str(folder / f"{number}.jpg"))[0])]
    assert sound == [0, 2, 5, 6]


def test_an_image_that_ends_within_its_jpeg_tables_does_not_decode(image_folder):
    path = image_folder({"train": {"a": 1}}) / "train/a/0.jpg"
    whole = path.read_bytes()
    tables = slice(whole.index(b"\xff\xc0"), whole.index(b"\xff\xda"))  # from start of frame to start of scan
    for end in range(tables.start, tables.stop, 50):
        content = np.frombuffer(whole[:end], np.uint8)
        assert not decodes(content)
        assert not is_native(content)  # MindSpore's decoder must not see it
        assert len(for_mindspore(content)) == 0


def test_of_a_large_image_that_decodes_nothing_is_said(image_folder, monkeypatch):
    content, _ = read_file(str(image_folder({"train": {"a": 1}}) / "train/a/0.jpg"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1500)  # of 1920: Pillow warns, and refuses twice as many
    with warnings.catch_warnings(record=True) as said:
        assert decodes(content)
    assert not said


@pytest.mark.parametrize("width", [1, 2, 3, 4, 7, 8])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_as_bmp_keeps_its_pixels(channels, width):
    images = np.random.default_rng(0).integers(0, 256, (3, 5, width, channels), np.uint8)
    for content, image in zip(as_bmp(images), images, strict=True):
        with opened(content.tobytes()) as original:
            assert np.array_equal(np.asarray(original), np.broadcast_to(image, (5, width, 3)))
        assert np.array_equal(vision.Decode()(content), np.broadcast_to(image, (5, width, 3)))


@pytest.mark.parametrize(
    ("mode", "kind", "options"),
    [
        ("RGB", "JPEG", {}),
        ("L", "JPEG", {}),
        ("RGB", "JPEG", {"progressive": True}),
        ("CMYK", "JPEG", {}),
        ("RGB", "PNG", {}),
        ("P", "PNG", {"transparency": 3}),
        ("RGBA", "PNG", {}),
        ("RGB", "BMP", {}),
        ("RGB", "WEBP", {}),
        ("RGB", "TIFF", {"compression": "tiff_lzw"}),
        ("P", "GIF", {}),
    ],
    ids=str,
)
def test_mindspore_sees_the_pixels_that_pillow_decodes(mode, kind, options):
    content = encoded(NOISE.convert(mode), kind, **options)
    seen = vision.Decode()(content if is_native(content) else for_mindspore(content))
    with opened(content.tobytes()) as image:
        assert np.array_equal(seen, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_its_exif_data_ask_unless_they_are_not_to_be_followed(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(NOISE, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    with opened(content.tobytes()) as image:
        image.load()
        expected = np.asarray(ImageOps.exif_transpose(image))
    assert is_native(content) == (kind == "JPEG" and orientation == 1)
    assert np.array_equal(vision.Decode()(for_mindspore(content)), expected)
    if kind != "TIFF":  # which Pillow always turns
        as_stored = np.asarray(vision.Decode()(for_mindspore(content, follow_exif=False)))
        assert as_stored.shape == (40, 57, 3)
        assert np.array_equal(as_stored, expected) == (orientation == 1)


def test_exif_data_that_cannot_be_read_turn_nothing():
    content = encoded(NOISE, "JPEG", exif=b"Exif\0\0MM\0*" + bytes([255] * 40))
    assert pixels_of(content.tobytes()).shape == (40, 57, 3)


def test_whatever_pillow_stumbles_over_the_image_cannot_be_decoded(monkeypatch):
    content = encoded(NOISE, "PNG")

    def fail(image: Image.Image) -> None:
        raise IndexError("index out of range")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fail)
    assert not decodes(content)
    assert len(for_mindspore(content)) == 0


def test_of_several_frames_the_first_is_taken():
    frames = [Image.new("P", (8, 8), color) for color in (0, 1)]
    frames[0].putpalette([10, 20, 30, 40, 50, 60])
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert np.unique(pixels_of(content.tobytes()).reshape(-1, 3), axis=0).tolist() == [[10, 20, 30]]
