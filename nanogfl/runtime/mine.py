"""Selection of the unlabelled pictures to label next: those that the model is least certain about.

The doubt of a picture is the sum over its candidates (at most 100) of the entropy of their scores, in bits, with each
score taken as the probability of an object. The spread of the sides is reported too but does not affect the order,
because using it did not find more errors (docs/reports.md has the numbers, and those of a random order).
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
from nanogfl.pictures import read_picture
from nanogfl.runtime.draw import draw_detections
from nanogfl.runtime.frames import expand, is_video
from nanogfl.runtime.predict import Predicts, write_drawing

log = logging.getLogger(__name__)
CANDIDATE_SCORE = 0.05
DRAWN_SCORE = 0.2  # boxes with lower scores would hide the picture


@dataclass(frozen=True)
class Mined:
    """A picture and the model's uncertainty about it.

    Attributes:
        file: the picture.
        doubt: uncertainty in bits, see :func:`doubt`.
        boxes: number of boxes with a score above 0.3, the default of predict.
        spread: score-weighted mean of the candidates' side deviations relative to the box size; None if the model
            gives no deviations.
    """

    file: Path
    doubt: float
    boxes: int
    spread: float | None

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serialisable dictionary."""
        spread = None if self.spread is None else round(self.spread, 4)
        return {"file": str(self.file), "doubt": round(self.doubt, 4), "boxes": self.boxes, "spread": spread}


def doubt(found: Detections) -> float:
    """Return the uncertainty of a picture: the summed entropy of its candidates' scores, in bits."""
    score = found.scores.astype(np.float64).clip(1e-6, 1 - 1e-6)
    entropy = -(score * np.log2(score) + (1 - score) * np.log2(1 - score))
    return float(entropy.sum())


def side_spread(found: Detections) -> float | None:
    """Return the score-weighted mean of the side deviations relative to the box size; None without sigma."""
    if found.side_sigma is None:
        return None
    if not len(found):
        return 0.0
    lengths = np.tile(found.boxes[:, 2:] - found.boxes[:, :2], 2).clip(1)
    return float(np.average((found.side_sigma / lengths).mean(axis=1), weights=found.scores))


def pictures(folder: str) -> list[Path]:
    """Return the pictures of a folder or a glob, without videos."""
    return [file for file in expand([folder]) if not is_video(file)]


def mine(
    predictor: Predicts,
    folder: str,
    *,
    draw: Path | None = None,
    top: int = 20,
    progress: Callable[[], None] = lambda: None,
) -> list[Mined]:
    """Rank the pictures of a folder (or a glob), the most uncertain first.

    Args:
        predictor: from ``nanogfl.load``.
        folder: folder or glob of the pictures; ``folder/**`` includes subfolders.
        draw: folder for drawings of the first ``top`` pictures; file names begin with the rank.
        top: number of pictures to draw.
        progress: called after each picture, also after an unreadable one.

    Raises:
        DataError: no picture could be read.
        UsageError: ``draw`` is a folder of pictures that are read.
    """
    files = pictures(folder)
    if draw is not None and draw.resolve() in {file.parent.resolve() for file in files}:
        raise UsageError(f"--draw {draw} contains input pictures, which drawn ones may replace; use another folder")
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
        raise broken[0] if broken else DataError(f"{folder} contains no pictures; use another folder")
    for error in broken:
        log.warning("skipped: %s", error)
    ranked.sort(key=lambda mined: -mined.doubt)
    if draw is not None:
        _draw(predictor, ranked[:top], draw)
    return ranked


def _draw(predictor: Predicts, ranked: list[Mined], folder: Path) -> None:
    """Draw the pictures with their boxes above DRAWN_SCORE; file names begin with the rank."""
    digits = len(str(len(ranked)))
    for rank, mined in enumerate(ranked, 1):
        picture = read_picture(mined.file)
        found = predictor.predict(picture, DRAWN_SCORE)
        write_drawing(folder / f"{rank:0{digits}}_{mined.file.stem}.jpg", draw_detections(picture, found))
