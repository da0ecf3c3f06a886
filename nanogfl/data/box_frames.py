"""In which frame a picture's boxes are: the upright picture's, the lying file's, or one of another size.

A frame of the picture's shape but of another size says that the picture was resized after it was annotated, or nothing:
tools write others' frames, too. The boxes of all such pictures together tell which.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nanogfl.data.findings import Findings
from nanogfl.data.headers import Header
from nanogfl.data.table import Example

PART = 0.2  # of the pictures
FITS = 1.5  # px that a box may reach over its frame and still fit it
SMALLEST = 16  # px; smaller frames have no shape to speak of


class Framed(NamedTuple):
    """Boxes [N, 4] of a picture, the frame they are said to be in, and the picture's size (width and height in px)."""

    boxes: NDArray[np.float64]
    annotated: tuple[int, int]
    size: tuple[int, int]

    @property
    def resized(self) -> bool:
        """Whether the frames differ in size but not in shape, by a pixel of the smaller one."""
        (width, height), (full_width, full_height) = sorted((self.annotated, self.size))
        if self.annotated == self.size or min(width, height) < SMALLEST:
            return False
        return min(abs(width - full_width * height / full_height), abs(height - full_height * width / full_width)) < 1

    @property
    def shrunk(self) -> bool:
        """Whether the picture is smaller than the frame."""
        return self.size < self.annotated

    def within(self, frame: tuple[int, int]) -> bool:
        """Whether there are boxes, all of them in this frame."""
        if not len(self.boxes) or not np.isfinite(self.boxes).all():
            return False
        return bool((self.boxes[:, 2:].max(axis=0) - FITS <= frame).all())


def framed(example: Example, head: Header) -> Framed:
    """What is said of its frame, and its upright picture."""
    return Framed(example.boxes, (example.width, example.height), head.upright)


def believed(pictures: Iterable[Framed]) -> dict[bool, bool]:
    """Whether frames are taken at their word, of pictures that are smaller than theirs (True) and larger (False).

    Of smaller ones where the boxes of a good part only fit the frame; of larger ones unless those of a good part
    only fit the picture. A few boxes that were drawn over an edge decide nothing.
    """
    alike = [p for p in pictures if p.resized and len(p.boxes)]
    smaller = [p.within(p.annotated) and not p.within(p.size) for p in alike if p.shrunk]
    larger = [p.within(p.size) and not p.within(p.annotated) for p in alike if not p.shrunk]
    return {True: _good_part(smaller), False: not _good_part(larger)}


def _good_part(told: list[bool]) -> bool:
    return sum(told) > len(told) * PART


def in_its_frame(example: Example, head: Header, believe: dict[bool, bool], notes: Findings) -> Example:
    """Its boxes in the frame of the upright picture, where they are said, or bound, to be in another."""
    said = framed(example, head)
    annotated, upright = said.annotated, said.size
    shown = f"upright the picture is {upright[0]}x{upright[1]}"
    if not all(annotated):
        if upright == head.size or not said.within(head.size) or said.within(upright):
            return example
        notes.add("picture-lying", example.name, "", f"annotated without a size, {shown}, which its boxes do not fit")
        return replace(example, boxes=_turned(example.boxes, head))
    if annotated == upright:
        return example
    detail = f"annotated as {annotated[0]}x{annotated[1]}, {shown}"
    if annotated == head.size and (said.within(head.size) or not said.within(upright)):
        notes.add("picture-lying", example.name, "", detail)
        return replace(example, boxes=_turned(example.boxes, head))
    scaled = annotated != head.size and said.resized and believe[said.shrunk]
    notes.add("size-scaled" if scaled else "size-differs", example.name, "", detail)
    if not scaled:
        return example
    across, down = upright[0] / annotated[0], upright[1] / annotated[1]
    return replace(example, boxes=example.boxes * (across, down, across, down), areas=example.areas * (across * down))


def _turned(boxes: NDArray[np.float64], head: Header) -> NDArray[np.float64]:
    """Boxes [N, 4] of the file as it lies, turned as EXIF turns the picture (orientations 5 to 8)."""
    width, height = head.size
    x1, y1, x2, y2 = boxes.T
    left, right = (y1, y2) if head.orientation in (5, 8) else (height - y2, height - y1)
    top, bottom = (x1, x2) if head.orientation in (5, 6) else (width - x2, width - x1)
    return np.stack([left, top, right, bottom], axis=1)
