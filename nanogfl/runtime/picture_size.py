"""Size of a picture from its header, so that decompression bombs are refused before decoding."""

from __future__ import annotations

import struct

PNG = b"\x89PNG\r\n\x1a\n"
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # JPEG start-of-frame markers, of all codings
ALONE = frozenset({0x00, 0x01, *range(0xD0, 0xD9)})  # what has no length after 0xFF; 0x00 is no marker, but data
MARKERS = 10_000  # limit; real files have one or two dozen before the frame


def picture_size(data: bytes) -> tuple[int, int] | None:
    """Return (height, width) in px from the header; None if it is not a PNG, JPEG, WebP or BMP, or is truncated."""
    try:
        if data.startswith(PNG) and data[12:16] == b"IHDR":
            width, height = struct.unpack_from(">II", data, 16)
        elif data.startswith(b"\xff\xd8"):
            height, width = _jpeg(data)
        elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            height, width = _webp(data)
        elif data.startswith(b"BM"):
            height, width = _bmp(data)
        else:
            return None
    except (struct.error, IndexError, ValueError):
        return None
    return (height, width) if height > 0 and width > 0 else None


def _jpeg(data: bytes) -> tuple[int, int]:
    """Return the size of a JPEG: follow the markers up to the frame header, as decoders do."""
    at = 2
    for _ in range(MARKERS):
        at = data.index(b"\xff", at)
        while data[at] == 0xFF:
            at += 1
        marker = data[at]
        if marker in FRAMES:
            height, width = struct.unpack_from(">HH", data, at + 4)
            return height, width
        at += 1 if marker in ALONE else 1 + struct.unpack_from(">H", data, at + 1)[0]
    raise ValueError("no frame")


def _webp(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if kind == b"VP8X":  # 24 bits each, stored minus one
        return 1 + int.from_bytes(data[27:30], "little"), 1 + int.from_bytes(data[24:27], "little")
    if kind == b"VP8L":  # 14 bits each, stored minus one
        (bits,) = struct.unpack_from("<I", data, 21)
        return 1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return height & 0x3FFF, width & 0x3FFF
    raise ValueError("no picture")


def _bmp(data: bytes) -> tuple[int, int]:
    (header,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if header == 12 else "<ii", data, 18)
    return abs(height), width
