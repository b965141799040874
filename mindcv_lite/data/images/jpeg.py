"""A JPEG: do the segments of its header follow each other, are its tables sound (ITU-T T.81, annexes B and C), does it
end?"""

import re
from collections.abc import Iterator

FILL, FRAMES, TABLES, END, SCAN, QUANTIZERS, METADATA = 0xFF, (0xC0, 0xC1), 0xC4, 0xD9, 0xDA, 0xDB, 0xE1
NO_DATA = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # a marker, but for those that restart the decoder within a scan
RESTART_INTERVAL, COMMENT, APPLICATION = 0xDD, 0xFE, range(0xE0, 0xF0)
KNOWN = {*FRAMES, TABLES, SCAN, QUANTIZERS, RESTART_INTERVAL, COMMENT, *APPLICATION}  # in a header
LONGEST_SIDE = 65500  # pixels: libjpeg's limit
MOST_PIXELS = 178_956_970  # Pillow takes more for an attack
DC, AC = 0, 1  # classes of Huffman tables: for mean levels, for the rest


def has_sound_header(jpeg: bytes) -> bool:
    """False of a JPEG that is cut short before its scan, whose tables are damaged or missing, that has other segments
    than JPEGs do, or that is no baseline JPEG, grey or of three components: a progressive one has tables and headers
    all over."""
    codes: set[tuple[int, int]] = set()
    quantizers: set[int] = set()
    frame = b""
    for marker, body, _ in _segments(jpeg):
        if marker not in KNOWN or (marker in FRAMES and frame):
            return False
        if marker == TABLES and not _read_codes(body, codes):
            return False
        if marker == QUANTIZERS and not _read_quantizers(body, quantizers):
            return False
        if marker in FRAMES:
            frame = body
        if marker == SCAN:
            return _is_sound_frame(frame, quantizers) and _is_sound_scan(body, frame, codes)
    return False


def may_be_turned(jpeg: bytes) -> bool:
    """Whether there is a segment of a kind that may ask for a rotation: EXIF or XMP."""
    return any(marker == METADATA for marker, *_ in _segments(jpeg))


def has_end(jpeg: bytes) -> bool:
    """Whether the JPEG ends with its first scan, whose data hold no other marker before."""
    start = next((end for marker, _, end in _segments(jpeg) if marker == SCAN), len(jpeg))
    first = NO_DATA.search(jpeg, start)
    return bool(first) and first[0][1] == END


def _segments(jpeg: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Marker, body and end of each segment, as far as whole ones follow each other."""
    position = 2
    while position + 4 <= len(jpeg) and jpeg[position] == FILL:
        if jpeg[position + 1] == FILL:
            position += 1
            continue
        end = position + 2 + int.from_bytes(jpeg[position + 2 : position + 4], "big")
        if end < position + 4 or end > len(jpeg):
            return
        yield jpeg[position + 1], jpeg[position + 4 : end], end
        position = end


def _read_codes(body: bytes, codes: set[tuple[int, int]]) -> bool:
    """Add the Huffman tables of a segment; False if one of them is no code."""
    while body:
        kind, number = body[0] >> 4, body[0] & 15
        counts = body[1:17]
        symbols, body = body[17 : 17 + sum(counts)], body[17 + sum(counts) :]
        if kind > AC or number > 3 or len(counts) < 16 or not 0 < sum(counts) == len(symbols) <= 256:
            return False
        code = 0
        for length, count in enumerate(counts, 1):
            code += count
            if count and code >= 1 << length:
                return False
            code <<= 1
        if kind == DC and max(symbols) > 15:
            return False
        codes.add((kind, number))
    return True


def _read_quantizers(body: bytes, quantizers: set[int]) -> bool:
    while body:
        size = 128 if body[0] >> 4 else 64
        if body[0] >> 4 > 1 or body[0] & 15 > 3 or len(body) <= size:
            return False
        quantizers.add(body[0] & 15)
        body = body[1 + size :]
    return True


def _is_sound_frame(body: bytes, quantizers: set[int]) -> bool:
    """Precision, height, width, and of each component its name, sampling factors and quantizer."""
    if len(body) < 9 or len(body) != 6 + 3 * body[5] or body[0] != 8:
        return False
    height, width = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
    factors = [(each >> 4, each & 15) for each in body[7::3]]
    return (
        0 < height * width <= MOST_PIXELS
        and max(height, width) <= LONGEST_SIDE
        and len(factors) in (1, 3)
        and len(set(body[6::3])) == len(factors)
        and all(1 <= factor <= 4 for pair in factors for factor in pair)
        and sum(across * down for across, down in factors) <= 10
        and {*body[8::3]} <= quantizers
    )


def _is_sound_scan(body: bytes, frame: bytes, codes: set[tuple[int, int]]) -> bool:
    """The name of each component and its two codes; then 0, 63, 0: a baseline JPEG has one scan of everything."""
    count = frame[5]
    used = {(DC, byte >> 4) for byte in body[2:-3:2]} | {(AC, byte & 15) for byte in body[2:-3:2]}
    return (
        len(body) == 4 + 2 * count
        and body[0] == count
        and body[1:-3:2] == frame[6::3]
        and body[-3:] == bytes((0, 63, 0))
        and used <= codes
    )
