"""The one form that every annotated set is read into."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

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


@dataclass(frozen=True)
class Warned:
    """One thing that was put right or left out while reading."""

    kind: str
    where: str
    detail: str


@dataclass(frozen=True)
class Table:
    """A whole set: class names in the annotation's own order, one example a picture."""

    root: Path
    form: str
    names: tuple[str, ...]
    examples: tuple[Example, ...]
    warnings: tuple[Warned, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.examples)

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
            labels = new[example.labels]
            keep = labels >= 0
            return replace(
                example,
                boxes=example.boxes[keep],
                labels=labels[keep],
                crowd=example.crowd[keep],
                areas=example.areas[keep],
            )

        return replace(self, names=tuple(names), examples=tuple(relabel(e) for e in self.examples))
