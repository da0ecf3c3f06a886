"""QFL and DFL (Li et al., TPAMI 2022) and GIoU (Rezatofighi et al., CVPR 2019), one row at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence

Row = Sequence[float]


def log_sigmoid(x: float) -> float:
    """ln sigmoid(x) without overflow."""
    return -math.log1p(math.exp(-x)) if x >= 0 else x - math.log1p(math.exp(x))


def quality_focal_loss(logits: Row, label: int, quality: float, beta: float = 2.0) -> float:
    """QFL(s) = -|y - s|^beta ((1 - y) ln(1 - s) + y ln s), summed over the classes."""
    total = 0.0
    for column, logit in enumerate(logits):
        y = quality if column == label else 0.0
        s = math.exp(log_sigmoid(logit))
        total -= abs(y - s) ** beta * ((1 - y) * log_sigmoid(-logit) + y * log_sigmoid(logit))
    return total


def softmax(logits: Row) -> list[float]:
    """Probabilities of one row."""
    top = max(logits)
    parts = [math.exp(v - top) for v in logits]
    return [part / sum(parts) for part in parts]


def distribution_focal_loss(logits: Row, target: float) -> float:
    """DFL(S_i, S_i+1) = -((y_i+1 - y) ln S_i + (y - y_i) ln S_i+1) with y_i <= y < y_i+1."""
    probability = softmax(logits)
    left = math.floor(target)
    return -((left + 1 - target) * math.log(probability[left]) + (target - left) * math.log(probability[left + 1]))


def area(box: Row) -> float:
    """Width x height."""
    return (box[2] - box[0]) * (box[3] - box[1])


def overlap(a: Row, b: Row) -> float:
    """Area of the intersection."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return width * height if width > 0 and height > 0 else 0.0


def iou(a: Row, b: Row) -> float:
    """Intersection over union, 0 where both are empty."""
    union = area(a) + area(b) - overlap(a, b)
    return overlap(a, b) / union if union > 0 else 0.0


def giou_loss(pred: Row, target: Row) -> float:
    """1 - (IoU - (hull - union) / hull)."""
    union = area(pred) + area(target) - overlap(pred, target)
    hull = (max(pred[2], target[2]) - min(pred[0], target[0])) * (max(pred[3], target[3]) - min(pred[1], target[1]))
    return 1 - (overlap(pred, target) / union - (hull - union) / hull)
