"""Coordinate frames of annotated boxes: the upright picture, the file before EXIF rotation, or a frame of another size.

An annotated size with the picture's aspect ratio but another scale may mean that the picture was resized after it was
annotated. It may also be wrong, since some tools write the sizes of other files. The boxes of all such pictures decide.
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

PART = 0.2  # fraction of the resized pictures that decides
FITS = 1.5  # px by which a box may exceed its frame and still fit
SMALLEST = 16  # px; the aspect ratio of smaller frames is too imprecise to compare


class Framed(NamedTuple):
    """Boxes [N, 4] of a picture, its annotated size and its actual size (width and height in px)."""

    boxes: NDArray[np.float64]
    annotated: tuple[int, int]
    size: tuple[int, int]

    @property
    def resized(self) -> bool:
        """Whether the sizes differ, but the aspect ratios agree to within a pixel of the smaller frame."""
        (width, height), (full_width, full_height) = sorted((self.annotated, self.size))
        if self.annotated == self.size or min(width, height) < SMALLEST:
            return False
        return min(abs(width - full_width * height / full_height), abs(height - full_height * width / full_width)) < 1

    @property
    def shrunk(self) -> bool:
        """Whether the picture is smaller than the annotated size."""
        return self.size < self.annotated

    def within(self, frame: tuple[int, int]) -> bool:
        """Return whether there are boxes, all finite, and none exceeds this frame by more than FITS."""
        if not len(self.boxes) or not np.isfinite(self.boxes).all():
            return False
        return bool((self.boxes[:, 2:].max(axis=0) - FITS <= frame).all())


def framed(example: Example, head: Header) -> Framed:
    """Return an example's boxes with the annotated size and the size of the upright picture."""
    return Framed(example.boxes, (example.width, example.height), head.upright)


def trusted_sizes(pictures: Iterable[Framed]) -> dict[bool, bool]:
    """Decide whether to trust the annotated sizes of pictures smaller than annotated (True) and larger (False).

    The sizes of smaller pictures are trusted if the boxes of more than PART of them fit the annotated frame only; those
    of larger pictures unless the boxes of more than PART fit the picture only. Requiring a fraction of the pictures
    keeps a few boxes that were drawn over an edge from deciding.
    """
    alike = [p for p in pictures if p.resized and len(p.boxes)]
    smaller = [p.within(p.annotated) and not p.within(p.size) for p in alike if p.shrunk]
    larger = [p.within(p.size) and not p.within(p.annotated) for p in alike if not p.shrunk]
    return {True: _good_part(smaller), False: not _good_part(larger)}


def _good_part(told: list[bool]) -> bool:
    return sum(told) > len(told) * PART


def in_its_frame(example: Example, head: Header, trusted: dict[bool, bool], notes: Findings) -> Example:
    """Return the example with its boxes in the frame of the upright picture; note if they were in another frame."""
    said = framed(example, head)
    annotated, upright = said.annotated, said.size
    shown = f"the upright picture is {upright[0]}x{upright[1]}"
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
    scaled = annotated != head.size and said.resized and trusted[said.shrunk]
    notes.add("size-scaled" if scaled else "size-differs", example.name, "", detail)
    if not scaled:
        return example
    across, down = upright[0] / annotated[0], upright[1] / annotated[1]
    return replace(example, boxes=example.boxes * (across, down, across, down), areas=example.areas * (across * down))


def _turned(boxes: NDArray[np.float64], head: Header) -> NDArray[np.float64]:
    """Rotate boxes [N, 4] of the stored file as EXIF rotates the picture (orientations 5 to 8)."""
    width, height = head.size
    x1, y1, x2, y2 = boxes.T
    left, right = (y1, y2) if head.orientation in (5, 8) else (height - y2, height - y1)
    top, bottom = (x1, x2) if head.orientation in (5, 6) else (width - x2, width - x1)
    return np.stack([left, top, right, bottom], axis=1)
