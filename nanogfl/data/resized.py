"""Pictures that were resized after they were annotated, and boxes that are still in the frame of before.

A frame of the picture's shape but of another size says either that, or nothing: tools write others' frames, too.
The boxes of all such pictures together tell which.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

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
        return bool(len(self.boxes)) and bool(np.isfinite(self.boxes).all()) and fits(self.boxes, frame)


def fits(boxes: NDArray[np.float64], frame: tuple[int, int]) -> bool:
    """Whether finite boxes reach no further than a frame of this width and height, nearly."""
    return bool((boxes[:, 2:].max(axis=0) - FITS <= frame).all())


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


def scale_of(picture: Framed, believe: dict[bool, bool]) -> tuple[float, float] | None:
    """How much the boxes are to be scaled, across and down; None where they are the picture's already."""
    if not (picture.resized and believe[picture.shrunk]):
        return None
    return picture.size[0] / picture.annotated[0], picture.size[1] / picture.annotated[1]
