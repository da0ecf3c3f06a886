"""EXIF orientation as OpenCV reads it, because training reads pictures with OpenCV; Pillow also uses XMP and more."""

from __future__ import annotations

import io
import struct
from typing import BinaryIO

from PIL import Image, ImageFile

ORIENTATION = 0x0112  # EXIF tag; values from 5 on swap width and height
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def orientation_of(picture: ImageFile.ImageFile) -> int:
    """Return the EXIF orientation, 1 to 8, of a picture that is opened but not yet decoded; 1 if it has none.

    It is 1 for TIFF, because both libraries rotate TIFFs while decoding. Raises struct.error if the EXIF data is
    truncated.
    """
    if picture.format == "TIFF":
        return 1
    data = picture.info.get("exif", b"")
    if not data and picture.format == "PNG" and picture.fp:
        data = _last_exif(picture.fp)  # type: ignore[arg-type]
    return _orientation(data.removeprefix(b"Exif\0\0"))


def _orientation(tiff: bytes) -> int:
    """Return the first orientation tag of the first directory: two bytes of its value, whatever its declared type."""
    order = "<" if tiff[:2] == b"II" else ">"
    if tiff[2:4] != struct.pack(f"{order}H", 42):
        return 1
    (first,) = struct.unpack_from(f"{order}I", tiff, 4)
    (entries,) = struct.unpack_from(f"{order}H", tiff, first)
    for at in range(first + 2, first + 2 + 12 * entries, 12):
        tag, value = struct.unpack_from(f"{order}H6xH", tiff, at)
        if tag == ORIENTATION:
            return value if value in TURNS else 1
    return 1


def upright(picture: Image.Image, orientation: int) -> Image.Image:
    """Return the picture rotated and mirrored as this orientation requires."""
    return picture.transpose(TURNS[orientation]) if orientation in TURNS else picture


def _last_exif(file: BinaryIO) -> bytes:
    """Return a PNG's EXIF data that follows the pixels, which Pillow only finds after decoding; empty if there is none.

    Only the chunk headers are read, without a buffer, which would also read the data between them.
    """
    raw = getattr(file, "raw", file)
    before = raw.tell()
    try:
        raw.seek(8)
        while len(head := raw.read(8)) == 8:
            size, kind = int.from_bytes(head[:4], "big"), head[4:]
            if kind == b"eXIf":
                return raw.read(size)
            raw.seek(size + 4, io.SEEK_CUR)
        return b""
    finally:
        raw.seek(before)
