"""How far two equal models may be apart: in float32, and where one of the two is in float16."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nanogfl.deploy.match import Kept
from nanogfl.detections import Detections


@dataclass(frozen=True)
class Bar:
    """Largest differences of two equal models.

    Attributes:
        box_px: of a matched box's side, and of its sigma.
        score: of its score.
        raw: of any score, and of any side logit over ten.
        of_input: the px are those of the network's input, where the picture is larger than that.
        deviations: of its own that a side may be off, where that is more: a distribution over all bins moves by many px
            when its logits move a little.
        overlap: of two boxes and the threshold of NMS, which are nearly equal then.
    """

    box_px: float = 0.5
    score: float = 1e-3
    raw: float = 1e-2
    of_input: bool = False
    deviations: float = 0.0
    overlap: float = 2e-3

    def allowed(self, boxes: Detections, kept: Kept | None, zoom: float) -> NDArray[np.float32]:
        """How far each side [N, 4] may be off, in px of the picture."""
        allowed = np.full((len(boxes), 4), self.box_px * zoom, np.float32)
        return allowed if kept is None else np.maximum(allowed, self.deviations * kept.deviations)


FULL = Bar()
HALF = Bar(2.0, 0.05, 0.25, of_input=True, deviations=0.5, overlap=0.05)  # one of the two in float16
