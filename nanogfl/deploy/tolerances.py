"""Tolerances for comparing two models: both in float32, or one of them in float16."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nanogfl.deploy.match import Kept
from nanogfl.detections import Detections


@dataclass(frozen=True)
class Tolerances:
    """Tolerances within which two models count as equal.

    Attributes:
        box_px: largest difference of a matched box's side, and of its sigma.
        score: largest difference of a matched box's score.
        raw: largest difference of any score, and of any side logit divided by ten.
        of_input: whether px are px of the network's input if the picture is larger than the input.
        deviations: largest difference of a side as a multiple of its own standard deviation, if this is more: a
            distribution over all bins moves by many px when its logits change a little.
        overlap: largest difference of an IoU and the NMS threshold at which they count as nearly equal.
    """

    box_px: float = 0.5
    score: float = 1e-3
    raw: float = 1e-2
    of_input: bool = False
    deviations: float = 0.0
    overlap: float = 2e-3

    def allowed(self, boxes: Detections, kept: Kept | None, zoom: float) -> NDArray[np.float32]:
        """Return the largest allowed difference of each side [N, 4], in px of the picture."""
        allowed = np.full((len(boxes), 4), self.box_px * zoom, np.float32)
        return allowed if kept is None else np.maximum(allowed, self.deviations * kept.deviations)


FLOAT32 = Tolerances()
FLOAT16 = Tolerances(2.0, 0.05, 0.25, of_input=True, deviations=0.5, overlap=0.05)  # if either model is in float16
