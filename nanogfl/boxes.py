"""Boxes as numpy arrays [N, 4]: x1 y1 x2 y2, continuous pixels, (0, 0) the outer corner of the first pixel."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.floating]


def areas(boxes: Boxes) -> Boxes:
    """Return the area of each box in px² [N]; 0 for inverted boxes."""
    return (boxes[:, 2] - boxes[:, 0]).clip(0) * (boxes[:, 3] - boxes[:, 1]).clip(0)


def clip(boxes: Boxes, height: float, width: float) -> Boxes:
    """Clip boxes [N, 4] to a frame of this size in px."""
    limit = np.array([width, height, width, height], boxes.dtype)
    return np.minimum(np.maximum(boxes, 0), limit)


def iou(a: Boxes, b: Boxes) -> Boxes:
    """Return the IoU of every pair of boxes: [N, 4] x [M, 4] -> [N, M]; 0 if both are empty."""
    intersection = _intersections(a, b)
    union = areas(a)[:, None] + areas(b)[None, :] - intersection
    return np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)


def coverage(a: Boxes, b: Boxes) -> Boxes:
    """Return the fraction of each box of ``a`` that each box of ``b`` covers: [N, M]; 0 for an empty box of ``a``."""
    intersection, own = _intersections(a, b), areas(a)[:, None]
    return np.divide(intersection, own, out=np.zeros_like(intersection), where=own > 0)


def _intersections(a: Boxes, b: Boxes) -> Boxes:
    width, height = (  # one axis at a time: numpy is slow along an axis of length two
        (np.minimum(a[:, None, axis + 2], b[:, axis + 2]) - np.maximum(a[:, None, axis], b[:, axis])).clip(0)
        for axis in (0, 1)
    )
    return width * height


def transform(boxes: Boxes, matrix: NDArray[np.floating]) -> Boxes:
    """Map the corners of each box [N, 4] by a 3x3 (affine or perspective) matrix; return their bounding boxes."""
    if len(boxes) == 0:
        return boxes.reshape(0, 4)
    if not matrix[2, 0] and not matrix[2, 1] and matrix[2, 2] == 1:  # affine: mapping centre and half sides is enough
        linear, low, high = matrix[:2, :2].T, boxes[:, :2], boxes[:, 2:]
        centre = (low + high) @ linear / 2 + matrix[:2, 2]
        half = np.abs(high - low) @ np.abs(linear) / 2
        return np.concatenate([centre - half, centre + half], axis=1).astype(boxes.dtype, copy=False)
    corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    homogeneous = np.concatenate([corners, np.ones_like(corners[..., :1])], axis=2) @ matrix.T
    points = homogeneous[..., :2] / homogeneous[..., 2:]
    return np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1).astype(boxes.dtype)
