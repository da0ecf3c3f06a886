"""The common representation into which every annotated dataset is read."""

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
    """One picture and its boxes; arrays have one row per box.

    Attributes:
        path: the picture file.
        name: path relative to the dataset's root, with forward slashes; unique in the dataset.
        width, height: of the upright picture in px, from its file; until that is read, as annotated (0 if unknown).
        boxes: float64 [N, 4], x1 y1 x2 y2 in px.
        labels: int64 [N], index into ``Table.names``.
        crowd: bool [N], crowd regions: neither targets nor background, ignored by loss and evaluation.
        areas: float64 [N] px², as annotated, else width x height.
        split: one of SPLITS, or None if the dataset has no splits.
        source_id: the picture's id in the annotation (COCO), else its name.
        marks: int64 [N], the place of each box in its annotation: line (YOLO), number of the object (VOC), or id (COCO;
            -1 - index in the list if the id is not a non-negative 64-bit integer); None if not known.
        unit: what ``marks`` refers to: line, object, annotation.
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
        """Read the picture, upright: uint8 BGR [H, W, 3]. Raises DataError if it cannot be read or decoded."""
        try:
            return read_picture(self.path)
        except DataError as error:
            raise DataError(
                f"{error}; 'nanogfl check DATA --fix OUT' writes a copy of the dataset without it"
            ) from error

    def mark(self, row: int) -> str:
        """Return the place of a box in its annotation, such as ``line 3``; empty if not known."""
        if self.marks is None:
            return ""
        mark = int(self.marks[row])
        return f"{self.unit} {mark}" if mark >= 0 else f"entry {-1 - mark} of annotations"

    def keeping(self, rows: NDArray[np.bool_]) -> Example:
        """Return the same picture with only the selected boxes, bool [N]."""
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
    """A whole dataset: class names in the order of the annotation, and one example per picture."""

    root: Path
    form: str
    names: tuple[str, ...]
    examples: tuple[Example, ...]
    findings: tuple[Finding, ...] = ()

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def warnings(self) -> list[Finding]:
        """The findings on what was corrected or left out while reading."""
        return [f for f in self.findings if KINDS[f.kind].severity != "note"]

    @property
    def has_splits(self) -> bool:
        """Whether the dataset itself assigns pictures to splits."""
        return any(e.split is not None for e in self.examples)

    @property
    def unnamed(self) -> bool:
        """Whether this is a YOLO dataset without class names, which the reader numbers instead."""
        return self.form == "yolo" and self.names == numbered(len(self.names)) != ()

    def where(self, keep: Callable[[Example], bool]) -> Table:
        """Return the dataset with only the pictures for which ``keep`` is true."""
        return replace(self, examples=tuple(e for e in self.examples if keep(e)))

    def with_names(self, names: Sequence[str]) -> Table:
        """Return the dataset with another list of classes; boxes of classes that are not in it are left out."""
        index = {name: i for i, name in enumerate(names)}
        new = np.array([index.get(name, -1) for name in self.names] or [-1], np.int64)

        def relabel(example: Example) -> Example:
            kept = example.keeping(new[example.labels] >= 0)
            return replace(kept, labels=new[kept.labels])

        return replace(self, names=tuple(names), examples=tuple(relabel(e) for e in self.examples))


def numbered(count: int) -> tuple[str, ...]:
    """Return the names that the classes of a YOLO dataset without names get."""
    return tuple(f"class_{i}" for i in range(count))
