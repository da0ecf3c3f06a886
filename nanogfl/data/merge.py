"""One picture of several entries, as tools write them that give each annotation its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from nanogfl.data.table import Example


def mergeable(one: Example, other: Example) -> bool:
    """Whether these entries of one picture each have boxes of their own, in one split and one frame.

    Files of labels belong to their picture: one that is listed again has the same boxes again.
    """
    alike = (one.split, one.width, one.height) == (other.split, other.width, other.height)
    return alike and one.unit == "annotation"


def merged(group: Sequence[Example]) -> Example:
    """One example with the boxes of all entries; a box that an earlier entry has too is not taken again."""
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
