"""In which frame a picture's boxes are: the upright picture's, the lying file's, or one of another size."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from nanogfl.data.findings import Findings
from nanogfl.data.headers import Header
from nanogfl.data.resized import Framed, fits, scale_of
from nanogfl.data.table import Example


def framed(example: Example, head: Header) -> Framed:
    """What is said of its frame, and its upright picture."""
    return Framed(example.boxes, (example.width, example.height), head.upright)


def in_its_frame(example: Example, head: Header, believe: dict[bool, bool], notes: Findings) -> Example:
    """Its boxes in the frame of the upright picture, where they are said, or bound, to be in another."""
    annotated, upright = (example.width, example.height), head.upright
    shown = f"upright the picture is {upright[0]}x{upright[1]}"
    if not all(annotated):
        if not _lies_unsaid(example.boxes, head):
            return example
        notes.add("picture-lying", example.name, "", f"annotated without a size, {shown}, which its boxes do not fit")
        return replace(example, boxes=_turned(example.boxes, head))
    if annotated == upright:
        return example
    detail = f"annotated as {annotated[0]}x{annotated[1]}, {shown}"
    if annotated == head.size and _lies(example.boxes, head):
        notes.add("picture-lying", example.name, "", detail)
        return replace(example, boxes=_turned(example.boxes, head))
    scale = None if annotated == head.size else scale_of(framed(example, head), believe)
    notes.add("size-scaled" if scale else "size-differs", example.name, "", detail)
    if not scale:
        return example
    return replace(example, boxes=example.boxes * (scale * 2), areas=example.areas * (scale[0] * scale[1]))


def _lies(boxes: NDArray[np.float64], head: Header) -> bool:
    """Whether boxes annotated in a frame of the lying file's size are in that frame: unless they only fit the other."""
    if not len(boxes) or not np.isfinite(boxes).all():
        return True
    return fits(boxes, head.size) or not fits(boxes, head.upright)


def _lies_unsaid(boxes: NDArray[np.float64], head: Header) -> bool:
    """Whether boxes annotated without a frame are in the lying file's: only where they do not fit the upright one."""
    if head.upright == head.size or not len(boxes) or not np.isfinite(boxes).all():
        return False
    return fits(boxes, head.size) and not fits(boxes, head.upright)


def _turned(boxes: NDArray[np.float64], head: Header) -> NDArray[np.float64]:
    """Boxes [N, 4] of the file as it lies, turned as EXIF turns the picture (orientations 5 to 8)."""
    width, height = head.size
    x1, y1, x2, y2 = boxes.T
    left, right = (y1, y2) if head.orientation in (5, 8) else (height - y2, height - y1)
    top, bottom = (x1, x2) if head.orientation in (5, 6) else (width - x2, width - x1)
    return np.stack([left, top, right, bottom], axis=1)
