"""A model's detections on a set, and everything that the report tells of them, worked out when it is asked for."""

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
    """What was evaluated; the rest follows from it.

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
        """Everything matched at IoU 0.5."""
        return pool(self.table, self.detections)

    @cached_property
    def total(self) -> mistakes.Curve:
        """Of all classes together."""
        return mistakes.total_curve(self.pool)

    @cached_property
    def threshold(self) -> float:
        """The score with the best F1, at which errors are counted and pictures drawn."""
        return self.total.best_score

    @cached_property
    def kinds(self) -> dict[str, mistakes.ErrorKind]:
        """What goes wrong."""
        return mistakes.error_kinds(self.pool, self.threshold)

    @cached_property
    def confusion(self) -> NDArray[np.int64]:
        """Labels against detections at the threshold."""
        return mistakes.confusion(self.pool, self.threshold)

    @cached_property
    def sigma(self) -> Reliability | None:
        """How well the deviation of the sides tells their error; None where it is not known."""
        return reliability(matched_sides(self.table, self.detections))

    @cached_property
    def suspects(self) -> list[Suspect]:
        """Labels to look at."""
        return suspects(self.table, self.detections, self.pool, self.threshold)

    def to_json(self) -> dict[str, Any]:
        """Everything on the page that is no picture."""
        return {
            **self.scores.to_json(),
            "score_threshold": self.threshold,
            "F1": float(self.total.f1.max(initial=0)),
            "errors": {name: asdict(kind) for name, kind in self.kinds.items()},
            "confusion": {"classes": [*self.table.names, None], "matrix": self.confusion.tolist()},
            "sigma": None if self.sigma is None else asdict(self.sigma),
            "suspects": [suspect.to_json(self.table) for suspect in self.suspects],
        }
