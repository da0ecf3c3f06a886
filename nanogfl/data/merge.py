"""Merging several entries of one picture, as written by tools that create one entry per annotation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from nanogfl.data.table import Example


def mergeable(one: Example, other: Example) -> bool:
    """Return whether two entries of one picture have separate boxes in the same split and frame.

    Label files (YOLO) and xml files (VOC) belong to a picture: if it is listed again, its boxes are the same.
    """
    alike = (one.split, one.width, one.height) == (other.split, other.width, other.height)
    return alike and one.unit == "annotation"


def merged(group: Sequence[Example]) -> Example:
    """Merge entries into one example with the boxes of all; skip boxes that an earlier entry has, too."""
    if len(group) == 1:
        return group[0]
    seen: set[tuple[float, ...]] = set()
    parts = []
    for example in group:
        rows = [tuple(row) for row in np.column_stack([example.labels, example.boxes, example.crowd]).tolist()]
        parts.append(example.keeping(np.array([row not in seen for row in rows], np.bool_)))
        seen.update(rows)
    return replace(
        group[0],
        boxes=np.concatenate([e.boxes for e in parts]),
        labels=np.concatenate([e.labels for e in parts]),
        crowd=np.concatenate([e.crowd for e in parts]),
        areas=np.concatenate([e.areas for e in parts]),
        marks=np.concatenate([e.marks for e in parts if e.marks is not None]),
    )
