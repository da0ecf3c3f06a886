"""Dynamic soft labels (NanoDet-Plus, after SimOTA) and ATSS (Zhang et al., CVPR 2020), picture by picture."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from oracles.losses import Row, iou, quality_focal_loss

Rows = Sequence[Row]


def inside(prior: Row, box: Row) -> float:
    """Smallest distance in px from a prior to the four sides, negative outside."""
    return min(prior[0] - box[0], prior[1] - box[1], box[2] - prior[0], box[3] - prior[1])


def dynamic_soft_label(
    logits: Rows, boxes: Rows, priors: Rows, gts: Rows, labels: Sequence[int], topk: int = 13, factor: float = 3.0
) -> tuple[list[int], list[float]]:
    """The box of each prior (-1: background), and the IoU of its prediction with it."""
    candidates = [p for p, prior in enumerate(priors) if any(inside(prior, gt) > 0 for gt in gts)]
    overlaps = {(p, g): iou(boxes[p], gt) for p in candidates for g, gt in enumerate(gts)}
    cost = {
        (p, g): quality_focal_loss(logits[p], labels[g], value) - factor * math.log(value + 1e-7)
        for (p, g), value in overlaps.items()
    }
    takers: dict[int, list[int]] = {p: [] for p in candidates}
    for g in range(len(gts)):
        best = sorted((overlaps[p, g] for p in candidates), reverse=True)[:topk]
        count = max(1, int(sum(best)))
        for p in sorted(candidates, key=lambda p, g=g: cost[p, g])[:count]:
            takers[p].append(g)
    index, quality = [-1] * len(priors), [0.0] * len(priors)
    for p, own in takers.items():
        if own:
            index[p] = own[0] if len(own) == 1 else min(range(len(gts)), key=lambda g, p=p: cost[p, g])
            quality[p] = overlaps[p, index[p]]
    return index, quality


def atss(priors: Rows, level_sizes: Sequence[int], gts: Rows, topk: int = 9) -> list[int]:
    """The box of each prior (-1: background); an anchor is a square of five strides around its prior."""
    anchors = [(x - 2.5 * s, y - 2.5 * s, x + 2.5 * s, y + 2.5 * s) for x, y, s in priors]
    index, best = [-1] * len(priors), [-1.0] * len(priors)
    for g, gt in enumerate(gts):
        centre = ((gt[0] + gt[2]) / 2, (gt[1] + gt[3]) / 2)
        candidates: list[int] = []
        start = 0
        for size in level_sizes:
            level = sorted(range(start, start + size), key=lambda p, c=centre: math.dist(priors[p][:2], c))
            candidates += level[:topk]
            start += size
        overlaps = {p: iou(anchors[p], gt) for p in candidates}
        threshold = statistics.mean(overlaps.values()) + statistics.stdev(overlaps.values())
        for p, value in overlaps.items():
            if value >= threshold and inside(priors[p], gt) > 0.01 and value > best[p]:
                index[p], best[p] = g, value
    return index
