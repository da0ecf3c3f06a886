"""Display options of the window, and the keys that change them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nanogfl.detections import Detections
from nanogfl.pictures import Picture
from nanogfl.runtime.draw import draw_detections

SCORE_KEYS = {"+": 0.05, "=": 0.05, "-": -0.05, "_": -0.05}
SWITCHES = {"b": "boxes", "l": "labels", "u": "sigma", "f": "figures"}


@dataclass
class Overlay:
    """The display options, which keys change.

    Attributes:
        score: only detections with a score above this are shown.
        boxes, labels, sigma: whether outlines, names, and soft edges as wide as each side's deviation are drawn.
        figures: whether the panel with speed, latencies and counts is drawn.
    """

    score: float = 0.3
    boxes: bool = True
    labels: bool = True
    sigma: bool = False
    figures: bool = True

    def press(self, key: str) -> str:
        """Apply a key; return a message about the change, or an empty string if the key changes nothing."""
        if key in SCORE_KEYS:
            self.score = round(min(max(self.score + SCORE_KEYS[key], 0.05), 0.95), 2)
            return f"score > {self.score:.2f}"
        if key not in SWITCHES:
            return ""
        name = SWITCHES[key]
        setattr(self, name, not getattr(self, name))
        return f"{name} {'on' if getattr(self, name) else 'off'}"

    def draw(self, picture: Picture, found: Detections, ids: Sequence[int] | None) -> Picture:
        """Return a copy of the picture with the detections drawn by these options, without the panel."""
        return draw_detections(
            picture, found, ids=ids, show_boxes=self.boxes, show_labels=self.labels, show_sigma=self.sigma
        )
