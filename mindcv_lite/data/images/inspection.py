"""What an image file is: whether it can be decoded, what training would not expect of it, and a digest of its bytes."""

import os
from collections.abc import Generator, Iterator, Sequence
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from PIL import Image

from mindcv_lite.data.images.validity import SIGNATURES, decodes, is_hopeless, opened
from mindcv_lite.program import progress_bar
from mindcv_lite.signals import in_processes

# What files begin with that are no images here, but are often named so.
STRANGERS = {b"GIF8": "a GIF", b"RIFF": "a WebP", b"II*\0": "a TIFF", b"MM\0*": "a TIFF", b"<": "a web page"}
FORMAT_OF = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".bmp": "BMP"}
ORIENTATION = 0x0112  # the EXIF tag; 1 is upright, 2 to 8 are turned or mirrored
CHUNK = 32  # images that a process takes at a time


class Facts(NamedTuple):
    """What is known of a file: why it cannot be decoded (`flaw`), or else the rest."""

    flaw: str
    traits: tuple[str, ...] = ()  # such as "in greyscale"
    size: tuple[int, int] = (0, 0)  # width, height
    digest: bytes = b""  # 16 bytes, of the encoded image


def inspect(path: str) -> Facts:
    """Read and decode one file."""
    try:
        content = np.fromfile(path, np.uint8)
        encoded = content.tobytes()
        if is_hopeless(content) or not decodes(content):
            return Facts(_flaw(encoded))
        with opened(encoded) as image:
            return Facts("", tuple(_traits(image, path)), image.size, blake2b(encoded, digest_size=16).digest())
    except OSError as error:
        return Facts(f"cannot be read: {error.strerror or error}")
    except MemoryError:
        return Facts("too large for the memory")


def inspect_all(paths: Sequence[str]) -> Generator[Facts, None, None]:
    """The facts of each file, in order, worked out on all cores."""
    chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    with in_processes(_inspect_chunk, chunks, "decodes images") as tasks:
        results = (facts for _ in chunks for facts in tasks.popleft().result())  # a result is kept no longer
        yield from progress_bar(results, "check", len(paths), unit="image")


def _inspect_chunk(paths: Sequence[str]) -> list[Facts]:
    return [inspect(path) for path in paths]


def _flaw(encoded: bytes) -> str:
    """Why an image cannot be decoded."""
    if not encoded:
        return "empty"
    if stranger := next((name for signature, name in STRANGERS.items() if encoded.startswith(signature)), None):
        return f"{stranger}, not a JPEG, PNG or BMP"
    if not encoded.startswith(SIGNATURES):
        return "not a JPEG, PNG or BMP"
    try:
        with opened(encoded):
            pass
    except Image.DecompressionBombError:
        return f"more than {2 * (Image.MAX_IMAGE_PIXELS or 0) // 1_000_000} million pixels"
    except (OSError, SyntaxError, ValueError):
        pass
    return "damaged or cut short"


def _traits(image: Image.Image, path: str) -> Iterator[str]:
    kind = "JPEG" if image.format == "MPO" else image.format  # MPO: a JPEG with more pictures behind the first
    if kind != FORMAT_OF.get(os.path.splitext(path)[1].lower()):
        yield f"of format {kind} under another extension"
    if image.mode in ("1", "L", "LA", "I", "I;16"):
        yield "in greyscale"
    if image.mode == "CMYK":
        yield "in CMYK"
    if image.mode == "P":
        yield "with a palette"
    if image.mode in ("LA", "RGBA") or "transparency" in image.info:
        yield "with transparency, which is dropped"
    turned = is_turned(image)
    if turned is None:
        yield "with EXIF data that cannot be read"
    elif turned:
        yield "with a rotation in their EXIF data, which is not followed"


def is_turned(image: Image.Image) -> bool | None:
    """Whether the EXIF data of a JPEG ask for a rotation or a mirroring; None where they cannot be read."""
    if image.format not in ("JPEG", "MPO"):  # for the EXIF data of a PNG, Pillow decodes the image once more
        return False
    try:
        return image.getexif().get(ORIENTATION) in range(2, 9)
    except Exception:  # Pillow lets through whatever its reader stumbles over, SyntaxError and struct.error among it
        return None
