"""Problems of boxes that the readers accept: duplicates, contradicting classes, boxes too small to learn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nanogfl.boxes import iou
from nanogfl.data.findings import Findings, listed
from nanogfl.data.table import Example
from nanogfl.errors import counted

SAME = 0.95  # IoU from which two boxes count as duplicates
TINY = 3.0  # px of the network's input; the finest level has a stride of 8 px
MOST = 2_000  # boxes compared with each other per picture


def note_boxes(examples: Sequence[Example], names: Sequence[str], side: int, notes: Findings) -> None:
    """Note the problems of each picture's boxes; ``side`` is the side of the training input in px."""
    unannotated = {f.file for f in notes.found if f.kind == "picture-unannotated"}
    for example in examples:
        for a, b in same_boxes(example, example.labels):
            one, other = names[example.labels[a]], names[example.labels[b]]
            kind = "box-duplicate" if one == other else "box-contradicted"
            detail = f"{other}, but {one} in {example.mark(a)}" if one != other else f"{one} as in {example.mark(a)}"
            notes.add(kind, example.name, example.mark(b), detail)
        sides = short_sides(example, side)
        small = np.flatnonzero(sides < TINY)
        if len(small):
            detail = f"{len(small)} of {len(sides)} under {TINY:g} px at input {side}, down to {sides.min():.1f}"
            notes.add("box-tiny", example.name, _places(example, small), detail)
        if example.crowd.any():
            marks = _places(example, np.flatnonzero(example.crowd))
            notes.add("box-crowd", example.name, marks, counted(int(example.crowd.sum()), "region"))
        if not len(example.boxes) and example.name not in unannotated:
            notes.add("picture-empty", example.name)


def same_boxes(example: Example, classes: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return rows (a, b) of duplicate boxes, a < b, each b once: a is the first of b's class [N], else of any class.

    Crowd regions are ignored.
    """
    rows = np.flatnonzero(~example.crowd)[:MOST]
    same = np.triu(iou(example.boxes[rows], example.boxes[rows]) >= SAME, 1)
    alike = same & (classes[rows][:, None] == classes[rows])
    first = np.where(alike.any(axis=0), alike, same).argmax(axis=0) if len(rows) else rows
    return [(int(rows[first[b]]), int(rows[b])) for b in np.flatnonzero(same.any(axis=0))]


def short_sides(example: Example, side: int) -> NDArray[np.float64]:
    """Return the shorter side of each box in px of a square input: [N]; infinite for crowd regions."""
    scale = np.array([side / example.width, side / example.height])
    sides = (example.boxes[:, 2:] - example.boxes[:, :2]) * scale
    return np.where(example.crowd, np.inf, sides.min(axis=1, initial=np.inf))


def _places(example: Example, rows: NDArray[np.int64]) -> str:
    """Format the places of these rows in the annotation: ``lines 3, 7``."""
    return listed(example.unit, [example.mark(int(i)).removeprefix(f"{example.unit} ") for i in rows])
