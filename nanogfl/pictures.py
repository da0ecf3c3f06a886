"""Reading and writing of picture files: every format that OpenCV decodes, as upright 8-bit BGR."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from nanogfl.atomic import atomic_file
from nanogfl.errors import DataError
from nanogfl.members import read_bytes

EXTRA_SAMPLES = 338  # TIFF tag: type of the extra channels (1: premultiplied alpha; 2: unassociated alpha)
Picture = NDArray[np.uint8]
JPEGS = (".jpg", ".jpeg", ".jfif", ".jpe")  # Windows saves some JPEGs as .jfif
SUFFIXES = frozenset({*JPEGS, ".png", ".bmp", ".webp", ".tif", ".tiff"})


def read_picture(path: str | Path) -> Picture:
    """Read a picture as uint8 BGR [H, W, 3], EXIF orientation applied.

    Grey pictures are repeated over the three channels, 16-bit pictures are scaled to 8 bits, transparency is dropped.

    Raises:
        DataError: the file is missing, empty, or not a picture that OpenCV can read.
    """
    try:
        data = np.frombuffer(read_bytes(Path(path)), np.uint8)
    except (OSError, ValueError) as error:  # ValueError: the name is not a valid file name
        why = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"cannot read the picture {path}: {why}; check the path") from error
    return decode_picture(data, str(path))


def decode_picture(data: NDArray[np.uint8], name: str) -> Picture:
    """Decode the bytes of one picture; ``name`` is used in error messages.

    Raises:
        DataError: the bytes are not a picture that OpenCV can decode.
    """
    try:
        picture = cv2.imdecode(_without_alpha(data), cv2.IMREAD_COLOR) if data.size else None
    except cv2.error:  # too many pixels, or a broken header
        picture = None
    if picture is None:
        if _is_heic(data[:64].tobytes()):
            raise DataError(
                f"cannot decode the picture {name}: it is a HEIC file, as written by phones; convert it to JPEG"
            )
        raise DataError(f"cannot decode the picture {name}: it is damaged or not a picture; replace or remove it")
    return np.asarray(picture, np.uint8)


def _is_heic(head: bytes) -> bool:
    """Return whether the ``ftyp`` box of an ISO base media file lists a HEIC brand."""
    brands = head[8 : int.from_bytes(head[:4], "big")]
    return head[4:8] == b"ftyp" and any(brand in brands for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc"))


def _without_alpha(data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Declare a TIFF's unassociated alpha as premultiplied, because libtiff would multiply the colours by it."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4].tobytes())
    if order is None:
        return data
    content = data.tobytes()
    try:
        (first,) = struct.unpack_from(f"{order}I", content, 4)
        (entries,) = struct.unpack_from(f"{order}H", content, first)
        for at in range(first + 2, first + 2 + 12 * entries, 12):
            if struct.unpack_from(f"{order}HHIH", content, at) == (EXTRA_SAMPLES, 3, 1, 2):
                changed = bytearray(content)
                struct.pack_into(f"{order}H", changed, at + 8, 1)
                return np.frombuffer(bytes(changed), np.uint8)
    except struct.error:  # the file is truncated; imdecode will fail on it
        pass
    return data


def as_picture(source: str | Path | NDArray[np.uint8]) -> Picture:
    """Return the picture at a path, or the given array, as uint8 BGR [H, W, 3].

    Raises:
        DataError: the file cannot be read, or the array has another type or shape.
    """
    if isinstance(source, str | os.PathLike):
        return read_picture(os.fsdecode(source))
    if not isinstance(source, np.ndarray):  # other libraries' pictures are mostly RGB, which cannot be detected
        raise DataError(
            f"a picture must be a path, or a numpy array uint8 BGR [H, W, 3], not {type(source).__name__}; "
            "for an RGB picture use numpy.asarray(picture)[..., ::-1]"
        )
    if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3 or not source.size:
        raise DataError(
            f"a picture must be uint8 BGR [H, W, 3], not {source.dtype} {list(source.shape)}; convert it first"
        )
    return source


def write_picture(path: Path, picture: Picture) -> None:
    """Write a picture atomically, in the format of the path's suffix (PNG if there is none); create parent folders.

    Raises:
        DataError: the suffix is unknown, or the picture is larger than the format allows.
    """
    try:
        suffix = ".jpg" if path.suffix.lower() in JPEGS else path.suffix  # OpenCV does not know every JPEG suffix
        done, data = cv2.imencode(suffix or ".png", picture)
    except cv2.error as error:
        raise DataError(f"cannot write a picture as {path.name}: unknown suffix; use .png or .jpg") from error
    if not done:
        size = f"{picture.shape[1]} x {picture.shape[0]} px"
        raise DataError(f"cannot write the picture {path}: {size} exceed the maximum of {path.suffix}; use .png")
    with atomic_file(path) as partial:
        partial.write_bytes(data.tobytes())
