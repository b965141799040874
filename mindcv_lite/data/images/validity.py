"""Encoded images, the content of a .jpg or .png: which of them can be decoded; images made into such."""

import io
import os
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image

from mindcv_lite.data.images.jpeg import has_end, has_sound_header

JPEG = b"\xff\xd8"
# How images begin. Of files that it does not know MindSpore leaves a copy in the working directory.
SIGNATURES = (JPEG, b"\x89PNG", b"BM")
FORMATS = ("JPEG", "PNG", "BMP")  # what Pillow is asked to decode


def read_image(path: str) -> np.ndarray:
    """The content of a file, uint8 (bytes,); empty where there is none, or none that can be decoded at all."""
    content, _ = read_file(path)
    return content[:0] if is_hopeless(content) else content


def read_file(path: str) -> tuple[np.ndarray, int]:
    """The content of a file, uint8 (bytes,), and its version, a number that changes with the file; empty and 0 where
    there is none."""
    try:
        with open(path, "rb", buffering=0) as file:
            content = file.readall()
            return np.frombuffer(content, np.uint8), os.fstat(file.fileno()).st_mtime_ns ^ len(content)
    except OSError:
        return np.zeros(0, np.uint8), 0


# What Pillow raises on an image that is no image, or broken.
NOT_DECODED = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


@contextmanager
def opened(content: bytes) -> Iterator[Image.Image]:
    """The image for Pillow, which reads its pixels when asked to. Raises one of `NOT_DECODED`, then or now."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            yield image


def decodes(content: np.ndarray) -> bool:
    """Whether the bytes (uint8) are an image that can be decoded."""
    # Pillow, because on a broken image MindSpore's decoder may report its error again for the next, or end the process.
    try:
        with opened(content.tobytes()) as image:
            image.load()
    except NOT_DECODED:
        return False
    return True


def is_hopeless(content: np.ndarray) -> bool:
    """Whether MindSpore must not see a file: of another kind, a JPEG whose header is damaged, which can end or hang its
    process, or one that is cut short, of which it leaves a copy in the working directory."""
    start = content[:4].tobytes()
    if not start.startswith(SIGNATURES):
        return True
    if not start.startswith(JPEG):
        return False
    encoded = content.tobytes()
    return not (has_sound_header(encoded) and has_end(encoded)) and not decodes(content)


def as_bmp(images: np.ndarray) -> np.ndarray:
    """Images, uint8 (count, height, width, 1 or 3), as BMP files without loss: uint8 (count, bytes)."""
    count, height, width, _ = images.shape
    assert width % 4 == 0, "BMP fills up rows to whole 4 bytes"
    size = 3 * height * width
    header = struct.pack("<2s3I3I2H6I", b"BM", 54 + size, 0, 54, 40, width, height, 1, 24, 0, size, 0, 0, 0, 0)
    files = np.empty((count, len(header) + size), np.uint8)
    files[:, : len(header)] = np.frombuffer(header, np.uint8)
    pixels = files[:, len(header) :].reshape(count, height, width, 3)  # a view, as only the first axis has gaps
    pixels[:] = images[:, ::-1, :, ::-1]  # from the bottom up, blue first; grey is spread over the three
    return files


def grey_or_rgb(image: Image.Image) -> Image.Image:
    """The pixels as MindSpore decodes them: 8 bits, grey or RGB."""
    if image.mode.startswith("I"):  # 16 bits of grey, of which MindSpore takes the upper 8
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image if image.mode == "L" else image.convert("RGB")  # without alpha, as in MindSpore
