"""Inspection of each picture file: its format, whether it is intact, and hashes for finding duplicates."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from nanogfl.data.exif import orientation_of, upright
from nanogfl.data.headers import HUGE, KNOWN
from nanogfl.doctor.jpeg import Stream, anatomy
from nanogfl.errors import DataError
from nanogfl.machine import cores
from nanogfl.members import read_bytes
from nanogfl.pictures import decode_picture

GLANCE = 128  # px; JPEGs are decoded at a reduced size of at least this, which is enough for all checks
CHUNK = 16  # pictures per task: few enough for a smooth progress bar, enough to make the overhead small
FLAT = 3  # grey levels; pictures with less contrast all look alike
GRAY = 2  # levels of chroma that rounding can cause

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Inspection:
    """The result of inspecting a picture file.

    Attributes:
        form: JPEG, PNG, ... according to the content; empty if unknown.
        size: width and height in px as stored in the file; (0, 0) if it could not be read.
        orientation: EXIF orientation, 1 if there is none.
        gray: whether the picture has no colour.
        flaw: what went wrong while decoding; empty if the picture is intact.
        content: hash of the file's bytes.
        bits: bool [127], perceptual hash, similar for similar pictures; None if not decoded.
        thumb: int8 [1024], 32 x 32 px, grey, zero mean, scaled to the full range (all 0 if flat); None if not decoded.
    """

    form: str
    size: tuple[int, int]
    orientation: int
    gray: bool
    flaw: str
    content: bytes
    bits: NDArray[np.bool_] | None = None
    thumb: NDArray[np.int8] | None = None


def inspect_all(paths: Sequence[Path], progress: Progress | None = None) -> list[Inspection]:
    """Inspect all pictures on all cores; call ``progress`` with the number of pictures newly done."""
    chunks = [paths[i : i + CHUNK] for i in range(0, len(paths), CHUNK)]
    inspections: list[Inspection] = []
    with warnings.catch_warnings(), ThreadPoolExecutor(cores()) as pool:
        warnings.simplefilter("ignore")  # from Pillow, on large pictures and invalid EXIF
        for part in pool.map(lambda chunk: [inspect(path) for path in chunk], chunks):
            inspections += part
            if progress:
                progress(len(part))
    return inspections


def inspect(path: Path) -> Inspection:
    """Inspect one picture; never raises an error for the content of the file."""
    try:
        data = read_bytes(path)
    except (OSError, ValueError) as error:
        return Inspection("", (0, 0), 1, False, str(error), b"")
    content = hashlib.blake2b(data, digest_size=16).digest()
    try:
        with Image.open(io.BytesIO(data)) as picture:
            if picture.width * picture.height > HUGE:
                return Inspection(picture.format or "", picture.size, 1, False, "", content)
            if picture.format not in KNOWN:
                return _inspect_with_opencv(data, content, picture.format or "")
            if picture.format not in ("JPEG", "MPO"):
                look = _inspect_opened(picture, content)
                deep = picture.mode.startswith(("I", "F"))  # Pillow clips these to 8 bits
                return _check_with_opencv(look, data) if not look.flaw and (deep or look.form == "TIFF") else look
        parts = anatomy(data)
        stream = Stream(data, parts)
        with Image.open(stream) as picture:
            look = _inspect_opened(picture, content)
            return look if look.flaw else replace(look, flaw=parts.flaw(data, stream.tell()))
    except Exception as error:  # Pillow's plugins raise whatever a damaged file makes them raise
        return _inspect_with_opencv(data, content, why=str(error))


def _inspect_opened(picture: ImageFile.ImageFile, content: bytes) -> Inspection:
    size, form = picture.size, picture.format or ""
    picture.draft("RGB", (GLANCE, GLANCE))
    orientation = orientation_of(picture)
    try:
        picture.load()
    except Exception as error:
        return Inspection(form, size, orientation, False, str(error) or type(error).__name__, content)
    gray = _is_gray(picture)
    bits, thumb = signature(np.asarray(upright(picture, orientation).convert("L")))
    return Inspection(form, size, orientation, gray, "", content, bits, thumb)


def _check_with_opencv(look: Inspection, data: bytes) -> Inspection:
    """Inspect a picture again with OpenCV, which may decode it differently from Pillow, or not at all."""
    seen = _inspect_with_opencv(data, look.content)
    flaw = f"OpenCV, which training uses, cannot decode this {look.form}" if seen.flaw else ""
    return replace(look, flaw=flaw, bits=seen.bits, thumb=seen.thumb)


def _is_gray(picture: Image.Image) -> bool:
    if picture.mode in ("1", "L", "LA") or picture.mode.startswith(("I", "F")):
        return True
    return _without_chroma(np.asarray(picture.convert("RGB").resize((64, 64))))


def _without_chroma(pixels: NDArray[np.uint8]) -> bool:
    return int(np.ptp(pixels.astype(np.int16), axis=2).max()) <= GRAY


def _inspect_with_opencv(data: bytes, content: bytes, form: str = "", why: str = "") -> Inspection:
    """Inspect a picture as training reads it, with OpenCV, because Pillow supports other formats."""
    try:
        picture = decode_picture(np.frombuffer(data, np.uint8), "")
    except DataError as error:
        return Inspection(form, (0, 0), 1, False, why or str(error), content)
    bits, thumb = signature(np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), np.uint8))
    gray = _without_chroma(np.asarray(cv2.resize(picture, (64, 64), interpolation=cv2.INTER_AREA), np.uint8))
    return Inspection(form, (picture.shape[1], picture.shape[0]), 1, gray, "", content, bits, thumb)


def signature(gray: NDArray[np.uint8]) -> tuple[NDArray[np.bool_], NDArray[np.int8]]:
    """Return the perceptual hash, bool [127], and the thumbnail, int8 [1024], of a grey picture [H, W].

    The hash is pHash (which of 63 low frequencies exceed their median) followed by dHash (which of 64 horizontal steps
    increase).
    """
    small = np.asarray(cv2.resize(gray, (32, 32), interpolation=cv2.INTER_AREA), np.float32)
    frequencies = cv2.dct(small)[:8, :8].ravel()[1:]
    steps = np.asarray(cv2.resize(gray, (9, 8), interpolation=cv2.INTER_AREA), np.float32)
    bits = np.concatenate([frequencies > np.median(frequencies), (steps[:, 1:] > steps[:, :-1]).ravel()])
    centred = (small - small.mean()).ravel()
    most = float(np.abs(centred).max())
    return bits, (centred * (127 / most if most > FLAT else 0)).round().astype(np.int8)
