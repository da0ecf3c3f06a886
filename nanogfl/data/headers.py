"""Reading the size and EXIF orientation of a picture from its header."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from nanogfl.data.exif import orientation_of
from nanogfl.data.findings import Finding
from nanogfl.errors import DataError
from nanogfl.members import open_bytes
from nanogfl.pictures import read_picture

HUGE = 178_956_970  # pixels above which Pillow refuses a decompression bomb; half a gigabyte when decoded
KNOWN = frozenset({"JPEG", "MPO", "PNG", "BMP", "WEBP", "TIFF"})  # formats for which Pillow and OpenCV agree on sizes


@dataclass(frozen=True)
class Header:
    """Width and height in px as stored in the file, and the EXIF orientation (1: upright)."""

    size: tuple[int, int]
    orientation: int = 1

    @property
    def upright(self) -> tuple[int, int]:
        """Width and height in px of the picture that ``read_picture`` returns."""
        return (self.size[1], self.size[0]) if self.orientation in (5, 6, 7, 8) else self.size


def read_header(path: Path) -> Header | Finding:
    """Read only the header if it is reliable, else the whole picture; return a finding if both fail."""
    form = ""
    try:
        with open_bytes(path) as file, Image.open(file) as picture:
            form = picture.format or ""
            if picture.width * picture.height > HUGE:
                return Finding("picture-huge", "", "", f"{picture.width}x{picture.height} px")
            if form in KNOWN:
                return Header(picture.size, orientation_of(picture))
    except Image.DecompressionBombError as error:
        return Finding("picture-huge", "", "", str(error))
    except Exception as error:  # Pillow's plugins raise whatever a damaged header makes them raise
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            return Finding("picture-missing", "", "", f"{path} does not exist")
    try:
        height, width = read_picture(path).shape[:2]
    except (DataError, ValueError) as error:
        odd = form and form not in KNOWN
        why = f"{path} is in the format {form}, which is unsupported; convert it to JPEG or PNG" if odd else str(error)
        return Finding("picture-unreadable", "", "", why)
    return Header((width, height))
