"""Whether all of a JPEG is there: decoders fill what is missing with grey, or guess, and say nothing."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass

from PIL import ImageFile

BASELINE = (0xC0, 0xC1)  # frames of one pass, Huffman coded
PROGRESSIVE = 0xC2
ALONE = frozenset({0x01, *range(0xD0, 0xD8)})  # markers without a segment
START_OF_SCAN, END = 0xDA, 0xD9
MOST_PARTS = 4  # of a scan
MARKER = re.compile(rb"\xff([^\x00\xff])")  # after any number of 0xff, which a + here would look at again and again
AFTER_CODE = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # what ends entropy-coded data: no escape, no restart
SPARE = bytes(16)  # a decoder reads ahead by eight bytes
LEFT_OVER = 256  # bytes; of 1400 sound pictures none leaves more than 15 behind its last block


@dataclass(frozen=True)
class Anatomy:
    """Where the parts of a JPEG lie.

    Attributes:
        code: begin and end in bytes of the entropy-coded data where one scan holds all of the picture; else (0, 0).
        ended: whether the end marker is there.
        complete: whether the scans of a picture in several passes brought every coefficient in full.
    """

    code: tuple[int, int]
    ended: bool
    complete: bool

    def flaw(self, data: bytes, read: int) -> str:
        """What is wrong with a picture that was decoded without complaint from the first bytes, this many."""
        if not self.ended:
            return "the end of the JPEG is missing"
        if not self.complete:
            return "the last passes of the JPEG are missing"
        left = data[read : self.code[1]]
        padding = len(set(left)) < 2  # as some cameras write it
        return "" if len(left) < LEFT_OVER or padding else f"damaged: it is full, but {len(left)} more bytes are coded"


def anatomy(data: bytes) -> Anatomy:
    """Follow the markers to the end of the picture; what lies behind it is nobody's business."""
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
    """The lowest bit of each component's coefficients that is known after this scan."""
    count = scan[0]
    if count <= MOST_PARTS and len(scan) == 4 + 2 * count:
        first, last, bits = scan[-3:]
        for part in scan[1 : 1 + 2 * count : 2]:
            precision.update({(part, k): bits & 15 for k in range(first, min(last, 63) + 1)})


def _complete(frame: int, parts: list[int], precision: dict[tuple[int, int], int]) -> bool:
    return frame != PROGRESSIVE or all(precision.get((part, k)) == 0 for part in parts for k in range(64))


class Stream(io.BytesIO):
    """The picture up to its last coded byte: a decoder that wants more asks for it, instead of filling in grey.

    It gives at most half of what is left at a time, so that one sees about where the decoder had enough.
    """

    def __init__(self, data: bytes, parts: Anatomy) -> None:
        super().__init__(data[: parts.code[1]] + SPARE if parts.code[1] else data)
        self._left = len(self.getbuffer())

    def read(self, size: int | None = -1, /) -> bytes:
        """Read bytes; of Pillow's blocks for the decoder, which may be short, the half of the rest."""
        if size == ImageFile.MAXBLOCK:
            size = min(size, max(LEFT_OVER, (self._left - self.tell()) // 2))
        return super().read(size)
