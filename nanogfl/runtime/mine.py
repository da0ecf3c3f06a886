"""Which unlabelled pictures to label next: those that the model is least sure of.

The doubt of a picture is the sum over its candidates (at most 100) of the entropy of their scores, in bits, as if each
score were the probability of an object. How far the sides may lie is told beside it; it does not change the order,
because that did not find more errors (docs/reports.md has the numbers, and what chance finds).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nanogfl.detections import Detections
from nanogfl.errors import DataError, UsageError
from nanogfl.pictures import read_picture, write_picture
from nanogfl.runtime.draw import draw_detections
from nanogfl.runtime.frames import expand, is_video
from nanogfl.runtime.predict import Predicts

log = logging.getLogger(__name__)
CANDIDATE_SCORE = 0.05
DRAWN_SCORE = 0.2  # lower ones hide the picture


@dataclass(frozen=True)
class Mined:
    """A picture and how unsure the model is of it.

    Attributes:
        file: the picture.
        doubt: in bits, see :func:`doubt`.
        boxes: how many score above 0.3, as predict counts.
        spread: mean deviation of the sides over the length of the box, of the candidates by their score; None where
            the model does not give it.
    """

    file: Path
    doubt: float
    boxes: int
    spread: float | None

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        spread = None if self.spread is None else round(self.spread, 4)
        return {"file": str(self.file), "doubt": round(self.doubt, 4), "boxes": self.boxes, "spread": spread}


def doubt(found: Detections) -> float:
    """Bits of doubt about all candidates of a picture."""
    score = found.scores.astype(np.float64).clip(1e-6, 1 - 1e-6)
    entropy = -(score * np.log2(score) + (1 - score) * np.log2(1 - score))
    return float(entropy.sum())


def side_spread(found: Detections) -> float | None:
    """Deviation of the sides over the length of the box, the mean of all by their score; None without sigma."""
    if found.side_sigma is None:
        return None
    if not len(found):
        return 0.0
    lengths = np.tile(found.boxes[:, 2:] - found.boxes[:, :2], 2).clip(1)
    return float(np.average((found.side_sigma / lengths).mean(axis=1), weights=found.scores))


def pictures(folder: str) -> list[Path]:
    """What :func:`mine` looks at of a folder or a glob: its pictures, no videos."""
    return [file for file in expand([folder]) if not is_video(file)]


def mine(
    predictor: Predicts,
    folder: str,
    *,
    draw: Path | None = None,
    top: int = 20,
    progress: Callable[[], None] = lambda: None,
) -> list[Mined]:
    """Rank the pictures of a folder (or a glob), the least sure first.

    Args:
        predictor: from ``nanogfl.load``.
        folder: what holds the pictures; ``folder/**`` looks into subfolders too.
        draw: where to draw the first ``top`` of them, their rank before their name.
        top: how many are drawn.
        progress: called after each picture, a broken one too.

    Raises:
        DataError: no picture there could be read.
        UsageError: the drawn pictures would lie among those that are read.
    """
    files = pictures(folder)
    if draw is not None and draw.resolve() in {file.parent.resolve() for file in files}:
        raise UsageError(
            f"--draw {draw} holds pictures that are read, which drawn ones may replace; name another folder"
        )
    ranked: list[Mined] = []
    broken: list[DataError] = []
    for file in files:
        try:
            found = predictor.predict(read_picture(file), CANDIDATE_SCORE)
        except DataError as error:
            broken.append(error)
        else:
            ranked.append(Mined(file, doubt(found), int((found.scores > 0.3).sum()), side_spread(found)))
        progress()
    if not ranked:
        raise broken[0] if broken else DataError(f"{folder} holds no pictures; name a folder that does")
    for error in broken:
        log.warning("left out: %s", error)
    ranked.sort(key=lambda mined: -mined.doubt)
    if draw is not None:
        _draw(predictor, ranked[:top], draw)
    return ranked


def _draw(predictor: Predicts, ranked: list[Mined], folder: Path) -> None:
    """Pictures with the candidates, named by rank."""
    digits = len(str(len(ranked)))
    for rank, mined in enumerate(ranked, 1):
        picture = read_picture(mined.file)
        found = predictor.predict(picture, DRAWN_SCORE)
        write_picture(folder / f"{rank:0{digits}}_{mined.file.stem}.jpg", draw_detections(picture, found))
