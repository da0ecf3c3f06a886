"""Labels that a trained model contradicts: no proof, but the first places to look for annotation errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanogfl.boxes import areas, iou
from nanogfl.data.table import Table
from nanogfl.detections import Detections
from nanogfl.evaluation.matching import BACKGROUND, CLASS, Pool, crowd_cover
from nanogfl.evaluation.mistakes import found_at

SAME_IOU = 0.7  # from this IoU up, model and annotation mean the same object, although they name it differently
BLIND_IOU = 0.3  # a label whose IoU with every detection of any class is lower was not seen at all
UNLABELLED, MISNAMED, UNFOUND = "unlabelled", "other class", "never found"


@dataclass(frozen=True)
class Suspect:
    """A place to check.

    Attributes:
        kind: UNLABELLED, MISNAMED or UNFOUND.
        picture: index into the table.
        box: x1 y1 x2 y2 in px; the detection's if there is one, else the label's.
        labelled, found: class names; None if there is no label, or no detection.
        score: score of the detection; None if there is none.
    """

    kind: str
    picture: int
    box: tuple[float, float, float, float]
    labelled: str | None
    found: str | None
    score: float | None

    def to_json(self, table: Table) -> dict[str, Any]:
        """Return JSON-ready values, with the picture's name."""
        score = None if self.score is None else round(self.score, 4)
        box = [round(value, 2) for value in self.box]
        labelled, found = self.labelled, self.found
        file = table.examples[self.picture].name
        return {"kind": self.kind, "file": file, "box": box, "labelled": labelled, "found": found, "score": score}


def suspects(table: Table, detections: Sequence[Detections], data: Pool, threshold: float) -> list[Suspect]:
    """Return all suspects by kind, the most suspicious of each kind first.

    Unlabelled: a detection above the threshold without a label, by score. Other class: a detection above the threshold
    that fits a label of another class, which is not found itself, by score. Never found: a label without any detection
    near it, by area.
    """
    strong = data.scores >= threshold
    found = found_at(data, threshold)
    result = []
    for i in np.flatnonzero(strong & (data.kinds == BACKGROUND)):
        box = _found_box(detections, data, int(i))
        if crowd_cover(table.examples[data.pictures[i]], box).max(initial=0) < SAME_IOU:
            result.append(_suspect(UNLABELLED, data, int(i), box, None))
    for i in np.flatnonzero(strong & (data.kinds == CLASS)):
        truth, box = int(data.truths[i]), _found_box(detections, data, int(i))
        label = table.examples[data.pictures[i]].boxes[data.truth_rows[truth]]
        if not found[truth] and iou(box, label[None])[0, 0] >= SAME_IOU:
            result.append(_suspect(MISNAMED, data, int(i), box, data.names[data.truth_labels[truth]]))
    return result + _unfound(table, data)


def _suspect(kind: str, data: Pool, i: int, box: NDArray[np.float64], labelled: str | None) -> Suspect:
    return Suspect(
        kind, int(data.pictures[i]), _four(box[0]), labelled, data.names[data.labels[i]], float(data.scores[i])
    )


def _unfound(table: Table, data: Pool) -> list[Suspect]:
    rows = np.flatnonzero(data.nearest < BLIND_IOU)
    boxes = np.array([table.examples[data.truth_pictures[i]].boxes[data.truth_rows[i]] for i in rows]).reshape(-1, 4)
    order = np.argsort(-areas(boxes), kind="stable")
    return [
        Suspect(
            UNFOUND,
            int(data.truth_pictures[rows[k]]),
            _four(boxes[k]),
            data.names[data.truth_labels[rows[k]]],
            None,
            None,
        )
        for k in order
    ]


def _found_box(detections: Sequence[Detections], data: Pool, i: int) -> NDArray[np.float64]:
    return detections[data.pictures[i]].boxes[[data.rows[i]]].astype(np.float64)


def _four(box: NDArray[np.floating]) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = (float(value) for value in box)
    return x1, y1, x2, y2
