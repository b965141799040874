"""The facts of one file, and of many."""

import io
import os

import numpy as np
import pytest
from PIL import Image

from mindcv_lite.data.images.decoding import READ
from mindcv_lite.data.images.inspection import Facts, inspect

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8))
TURNED = Image.Exif()
TURNED[0x0112] = 6


@pytest.mark.parametrize(
    ("name", "mode", "options", "traits"),
    [
        ("a.JPG", "RGB", {}, ()),
        ("a.jpg", "RGB", {"exif": TURNED}, ("with a rotation in their EXIF data, which is followed",)),
        ("a.jpg", "L", {}, ("in greyscale",)),
        ("a.jpg", "CMYK", {}, ("in CMYK",)),
        ("a.png", "P", {}, ("with a palette",)),
        ("a.png", "RGBA", {}, ("with transparency, which is dropped",)),
        ("a.png", "P", {"transparency": 0}, ("with a palette", "with transparency, which is dropped")),
        ("a.bmp", "RGB", {}, ()),
        ("a.jpg", "RGB", {"format": "PNG"}, ("of format PNG under another extension",)),
        ("a.jpg", "RGB", {"format": "MPO"}, ()),
        ("a.jfif", "RGB", {"format": "JPEG"}, ()),
        ("a.webp", "RGB", {}, ()),
        ("a.tif", "RGB", {}, ()),
        ("a.gif", "P", {}, ("with a palette",)),
        ("a.png", "RGB", {"exif": TURNED}, ("with a rotation in their EXIF data, which is followed",)),
    ],
)
def test_an_image_that_decodes_is_told_with_its_size_and_what_is_odd(tmp_path, name, mode, options, traits):
    NOISE.convert(mode).save(tmp_path / name, **options)
    facts = inspect(str(tmp_path / name))
    assert facts[:3] == ("", traits, (40, 60) if "exif" in options else (60, 40))
    assert len(facts.digest) == 16


@pytest.mark.parametrize("share", [0.02, 0.2, 0.9])
@pytest.mark.parametrize("kind", ["jpg", "png", "bmp"])
def test_an_image_that_is_cut_short_does_not_decode(tmp_path, kind, share):
    path = tmp_path / f"a.{kind}"
    NOISE.save(path)
    os.truncate(path, int(share * path.stat().st_size))
    assert inspect(str(path)) == Facts("damaged or cut short")


def test_a_file_that_is_no_image_is_told_by_what_it_is(tmp_path):
    def flaw(content: bytes) -> str:
        (tmp_path / "a.jpg").write_bytes(content)
        return inspect(str(tmp_path / "a.jpg")).flaw

    assert flaw(b"") == "empty"
    assert flaw(b"hello") == f"not a {READ}"
    assert flaw(b"<html>") == f"a web page, not a {READ}"
    assert flaw(bytes(3) + b"\x20ftypheic" + bytes(40)) == f"a HEIC, not a {READ}"
    assert flaw(bytes(3) + b"\x20ftypavif" + bytes(40)) == f"an AVIF, not a {READ}"
    deep = io.BytesIO()
    Image.fromarray(np.zeros((4, 4), np.float32)).save(deep, "TIFF")
    assert flaw(deep.getvalue()) == "32 bits a channel; 8 and 16 are read"


def test_what_cannot_be_read_or_is_too_large_is_a_flaw_too(tmp_path, monkeypatch):
    assert inspect(str(tmp_path / "nowhere.jpg")) == Facts("cannot be read: No such file or directory")
    NOISE.save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert inspect(str(tmp_path / "a.png")).flaw == "more than 0 million pixels"
    monkeypatch.undo()
    monkeypatch.setattr("mindcv_lite.data.images.inspection.decoded", lambda _: np.zeros(1 << 60, np.uint8))
    assert inspect(str(tmp_path / "a.png")).flaw == "too large for the memory"


def test_the_digest_is_of_the_content_alone(tmp_path):
    NOISE.save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes())
    NOISE.rotate(180).save(tmp_path / "c.png")
    a, b, c = (inspect(str(tmp_path / f"{name}.png")).digest for name in "abc")
    assert a == b != c
