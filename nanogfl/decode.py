"""Decoding of the network's logits into boxes: sigmoid, integral, clipping, NMS, and mapping to picture px."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from nanogfl import boxes as box_math
from nanogfl.detections import Detections
from nanogfl.errors import UsageError
from nanogfl.view import View

Array = NDArray[np.float32]
BLOCK = 128  # candidates whose IoUs are computed in one call


@dataclass(frozen=True)
class Thresholds:
    """The limits that decide which detections are kept.

    Each pair of prior and class with a score above ``score`` is a candidate; greedy NMS runs within each class.

    Attributes:
        score: scores must be above this, 0 to 1.
        iou: a box is removed if its IoU with a better box of its class is above this, 0 to 1.
        max_boxes: maximum number of boxes per picture.
    """

    score: float = 0.05
    iou: float = 0.6
    max_boxes: int = 100

    def __post_init__(self) -> None:
        for name in ("score", "iou"):
            value = getattr(self, name)
            number = isinstance(value, float | int | np.floating | np.integer)
            if not (number and 0 <= value <= 1):  # NaN is refused too
                raise UsageError(f"{name} {value}: must be a number from 0 to 1")
        if not isinstance(self.max_boxes, int | np.integer) or not 0 <= self.max_boxes < 2**63:  # an int64 in the graph
            raise UsageError(f"max_boxes {self.max_boxes}: must be an integer from 0 to 2^63 - 1")


@dataclass(frozen=True)
class Layout:
    """The layout of a raw output [P, C + 4 * (R + 1)].

    Attributes:
        input_size: (H, W) in px.
        strides: strides of the levels in px, in the order of the rows.
        reg_max: R; each side has R + 1 bins. If 0, each side has one value, whose softplus is the distance.
        centred: whether priors lie at the centres of the cells (as in the first NanoDet) instead of their corners.
        sigma: whether to return the standard deviation of each side.
        temperature: factor applied to that deviation.
    """

    input_size: tuple[int, int]
    strides: tuple[int, ...]
    reg_max: int
    centred: bool
    sigma: bool = False
    temperature: float = 1.0

    def priors_at(self, rows: NDArray[np.intp]) -> Array:
        """Return the priors [N, 3] (x, y, stride) in px of these rows of the raw output."""
        return all_priors(self.input_size, self.strides, self.centred)[rows]


def decode(
    raw: Array, layout: Layout, view: View, names: Sequence[str], thresholds: Thresholds | None = None
) -> Detections:
    """Decode one picture's raw output [P, C + 4 * (R + 1)] into its detections."""
    limits = thresholds or Thresholds()
    classes = raw.shape[1] - 4 * (layout.reg_max + 1)
    prior, label = np.nonzero(raw[:, :classes] > _logit(limits.score))
    score = sigmoid(raw[prior, label])
    above = score > limits.score
    prior, label, score = prior[above], label[above], score[above]

    used, row = np.unique(prior, return_inverse=True)
    boxes, deviation = side_geometry(raw[used, classes:], layout.priors_at(used), layout.reg_max)
    boxes = box_math.clip(boxes, *layout.input_size)
    keep = nms(boxes[row], score, label, limits)
    sigma = view.back_lengths(deviation[row[keep]] * np.float32(layout.temperature)) if layout.sigma else None
    return Detections(view.back(boxes[row[keep]]), score[keep], label[keep].astype(np.int64), list(names), sigma)


def side_geometry(logits: Array, priors: Array, reg_max: int) -> tuple[Array, Array]:
    """Return boxes [N, 4] and side deviations [N, 4], in input px, from side logits [N, 4 * (R + 1)] and priors."""
    if reg_max == 0:
        return _around(np.logaddexp(0, logits), priors), np.zeros((len(logits), 4), np.float32)
    bins = np.arange(reg_max + 1, dtype=np.float32)
    exp = logits.reshape(-1, 4, reg_max + 1)
    exp = np.exp(exp - exp.max(axis=2, keepdims=True, initial=-np.inf))
    probability = exp / exp.sum(axis=2, keepdims=True)
    mean = probability @ bins
    deviation = np.sqrt((probability @ bins**2 - mean**2).clip(0)) * priors[:, 2:]
    return _around(mean, priors), deviation.astype(np.float32)


def _around(distances: Array, priors: Array) -> Array:
    """Return boxes [N, 4] in px from the distances of the sides [N, 4], in strides, to priors [N, 3]."""
    side = distances * priors[:, 2:]
    return np.concatenate([priors[:, :2] - side[:, :2], priors[:, :2] + side[:, 2:]], axis=1).astype(np.float32)


def nms(boxes: Array, scores: Array, labels: NDArray[np.integer], limits: Thresholds) -> NDArray[np.intp]:
    """Run greedy, class-aware non-maximum suppression; return the indices of the kept boxes, best first."""
    order = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    for start in range(0, len(order), BLOCK):  # IoUs of whole blocks need fewer numpy calls
        rows = order[start : start + BLOCK]
        if kept:
            rows = rows[~_suppresses(np.array(kept), rows, boxes, labels, limits.iou).any(axis=0)]
        free = np.ones(len(rows), bool)
        for place, beaten in enumerate(_suppresses(rows, rows, boxes, labels, limits.iou)):
            if len(kept) == limits.max_boxes:
                return np.array(kept, np.intp)
            if free[place]:
                kept.append(int(rows[place]))
                free &= ~beaten
    return np.array(kept, np.intp)


def _suppresses(
    better: NDArray[np.intp], worse: NDArray[np.intp], boxes: Array, labels: NDArray[np.integer], limit: float
) -> NDArray[np.bool_]:
    """Return [N, M]: whether each better box [N] suppresses each worse box [M] (same class, IoU above the limit)."""
    same = labels[better][:, None] == labels[worse]
    return same & (box_math.iou(boxes[better], boxes[worse]) > limit)


def sigmoid(x: Array) -> Array:
    """Return the elementwise sigmoid in float32, without overflow."""
    return (1 / (1 + np.exp(-x.astype(np.float32).clip(-80, 80)))).astype(np.float32)


def _logit(score: float) -> float:
    """Return slightly less than a score's logit, as a prefilter before the exact comparison; -inf for 0, inf for 1."""
    return float(np.log(score / (1 - score))) - 1e-3 if 0 < score < 1 else (-np.inf if score <= 0 else np.inf)


@lru_cache(maxsize=16)
def all_priors(input_size: tuple[int, int], strides: tuple[int, ...], centred: bool) -> Array:
    """Return one prior per cell, [P, 3] (x, y, stride) in px, level by level and row by row."""
    levels = []
    for stride in strides:
        rows, columns = -(-input_size[0] // stride), -(-input_size[1] // stride)
        y, x = np.mgrid[:rows, :columns].reshape(2, -1).astype(np.float32) + (0.5 if centred else 0)
        levels.append(np.stack([x * stride, y * stride, np.full_like(x, stride)], axis=1))
    return np.concatenate(levels).astype(np.float32)
