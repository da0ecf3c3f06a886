"""How EXIF turns a picture: what OpenCV goes by, which is what training reads with; Pillow believes XMP and more."""

from __future__ import annotations

import io
import struct
from typing import BinaryIO

from PIL import Image, ImageFile

ORIENTATION = 0x0112  # EXIF's tag; values from 5 on lie on their side
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
    """EXIF's orientation, 1 to 8, of a picture that was opened and not decoded yet; 1 where it says none.

    Of TIFF 1: both libraries turn it while decoding. Raises struct.error where the EXIF is cut short.
    """
    if picture.format == "TIFF":
        return 1
    data = picture.info.get("exif", b"")
    if not data and picture.format == "PNG" and picture.fp:
        data = _last_exif(picture.fp)  # type: ignore[arg-type]
    return _orientation(data.removeprefix(b"Exif\0\0"))


def _orientation(tiff: bytes) -> int:
    """The first such tag of the first directory, by the first two bytes of its value whatever type it claims."""
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
    """The picture turned as this orientation says."""
    return picture.transpose(TURNS[orientation]) if orientation in TURNS else picture


def _last_exif(file: BinaryIO) -> bytes:
    """EXIF of a PNG that stands behind the pixels, where Pillow only sees it once all are decoded.

    The heads of the chunks are read, and nothing between them: unbuffered, for a buffer would read all of it.
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
