"""What an image file is: whether it can be decoded, what training would not expect of it, and a digest of its bytes."""

import os
from collections.abc import Generator, Iterator, Sequence
from hashlib import blake2b
from typing import NamedTuple

from PIL import Image

from mindcv_lite.data.images.decoding import (
    NOT_DECODED,
    READ,
    UPRIGHT,
    TooDeep,
    decoded,
    opened,
    orientation,
    read_file,
)
from mindcv_lite.processes import in_processes
from mindcv_lite.program import progress_bar

# What files that are often named like images begin with, behind so many bytes.
STRANGERS = {
    "a HEIC": (4, (b"ftyphei", b"ftyphev", b"ftypmif1", b"ftypmsf1")),
    "an AVIF": (4, (b"ftypavi",)),
    "a web page": (0, (b"<",)),
    "a PDF": (0, (b"%PDF",)),
}
# How images of the formats that are read begin.
SIGNATURES = (b"\xff\xd8", b"\x89PNG", b"BM", b"RIFF", b"II*\0", b"MM\0*", b"GIF8")
FORMAT_OF = {".png": "PNG", ".bmp": "BMP", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF", ".gif": "GIF"}
TOO_LARGE = "too large for the memory"
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
        encoded = read_file(path)[0].tobytes()
    except OSError as error:
        return Facts(f"cannot be read: {error.strerror or error}")
    except MemoryError:
        return Facts(TOO_LARGE)
    try:
        with opened(encoded) as image:
            height, width, _ = decoded(image).shape
            return Facts("", tuple(_traits(image, path)), (width, height), blake2b(encoded, digest_size=16).digest())
    except MemoryError:
        return Facts(TOO_LARGE)
    except NOT_DECODED as error:
        return Facts(_flaw(encoded, error))


def inspect_all(paths: Sequence[str]) -> Generator[Facts, None, None]:
    """The facts of each file, in order, worked out on all cores."""
    chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    with in_processes(_inspect_chunk, chunks, "decodes images") as tasks:
        results = (facts for _ in chunks for facts in tasks.popleft().result())  # a result is kept no longer
        yield from progress_bar(results, "check", len(paths), unit="image")


def _inspect_chunk(paths: Sequence[str]) -> list[Facts]:
    return [inspect(path) for path in paths]


def _flaw(encoded: bytes, error: Exception) -> str:
    """Why an image cannot be decoded, at which Pillow raised `error`."""
    if not encoded:
        return "empty"
    for name, (start, signatures) in STRANGERS.items():
        if encoded[start:].startswith(signatures):
            return f"{name}, not a {READ}"
    if not encoded.startswith(SIGNATURES):
        return f"not a {READ}"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {2 * (Image.MAX_IMAGE_PIXELS or 0) // 1_000_000} million pixels"
    return str(error) if isinstance(error, TooDeep) else "damaged or cut short"


def _traits(image: Image.Image, path: str) -> Iterator[str]:
    kind = "JPEG" if image.format == "MPO" else image.format  # MPO: a JPEG with more pictures behind the first
    if kind != FORMAT_OF.get(os.path.splitext(path)[1].lower(), "JPEG"):
        yield f"of format {kind} under another extension"
    if image.mode in ("1", "L", "LA", "I", "I;16"):
        yield "in greyscale"
    if image.mode == "CMYK":
        yield "in CMYK"
    if image.mode == "P":
        yield "with a palette"
    if image.mode in ("LA", "RGBA") or "transparency" in image.info:
        yield "with transparency, which is dropped"
    if orientation(image) in UPRIGHT:
        yield "with a rotation in their EXIF data, which is followed"
