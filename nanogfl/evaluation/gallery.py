"""Pictures for the report: labels dashed, detections in their class's colour, as a whole or cropped around a box."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from nanogfl.data.table import Example
from nanogfl.detections import Detections
from nanogfl.pictures import Picture, read_picture
from nanogfl.runtime.draw import draw_detections, draw_truth, to_side

WHOLE_PX = 620
CUT_PX = 360
LEAST_CUT = 96  # minimum side in px of the picture, so that some surroundings are visible
JPEG = [cv2.IMWRITE_JPEG_QUALITY, 82]

Window = tuple[int, int, int, int]
"""x1 y1 x2 y2 in whole px of a picture."""


def draw_whole(example: Example, found: Detections) -> bytes:
    """Return the whole picture with its labels and these detections, as JPEG."""
    picture = read_picture(example.path)
    return _draw(picture, (0, 0, picture.shape[1], picture.shape[0]), WHOLE_PX, example, found)


def draw_cut(example: Example, found: Detections, box: Sequence[float]) -> bytes:
    """Return the surroundings of a box with the labels and these detections there, as JPEG."""
    picture = read_picture(example.path)
    return _draw(picture, window_around(box, picture.shape[:2]), CUT_PX, example, found)


def window_around(box: Sequence[float], frame: tuple[int, ...]) -> Window:
    """Return a square about twice as wide as the box, shifted into the frame (H, W) and clipped to it."""
    height, width = frame[:2]
    side = round(max(LEAST_CUT, 2 * max(box[2] - box[0], box[3] - box[1])))
    x = round((box[0] + box[2] - side) / 2)
    y = round((box[1] + box[3] - side) / 2)
    x, y = max(0, min(x, width - side)), max(0, min(y, height - side))
    return x, y, min(x + side, width), min(y + side, height)


def _draw(picture: Picture, window: Window, side: int, example: Example, found: Detections) -> bytes:
    x1, y1, x2, y2 = window
    part = to_side(picture[y1:y2, x1:x2], side)
    size = (part.shape[1], part.shape[0])
    labels, seen = _moved(example.boxes, window, size)
    canvas = draw_truth(part, labels[seen], example.labels[seen], found.names)
    boxes, seen = _moved(found.boxes, window, size)
    moved = Detections(boxes.astype(np.float32), found.scores, found.labels, found.names).select(seen)
    _, data = cv2.imencode(".jpg", draw_detections(canvas, moved), JPEG)
    return data.tobytes()


def _moved(
    boxes: NDArray[np.floating], window: Window, size: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return boxes [N, 4] in px of a window resized to (W, H), clipped to it, and which of them are visible there."""
    x1, y1, x2, y2 = window
    scale = np.array([size[0] / (x2 - x1), size[1] / (y2 - y1)] * 2)
    moved = (boxes.astype(np.float64) - np.array([x1, y1, x1, y1])) * scale
    cut = moved.clip(0, np.array([*size, *size]))
    sides, whole = cut[:, 2:] - cut[:, :2], moved[:, 2:] - moved[:, :2]
    return cut, (sides > 1).all(axis=1) & (sides.prod(axis=1) >= 0.1 * whole.prod(axis=1))
