"""What the head of a picture says: its size, and how EXIF turns it; and boxes turned with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nanogfl.data.exif import orientation_of
from nanogfl.data.findings import Finding
from nanogfl.errors import DataError
from nanogfl.members import open_bytes
from nanogfl.pictures import read_picture

HUGE = 178_956_970  # pixels, where Pillow sees a decompression bomb; half a gigabyte, decoded
KNOWN = frozenset({"JPEG", "MPO", "PNG", "BMP", "WEBP", "TIFF"})  # of which Pillow's header is what OpenCV decodes
FITS = 1.5  # px that a box may reach over its frame and still fit it


@dataclass(frozen=True)
class Header:
    """Width and height as the file lies, in px, and EXIF's orientation (1: as it lies)."""

    size: tuple[int, int]
    orientation: int = 1

    @property
    def upright(self) -> tuple[int, int]:
        """Width and height in px as ``read_picture`` will give them."""
        return (self.size[1], self.size[0]) if self.orientation in (5, 6, 7, 8) else self.size


def read_header(path: Path) -> Header | Finding:
    """Read the header alone where it can be trusted, else the whole picture; say what is wrong where neither works."""
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
            return Finding("picture-missing", "", "", f"there is no {path}")
    try:
        height, width = read_picture(path).shape[:2]
    except (DataError, ValueError) as error:
        odd = form and form not in KNOWN
        why = f"{path} is of the form {form}, which is not read; convert it to JPEG or PNG" if odd else str(error)
        return Finding("picture-unreadable", "", "", why)
    return Header((width, height))


def lies(boxes: NDArray[np.float64], head: Header) -> bool:
    """Whether boxes annotated in a frame of the lying file's size are in that frame: unless they only fit the other."""
    if not len(boxes) or not np.isfinite(boxes).all():
        return True
    return fits(boxes, head.size) or not fits(boxes, head.upright)


def lies_unsaid(boxes: NDArray[np.float64], head: Header) -> bool:
    """Whether boxes annotated without a frame are in the lying file's: only where they do not fit the upright one."""
    if head.upright == head.size or not len(boxes) or not np.isfinite(boxes).all():
        return False
    return fits(boxes, head.size) and not fits(boxes, head.upright)


def fits(boxes: NDArray[np.float64], frame: tuple[int, int]) -> bool:
    """Whether finite boxes reach no further than a frame of this width and height, nearly."""
    return bool((boxes[:, 2:].max(axis=0) - FITS <= frame).all())


def turned(boxes: NDArray[np.float64], head: Header) -> NDArray[np.float64]:
    """Boxes [N, 4] of the file as it lies, turned as EXIF turns the picture (orientations 5 to 8)."""
    width, height = head.size
    x1, y1, x2, y2 = boxes.T
    left, right = (y1, y2) if head.orientation in (5, 8) else (height - y2, height - y1)
    top, bottom = (x1, x2) if head.orientation in (5, 6) else (width - x2, width - x1)
    return np.stack([left, top, right, bottom], axis=1)
