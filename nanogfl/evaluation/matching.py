"""Matching of detections with labels (ground-truth boxes), and kinds of errors: in one picture, and pooled over a set.

The correct detections are those of pycocotools. The others are classified as in TIDE (Bolya et al., ECCV 2020): each
detection is of one kind, by what it overlaps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nanogfl import boxes as box_math
from nanogfl.data.table import Example, Table
from nanogfl.detections import Detections

MATCH_IOU = 0.5
TOUCH_IOU = 0.1  # below it, a detection is unrelated to a label
CORRECT, DUPLICATE, CLASS, LOCALIZATION, BOTH, BACKGROUND, IGNORED = range(7)
KINDS = {
    DUPLICATE: "duplicate",
    CLASS: "class",
    LOCALIZATION: "localization",
    BOTH: "class and localization",
    BACKGROUND: "background",
}


@dataclass(frozen=True)
class Matched:
    """One picture's detections matched with its labels; rows as in its Detections and its Example.

    Attributes:
        kinds: int64 [N], CORRECT .. IGNORED (inside a crowd region).
        truths: int64 [N], the label that the detection refers to, -1 for none.
        found_by: int64 [M], the detection that found each label, -1 for none.
        nearest: float64 [M], highest IoU of any detection with each label, of any class.
    """

    kinds: NDArray[np.int64]
    truths: NDArray[np.int64]
    found_by: NDArray[np.int64]
    nearest: NDArray[np.float64]


def match(example: Example, found: Detections, iou: float = MATCH_IOU) -> Matched:
    """Match one picture: by descending score, each detection takes the free label of its class with the highest IoU.

    The kind of a detection does not depend on detections with lower scores: a higher score threshold only removes rows.
    """
    boxes = found.boxes.astype(np.float64)
    overlap = box_math.iou(boxes, example.boxes)
    overlap[:, example.crowd] = 0
    same = found.labels[:, None] == example.labels[None, :]
    found_by = _take(np.where(same, overlap, 0), iou)
    kinds = np.full(len(found), BACKGROUND, np.int64)
    truths = np.full(len(found), -1, np.int64)
    if overlap.shape[1]:
        rules = (
            (BOTH, ~same, TOUCH_IOU),
            (LOCALIZATION, same, TOUCH_IOU),
            (CLASS, ~same, iou),
            (DUPLICATE, same, iou),
        )
        for kind, of_class, lowest in rules:  # the last rule that holds wins
            near = np.where(of_class, overlap, 0)
            holds = near.max(axis=1) >= lowest
            kinds[holds], truths[holds] = kind, near.argmax(axis=1)[holds]
    kinds[(crowd_cover(example, boxes) * same >= iou).any(axis=1)] = IGNORED
    labels = np.flatnonzero(found_by >= 0)
    kinds[found_by[labels]], truths[found_by[labels]] = CORRECT, labels
    return Matched(kinds, truths, found_by, overlap.max(axis=0, initial=0))


def _take(overlap: NDArray[np.float64], iou: float) -> NDArray[np.int64]:
    """Return the detection that takes each label, given the IoU [N, M] of pairs of one class, best score first."""
    found_by = np.full(overlap.shape[1], -1, np.int64)
    for i in np.flatnonzero((overlap >= iou).any(axis=1)):
        free = np.where(found_by < 0, overlap[i], 0)
        best = len(free) - 1 - int(free[::-1].argmax())  # the last of equal ones, as in pycocotools
        if free[best] >= iou:
            found_by[best] = i
    return found_by


def crowd_cover(example: Example, boxes: NDArray[np.float64]) -> NDArray[np.floating]:
    """Return the fraction of each box that each crowd region covers: [N, M], 0 for labels that are not crowds."""
    return box_math.coverage(boxes, example.boxes) * example.crowd


@dataclass(frozen=True)
class Pool:
    """All detections of a set, by descending score, and all its labels that are not crowds.

    Attributes:
        names: class names.
        pictures: int64 [N], index of the picture in the table.
        rows: int64 [N], index of the detection in its picture.
        labels, scores, kinds: [N], of the detection.
        truths: int64 [N], index of the label that it refers to in the arrays below, -1 for none.
        truth_pictures, truth_rows, truth_labels: int64 [M].
        found_by: int64 [M], index of the detection that found the label, -1 for none.
        nearest: float64 [M], highest IoU of any detection with the label, of any class.
    """

    names: tuple[str, ...]
    pictures: NDArray[np.int64]
    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    scores: NDArray[np.float64]
    kinds: NDArray[np.int64]
    truths: NDArray[np.int64]
    truth_pictures: NDArray[np.int64]
    truth_rows: NDArray[np.int64]
    truth_labels: NDArray[np.int64]
    found_by: NDArray[np.int64]
    nearest: NDArray[np.float64]

    def counts(self) -> NDArray[np.int64]:
        """Return the number of labels of each class: [C]."""
        return np.bincount(self.truth_labels, minlength=len(self.names))


def pool(table: Table, detections: Sequence[Detections], iou: float = MATCH_IOU) -> Pool:
    """Match every picture and pool the results."""
    none = np.zeros(0, np.int64)
    found: list[tuple[NDArray, ...]] = [(none, none, none, np.zeros(0), none, none)]
    truths: list[tuple[NDArray, ...]] = [(none, none, none, np.zeros(0))]
    total = 0
    for picture, (example, given) in enumerate(zip(table.examples, detections, strict=True)):
        matched = match(example, given, iou)
        real = np.flatnonzero(~example.crowd)
        place = np.full(len(example.labels) + 1, -1)  # the last row, read by index -1, means no label
        place[real] = total + np.arange(len(real))
        total += len(real)
        count = len(given)
        at = np.full(count, picture)
        found.append((at, np.arange(count), given.labels, given.scores, matched.kinds, place[matched.truths]))
        truths.append((np.full(len(real), picture), real, example.labels[real], matched.nearest[real]))
    columns = [np.concatenate(column) for column in zip(*found, strict=True)]
    order = np.argsort(-columns[3], kind="stable")  # by descending score
    pictures, rows, labels, scores, kinds, about = (column[order] for column in columns)
    found_by = np.full(total, -1, np.int64)
    found_by[about[kinds == CORRECT]] = np.flatnonzero(kinds == CORRECT)
    truth_pictures, truth_rows, truth_labels, nearest = (np.concatenate(column) for column in zip(*truths, strict=True))
    return Pool(
        tuple(table.names), pictures, rows, labels, scores, kinds, about,
        truth_pictures, truth_rows, truth_labels, found_by, nearest,
    )  # fmt: skip
