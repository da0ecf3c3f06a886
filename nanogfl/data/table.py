"""The one form that every annotated set is read into."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nanogfl.data.findings import KINDS, Finding
from nanogfl.errors import DataError
from nanogfl.pictures import Picture, read_picture

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Example:
    """One picture and its boxes; arrays have one row a box.

    Attributes:
        path: the picture on disk.
        name: path relative to the root of the set, with forward slashes; unique in the set.
        width, height: of the upright picture in pixels, from its file where it could be read, else as annotated.
        boxes: float64 [N, 4], x1 y1 x2 y2 in pixels.
        labels: int64 [N], index into ``Table.names``.
        crowd: bool [N], regions that neither train nor punish.
        areas: float64 [N] px², as annotated, else width x height.
        split: one of SPLITS, or None where the set has no splits.
        source_id: the picture's id in the annotation (COCO), else its name.
        marks: int64 [N], where each box stands: line (YOLO), number of the object (VOC), id (COCO; where it has no
            usual number as id, -1 - its place in the list); None where nobody noted it.
        unit: what ``marks`` count: line, object, annotation.
    """

    path: Path
    name: str
    width: int
    height: int
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    areas: NDArray[np.float64]
    split: str | None = None
    source_id: int | str = ""
    marks: NDArray[np.int64] | None = None
    unit: str = "box"

    def picture(self) -> Picture:
        """Its pixels, upright: uint8 BGR [H, W, 3]. Raises DataError where they cannot be decoded."""
        try:
            return read_picture(self.path)
        except DataError as error:
            raise DataError(f"{error}; 'nanogfl check DATA --fix OUT' writes a copy of the set without such") from error

    def mark(self, row: int) -> str:
        """Say where one of its boxes stands in the annotation; nothing where nobody noted it."""
        if self.marks is None:
            return ""
        mark = int(self.marks[row])
        return f"{self.unit} {mark}" if mark >= 0 else f"entry {-1 - mark} of annotations"

    def keeping(self, rows: NDArray[np.bool_]) -> Example:
        """The same picture with only these of its boxes: bool [N]."""
        return replace(
            self,
            boxes=self.boxes[rows],
            labels=self.labels[rows],
            crowd=self.crowd[rows],
            areas=self.areas[rows],
            marks=None if self.marks is None else self.marks[rows],
        )


@dataclass(frozen=True)
class Table:
    """A whole set: class names in the annotation's own order, one example a picture."""

    root: Path
    form: str
    names: tuple[str, ...]
    examples: tuple[Example, ...]
    findings: tuple[Finding, ...] = ()

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def warnings(self) -> list[Finding]:
        """What was put right or left out while reading."""
        return [f for f in self.findings if KINDS[f.kind].severity != "note"]

    @property
    def has_splits(self) -> bool:
        """Whether the set itself says which picture belongs to which split."""
        return any(e.split is not None for e in self.examples)

    def where(self, keep: Callable[[Example], bool]) -> Table:
        """The same set with fewer pictures."""
        return replace(self, examples=tuple(e for e in self.examples if keep(e)))

    def with_names(self, names: Sequence[str]) -> Table:
        """The set in another model's class order; boxes of classes it does not have are left out."""
        index = {name: i for i, name in enumerate(names)}
        new = np.array([index.get(name, -1) for name in self.names] or [-1], np.int64)

        def relabel(example: Example) -> Example:
            kept = example.keeping(new[example.labels] >= 0)
            return replace(kept, labels=new[kept.labels])

        return replace(self, names=tuple(names), examples=tuple(relabel(e) for e in self.examples))
