"""Encoded images, the content of an image file: who decodes them, and whether they can be decoded.

MindSpore decodes plain JPEGs, in part and fast. All else is Pillow's, which knows more formats, follows EXIF and has an
error for whatever is damaged, where MindSpore may end or hang its process. So one judgement holds for checking,
packing, training, validation and prediction: an image can be decoded if Pillow decodes it.
"""

import io
import os
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image

from mindcv_lite.data.images.jpeg import has_end, has_sound_header, may_be_turned

# Told by their content; these names only say which files are listed.
EXTENSIONS = (".jpg", ".jpeg", ".jpe", ".jfif", ".pjpeg", ".pjp", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif")
READ = "JPEG, PNG, BMP, WebP, TIFF or GIF"
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF")  # what Pillow is asked to decode
JPEG = b"\xff\xd8"
ORIENTATION = 0x0112  # the EXIF tag; 1 is upright, 2 to 8 are turned or mirrored
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# What Pillow raises on an image that is no image, or broken.
NOT_DECODED = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


class TooDeep(ValueError):
    """Pixels of more bits than an image has to be shown: what they mean is not known."""


def read_file(path: str) -> tuple[np.ndarray, int]:
    """The content of a file, uint8 (bytes,), and its version, a number that changes with the file."""
    with open(path, "rb", buffering=0) as file:
        content = file.readall()
        return np.frombuffer(content, np.uint8), os.fstat(file.fileno()).st_mtime_ns ^ len(content)


@contextmanager
def opened(content: bytes) -> Iterator[Image.Image]:
    """The image for Pillow, which reads its pixels when asked to. Raises one of `NOT_DECODED`, then or now."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                yield image
        except (*NOT_DECODED, MemoryError):
            raise
        except Exception as error:  # Pillow lets through whatever its readers stumble over, IndexError among it
            raise OSError(f"{type(error).__name__}: {error}") from error


def is_native(content: np.ndarray) -> bool:
    """Whether MindSpore is to decode the image: an upright baseline JPEG, grey or in colour, whose header is sound and
    which has an end."""
    encoded = content.tobytes()
    return (
        encoded.startswith(JPEG)
        and has_sound_header(encoded)
        and has_end(encoded)
        and not (may_be_turned(encoded) and _is_turned(encoded))
    )


def _is_turned(encoded: bytes) -> bool:
    try:
        with opened(encoded) as image:
            return orientation(image) in UPRIGHT
    except NOT_DECODED:
        return True  # for Pillow to say what is wrong


def orientation(image: Image.Image) -> int:
    """What the image's EXIF data say of it; 1, upright, where they say nothing that can be read."""
    try:
        return image.getexif().get(ORIENTATION, 1)
    except Exception:  # Pillow lets through whatever its reader stumbles over, SyntaxError and struct.error among it
        return 1


def pixels_of(content: bytes, follow_exif: bool = True) -> np.ndarray:
    """The pixels of an image, of its first frame where there are several: uint8 (height, width, 1 or 3).

    Raises one of `NOT_DECODED`.
    """
    with opened(content) as image:
        return decoded(image, follow_exif)


def decoded(image: Image.Image, follow_exif: bool = True) -> np.ndarray:
    """The same of an opened image."""
    image.load()
    pixels = grey_or_rgb(image)
    pixels = np.asarray(turned(pixels, orientation(image)) if follow_exif else pixels)
    return pixels if pixels.ndim == 3 else pixels[..., None]


def turned(image: Image.Image, orientation: int) -> Image.Image:
    """The image of such an orientation, upright."""
    return image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image


def grey_or_rgb(image: Image.Image) -> Image.Image:
    """The pixels as MindSpore decodes them: 8 bits, grey or RGB."""
    if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):
        raise TooDeep("32 bits a channel; 8 and 16 are read")
    if image.mode.startswith("I"):  # 16 bits of grey, of which MindSpore takes the upper 8
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image if image.mode in ("L", "RGB") else image.convert("RGB")  # without alpha, as in MindSpore


def decodes(content: np.ndarray) -> bool:
    """Whether the bytes (uint8) are an image that can be decoded."""
    try:
        pixels_of(content.tobytes())
    except NOT_DECODED:
        return False
    return True


def for_mindspore(content: np.ndarray, follow_exif: bool = True) -> np.ndarray:
    """An image that MindSpore does not decode as a BMP of its pixels, uint8 (bytes,); empty if it cannot be decoded."""
    try:
        return as_bmp(pixels_of(content.tobytes(), follow_exif)[None])[0]
    except (*NOT_DECODED, MemoryError):
        return content[:0]


def as_bmp(images: np.ndarray) -> np.ndarray:
    """Images, uint8 (count, height, width, 1 or 3), as BMP files without loss: uint8 (count, bytes)."""
    count, height, width, _ = images.shape
    row = -(-3 * width // 4) * 4  # bytes: BMP fills up rows to whole 4 of them
    size = height * row
    header = struct.pack("<2s3I3I2H6I", b"BM", 54 + size, 0, 54, 40, width, height, 1, 24, 0, size, 0, 0, 0, 0)
    files = np.zeros((count, len(header) + size), np.uint8)
    files[:, : len(header)] = np.frombuffer(header, np.uint8)
    rows = files[:, len(header) :].reshape(count, height, row)[..., : 3 * width]
    pixels = np.lib.stride_tricks.as_strided(rows, (count, height, width, 3), (*rows.strides[:2], 3, 1))
    pixels[:] = images[:, ::-1, :, ::-1]  # from the bottom up, blue first; grey is spread over the three
    return files
