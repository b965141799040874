"""Which JPEGs have a header that MindSpore's decoder may see: damaged tables end its process."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mindcv_lite.data.images.decoding import ORIENTATION, decodes, is_native
from mindcv_lite.data.images.jpeg import has_end, has_sound_header

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
QUANTIZERS, CODES, SCAN = b"\xff\xdb", b"\xff\xc4", b"\xff\xda"


def jpeg(mode: str = "RGB", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def with_byte(content: bytes, position: int, value: int) -> bytes:
    return content[:position] + bytes([value]) + content[position + 1 :]


def is_refused(content: bytes) -> bool:
    return not (has_sound_header(content) or decodes(np.frombuffer(content, np.uint8)))


def is_left_to_pillow(content: bytes) -> bool:
    return not is_native(np.frombuffer(content, np.uint8))


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("options", [{}, {"optimize": True}, {"quality": 5}, {"subsampling": 0}], ids=str)
def test_the_headers_of_baseline_jpegs_are_sound(mode, options):
    assert has_sound_header(jpeg(mode, **options))
    assert has_sound_header(jpeg(mode, **options, restart_marker_rows=1))
    assert not is_left_to_pillow(jpeg(mode, **options, restart_marker_rows=1))


def test_four_colours_are_left_to_pillow_which_knows_what_they_mean():
    assert is_left_to_pillow(jpeg("CMYK"))


@pytest.mark.parametrize("orientation", range(10))
def test_what_is_turned_is_left_to_pillow(orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    assert is_left_to_pillow(jpeg(exif=exif)) == (2 <= orientation <= 8)


@pytest.mark.parametrize("options", [{"progressive": True}, {"progressive": True, "optimize": True}], ids=str)
def test_progressive_jpegs_are_left_to_pillow(options):
    content = jpeg(**options)
    assert is_left_to_pillow(content)
    assert decodes(np.frombuffer(content, np.uint8))
    later = content.index(CODES, content.index(SCAN))  # a table between two scans
    assert is_refused(with_byte(content, later + 7, 194))


def test_damaged_codes_are_refused():
    content = jpeg()
    begin = content.index(CODES) + 5
    for position in range(begin, begin + 8):  # how many codes there are of each length
        assert is_refused(with_byte(content, position, 194))
    assert is_refused(with_byte(content, begin - 1, 0x70))  # a table of no such class


@pytest.mark.parametrize("sides", [b"\xf0\xf0\xf0\xf0", b"\x00\x08\xff\xfe"], ids=["many pixels", "a long side"])
def test_more_pixels_than_are_decoded_are_refused(sides):
    content = jpeg()
    size = content.index(b"\xff\xc0") + 5
    assert is_refused(content[:size] + sides + content[size + 4 :])


def test_missing_quantizers_are_refused():
    content = jpeg()
    assert is_refused(with_byte(content, content.index(QUANTIZERS) + 1, 0xFE))  # a comment instead


def test_no_byte_of_the_tables_frame_and_scan_can_be_damaged_so_that_pillow_alone_would_refuse_it():
    content = jpeg(quality=50)
    begin, end, reasons = content.index(QUANTIZERS), content.index(SCAN) + 14, []
    for position in range(begin, end):
        for value in (0, 1, 0x44, 0x7F, 194, 0xFF):
            damaged = with_byte(content, position, value)
            if has_sound_header(damaged) and not decodes(np.frombuffer(damaged, np.uint8)):
                reasons.append((position, value))
    assert not reasons


@pytest.mark.parametrize("marker", range(1, 0xFF))
def test_of_the_segments_that_decoders_may_stumble_over_none_is_in_a_sound_header(marker):
    content = jpeg()
    assert has_sound_header(content[:2] + bytes([0xFF, marker, 0, 6]) + bytes(4) + content[2:]) == (
        marker == 0xFE or marker == 0xDD or 0xE0 <= marker < 0xF0
    )


def test_fill_bytes_before_a_marker_are_taken():
    content = jpeg()
    padded = content[:2] + b"\xff" * 5 + content[2:]
    assert has_sound_header(padded)
    assert not is_left_to_pillow(padded)


@pytest.mark.parametrize("trailer", [b"", bytes(40), b"\xff\xda" * 3])
def test_a_jpeg_that_is_cut_short_has_no_end_though_the_small_picture_within_it_has(trailer):
    exif = Image.Exif()
    exif[0x927C] = jpeg()  # a maker's note
    content = jpeg(exif=exif)
    assert content.count(b"\xff\xd9") == 2
    assert has_end(content)
    assert not has_end(content[:-2])
    assert not has_end(content[: len(content) - 300])
    assert not is_left_to_pillow(content + trailer)
    assert not decodes(np.frombuffer(content[: len(content) - 300], np.uint8))


@pytest.mark.parametrize("marker", range(0xC0, 0xFF))
def test_a_marker_within_the_scan_is_left_to_pillow_but_for_those_that_restart_it(marker):
    content = jpeg(restart_marker_rows=1)
    middle = (content.index(SCAN) + len(content)) // 2
    damaged = content[:middle] + bytes([0xFF, marker]) + content[middle:]
    assert is_left_to_pillow(damaged) == (marker not in {*range(0xD0, 0xD8), 0xD9})
