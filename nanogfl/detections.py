"""``Detections``, the result of every predictor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanogfl.errors import UsageError, nearest


@dataclass(frozen=True, eq=False)
class Detections:
    """The objects detected in one picture, best first.

    Attributes:
        boxes: float32 [N, 4], x1 y1 x2 y2 in px of the picture, clipped to it.
        scores: float32 [N], descending, 0 to 1.
        labels: int64 [N], index into ``names``.
        names: all classes of the model.
        side_sigma: float32 [N, 4], standard deviation of the left, top, right, bottom side in px, or None.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    names: list[str]
    side_sigma: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        count = len(self.scores)
        if self.boxes.shape != (count, 4) or self.labels.shape != (count,):
            raise ValueError(f"boxes {self.boxes.shape} and labels {self.labels.shape} do not match {count} scores")

    def __len__(self) -> int:
        return len(self.scores)

    def select(self, keep: NDArray[Any]) -> Detections:
        """Return the detections at these indices, or where this mask is true."""
        sigma = None if self.side_sigma is None else self.side_sigma[keep]
        return Detections(self.boxes[keep], self.scores[keep], self.labels[keep], self.names, sigma)

    def of_classes(self, classes: Sequence[str] | None) -> Detections:
        """Return the detections of these classes, or all if None; raise UsageError for an unknown class name."""
        if classes is None:
            return self
        return self.select(np.isin(self.labels, class_indices(classes, self.names)))

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield JSON-serialisable dictionaries ``{class, label, score, box}``, with ``side_sigma`` if available."""
        for i, (box, score, label) in enumerate(zip(self.boxes, self.scores, self.labels, strict=True)):
            record = {
                "class": self.names[label],
                "label": int(label),
                "score": round(float(score), 5),
                "box": [round(float(v), 3) for v in box],
            }
            if self.side_sigma is not None:
                record["side_sigma"] = [round(float(v), 3) for v in self.side_sigma[i]]
            yield record


def class_indices(classes: Sequence[str], names: Sequence[str]) -> list[int]:
    """Return the indices of these class names; for an unknown one, raise UsageError with the nearest known name."""
    for name in classes:
        if name not in names:
            known = nearest(name, names) or f"; its classes are {', '.join(names[:20])}"
            raise UsageError(f"--classes: the model has no class {name!r}{known}")
    return [names.index(name) for name in classes]
