"""A model's detections on a set, and the contents of the report, computed on first use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanogfl.data.table import Table
from nanogfl.detections import Detections
from nanogfl.evaluation import mistakes
from nanogfl.evaluation.calibrate import Reliability, matched_sides, reliability
from nanogfl.evaluation.coco import Scores
from nanogfl.evaluation.matching import Pool, pool
from nanogfl.evaluation.suspects import Suspect, suspects


@dataclass(frozen=True)
class Study:
    """The results of an evaluation; everything else in the report is derived from them.

    Attributes:
        title: what was evaluated on what.
        table: in the model's class order.
        detections: one for each picture.
        scores: pycocotools' numbers.
    """

    title: str
    table: Table
    detections: Sequence[Detections]
    scores: Scores

    @cached_property
    def pool(self) -> Pool:
        """All detections and labels, matched at IoU 0.5."""
        return pool(self.table, self.detections)

    @cached_property
    def total(self) -> mistakes.Curve:
        """The precision-recall curve of all classes together."""
        return mistakes.total_curve(self.pool)

    @cached_property
    def threshold(self) -> float:
        """The score with the best F1, at which errors are counted and pictures are drawn."""
        return self.total.best_score

    @cached_property
    def kinds(self) -> dict[str, mistakes.ErrorKind]:
        """Count and cost of each kind of error."""
        return mistakes.error_kinds(self.pool, self.threshold)

    @cached_property
    def confusion(self) -> NDArray[np.int64]:
        """The confusion matrix at the threshold."""
        return mistakes.confusion(self.pool, self.threshold)

    @cached_property
    def sigma(self) -> Reliability | None:
        """How well the predicted deviation of the sides predicts their error; None if too few sides have one."""
        return reliability(matched_sides(self.table, self.detections))

    @cached_property
    def suspects(self) -> list[Suspect]:
        """Labels that may be wrong."""
        return suspects(self.table, self.detections, self.pool, self.threshold)

    def to_json(self) -> dict[str, Any]:
        """Return everything on the page except pictures, JSON-ready."""
        return {
            **self.scores.to_json(),
            "score_threshold": self.threshold,
            "F1": float(self.total.f1.max(initial=0)),
            "errors": {name: asdict(kind) for name, kind in self.kinds.items()},
            "confusion": {"classes": [*self.table.names, None], "matrix": self.confusion.tolist()},
            "sigma": None if self.sigma is None else asdict(self.sigma),
            "suspects": [suspect.to_json(self.table) for suspect in self.suspects],
        }
