"""The training loss of one head, prior by prior (NanoDet-Plus' weights)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from oracles.head import box
from oracles.losses import Row, distribution_focal_loss, giou_loss, log_sigmoid, quality_focal_loss


def side_targets(gt: Row, prior: Row, reg_max: int) -> list[float]:
    """Distances of the four sides in strides, clamped to [0, R - 0.1]."""
    x, y, stride = prior
    distances = (x - gt[0], y - gt[1], gt[2] - x, gt[3] - y)
    return [min(max(d / stride, 0.0), reg_max - 0.1) for d in distances]


def head_loss(
    raws: Sequence[Sequence[Row]],
    priors: Sequence[Row],
    gts: Sequence[Sequence[Row]],
    labels: Sequence[Sequence[int]],
    index: Sequence[Sequence[int]],
    quality: Sequence[Sequence[float]],
    ignored: Sequence[Sequence[bool]],
    classes: int,
) -> dict[str, float]:
    """QFL x 1, GIoU x 2, DFL x 1/4 of a batch, each normalised over the whole batch."""
    qfl = giou = dfl = total = 0.0
    positives = 0
    for b, raw in enumerate(raws):
        for p, prior in enumerate(priors):
            logits, sides = raw[p][:classes], raw[p][classes:]
            g = index[b][p]
            label = labels[b][g] if g >= 0 else classes
            if not ignored[b][p]:
                qfl += quality_focal_loss(logits, label, quality[b][p])
            if g < 0:
                continue
            positives += 1
            weight = math.exp(max(log_sigmoid(v) for v in logits))
            total += weight
            giou += weight * giou_loss(box(sides, prior), gts[b][g])
            bins = len(sides) // 4
            for side, target in enumerate(side_targets(gts[b][g], prior, bins - 1)):
                dfl += weight * distribution_focal_loss(sides[side * bins : (side + 1) * bins], target)
    total = max(total, 1.0)
    return {"qfl": qfl / max(positives, 1), "giou": 2.0 * giou / total, "dfl": 0.25 * dfl / (4 * total)}
