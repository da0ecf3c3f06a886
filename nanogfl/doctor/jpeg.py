"""Detecting incomplete JPEGs: decoders silently fill missing parts with grey or with guesses."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass

from PIL import ImageFile

BASELINE = (0xC0, 0xC1)  # sequential frames, Huffman coded
PROGRESSIVE = 0xC2
ALONE = frozenset({0x01, *range(0xD0, 0xD8)})  # markers without a segment
START_OF_SCAN, END = 0xDA, 0xD9
MOST_PARTS = 4  # components in a scan
MARKER = re.compile(rb"\xff([^\x00\xff])")  # matches the last 0xff of a run; a + would rescan long runs repeatedly
AFTER_CODE = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # ends entropy-coded data: neither an escape nor a restart marker
SPARE = bytes(16)  # decoders read up to eight bytes ahead
LEFT_OVER = 256  # bytes; of 1400 intact pictures none has more than 15 left after its last block


@dataclass(frozen=True)
class Anatomy:
    """The structure of a JPEG file.

    Attributes:
        code: start and end in bytes of the entropy-coded data if a single scan contains the whole picture; else (0, 0).
        ended: whether the end marker exists.
        complete: whether the scans of a progressive JPEG contain all bits of every coefficient.
    """

    code: tuple[int, int]
    ended: bool
    complete: bool

    def flaw(self, data: bytes, read: int) -> str:
        """Return what is wrong with a picture that was decoded without error from its first ``read`` bytes, or ""."""
        if not self.ended:
            return "the end of the JPEG is missing"
        if not self.complete:
            return "the last scans of the JPEG are missing"
        left = data[read : self.code[1]]
        padding = len(set(left)) < 2  # some cameras write it
        return (
            "" if len(left) < LEFT_OVER or padding else f"damaged: it is complete, but {len(left)} coded bytes remain"
        )


def anatomy(data: bytes) -> Anatomy:
    """Parse the markers up to the end of the picture; ignore any data after it."""
    at, frame, scans, code = 2, 0, 0, (0, 0)
    parts: list[int] = []
    precision: dict[tuple[int, int], int] = {}
    while found := MARKER.search(data, at):
        kind, at = found[1][0], found.end()
        if kind == END:
            whole = scans == 1 and frame in BASELINE
            return Anatomy(code if whole else (0, 0), True, _complete(frame, parts, precision))
        if kind in ALONE:
            continue
        body = data[at + 2 : at + int.from_bytes(data[at : at + 2], "big")]
        at += 2 + len(body)
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            frame, parts = kind, list(body[6::3])
        if kind == START_OF_SCAN and body:
            scans += 1
            _note(body, precision)
            end = AFTER_CODE.search(data, at)
            code = (at, end.start() if end else len(data)) if body[0] == len(parts) else (0, 0)
            at = code[1] or (end.start() if end else len(data))
    return Anatomy((0, 0), False, True)


def _note(scan: bytes, precision: dict[tuple[int, int], int]) -> None:
    """Record the lowest bit known after this scan for each component's coefficients."""
    count = scan[0]
    if count <= MOST_PARTS and len(scan) == 4 + 2 * count:
        first, last, bits = scan[-3:]
        for part in scan[1 : 1 + 2 * count : 2]:
            precision.update({(part, k): bits & 15 for k in range(first, min(last, 63) + 1)})


def _complete(frame: int, parts: list[int], precision: dict[tuple[int, int], int]) -> bool:
    return frame != PROGRESSIVE or all(precision.get((part, k)) == 0 for part in parts for k in range(64))


class Stream(io.BytesIO):
    """A JPEG up to its last coded byte, so that a decoder that needs more data fails instead of filling in grey.

    Reads return at most half of the remaining data, so that the position shows roughly how much the decoder needed.
    """

    def __init__(self, data: bytes, parts: Anatomy) -> None:
        super().__init__(data[: parts.code[1]] + SPARE if parts.code[1] else data)
        self._left = len(self.getbuffer())

    def read(self, size: int | None = -1, /) -> bytes:
        """Read bytes; for Pillow's decoder blocks, which may be short, at most half of the remaining data."""
        if size == ImageFile.MAXBLOCK:
            size = min(size, max(LEFT_OVER, (self._left - self.tell()) // 2))
        return super().read(size)
