"""Which prior learns which box: dynamic soft labels (NanoDet-Plus) and ATSS, for a whole batch at once.

Shapes: B pictures, P priors, M boxes (the fullest picture's; the others are padded), C classes.
Rows of padding are marked by ``gt_valid``; nothing loops over pictures or boxes and nothing waits for the device.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from nanogfl.training.losses import area

INFINITY = 1e8


@torch.no_grad()
def dynamic_soft_label(
    logits: Tensor,
    boxes: Tensor,
    priors: Tensor,
    gt_boxes: Tensor,
    gt_labels: Tensor,
    gt_valid: Tensor,
    topk: int = 13,
    iou_factor: float = 3.0,
) -> tuple[Tensor, Tensor]:
    """Give each box the priors that predict it best, as many as the sum of its best IoUs says.

    Candidates are priors inside any box. The cost of a pair is ``QFL(logits, IoU) + iou_factor * -ln(IoU)``.

    Args:
        logits: [B, P, C] class logits.
        boxes: [B, P, 4] predicted boxes in px.
        priors: [P, 3] (x, y, stride) in px.
        gt_boxes: [B, M, 4] in px.
        gt_labels: [B, M].
        gt_valid: [B, M] bool.
        topk: how many of the best IoUs decide a box's number of priors.
        iou_factor: weight of the IoU in the cost.

    Returns:
        gt_index [B, P] int64 (-1 = background), and the IoU of each prior with its box [B, P] (0 for background).
    """
    if gt_boxes.shape[1] == 0:
        return _nothing(logits)
    candidate = (inside(priors, gt_boxes) & gt_valid[:, None]).any(dim=2)
    pair = candidate[..., None] & gt_valid[:, None]
    iou = pairwise_iou(boxes, gt_boxes) * pair
    cost = class_cost(logits, gt_labels, iou) - iou_factor * (iou + 1e-7).log()
    cost = torch.where(pair, cost, INFINITY)

    count = min(topk, priors.shape[0])
    wanted = iou.topk(count, dim=1).values.sum(dim=1).int().clamp(min=1)  # [B, M]
    cheapest = cost.topk(count, dim=1, largest=False)
    chosen = (torch.arange(count, device=cost.device)[:, None] < wanted[:, None]) & (cheapest.values < INFINITY)
    match = torch.zeros_like(pair).scatter(1, cheapest.indices, chosen)
    return _resolve(match, cost.argmin(dim=2), iou)


def class_cost(logits: Tensor, gt_labels: Tensor, iou: Tensor) -> Tensor:
    """QFL of every prior against every box's soft label: [B, P, C], [B, M], [B, P, M] -> [B, P, M].

    Closed form: the background term summed over all classes, with the one at the box's class swapped.
    """
    score = logits.sigmoid()
    background = F.softplus(logits) * score.square()
    index = gt_labels[:, None].expand(iou.shape)
    logit, score = logits.gather(2, index), score.gather(2, index)
    soft = F.binary_cross_entropy_with_logits(logit, iou, reduction="none") * (iou - score).square()
    return background.sum(dim=2, keepdim=True) - background.gather(2, index) + soft


@torch.no_grad()
def atss(
    priors: Tensor,
    level_sizes: list[int],
    gt_boxes: Tensor,
    gt_labels: Tensor,
    gt_valid: Tensor,
    topk: int = 9,
    side: float = 5.0,
) -> Tensor:
    """Adaptive training sample selection (Zhang et al., CVPR 2020) with square anchors of this side in strides.

    The ``topk`` nearest anchors a level are candidates; those whose IoU reaches mean + deviation of the candidates'
    and whose centre lies in the box are positive. Arguments and result as in :func:`dynamic_soft_label`.
    """
    del gt_labels  # the same for every class
    if gt_boxes.shape[1] == 0:
        return _nothing(gt_boxes.new_zeros(gt_boxes.shape[0], priors.shape[0], 1))[0]
    centre, half = priors[:, :2], side / 2 * priors[:, 2:]
    anchors = torch.cat([centre - half, centre + half], dim=1).expand(gt_boxes.shape[0], -1, -1)
    iou = pairwise_iou(anchors, gt_boxes)
    gt_centre = (gt_boxes[..., :2] + gt_boxes[..., 2:]) / 2
    distance = (centre[None, :, None] - gt_centre[:, None]).square().sum(dim=-1).sqrt()

    nearest, start = [], 0
    for level, size in zip(distance.split(level_sizes, dim=1), level_sizes, strict=True):
        nearest.append(level.topk(min(topk, size), dim=1, largest=False).indices + start)
        start += size
    index = torch.cat(nearest, dim=1)  # [B, K, M]
    near_iou = iou.gather(1, index)
    threshold = near_iou.mean(dim=1) + near_iou.std(dim=1)
    positive = near_iou >= threshold[:, None]
    match = torch.zeros_like(iou, dtype=torch.bool).scatter(1, index, positive)
    match &= inside(priors, gt_boxes, margin=0.01) & gt_valid[:, None]
    return _resolve(match, torch.where(match, iou, -1.0).argmax(dim=2), iou)[0]


def inside(priors: Tensor, gt_boxes: Tensor, margin: float = 0.0) -> Tensor:
    """Whether each prior [P, 3] lies in each box [B, M, 4] by more than a margin in px: [B, P, M] bool."""
    xy = priors[None, :, None, :2]
    sides = torch.cat([xy - gt_boxes[:, None, :, :2], gt_boxes[:, None, :, 2:] - xy], dim=-1)
    return sides.amin(dim=-1) > margin


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of boxes [B, P, 4] with boxes [B, M, 4]: [B, P, M]."""
    return box_iou(a[:, :, None], b[:, None])


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of boxes [..., 4] with boxes [..., 4], broadcast against each other: [...]."""
    inner = (torch.min(a[..., 2:], b[..., 2:]) - torch.max(a[..., :2], b[..., :2])).clamp(min=0)
    intersection = inner.prod(dim=-1)
    return intersection / (area(a) + area(b) - intersection).clamp(min=1e-6)


def _resolve(match: Tensor, best: Tensor, iou: Tensor) -> tuple[Tensor, Tensor]:
    """A prior matched by several boxes goes to its best one; by none, to the background."""
    times = match.sum(dim=2)
    index = torch.where(times > 1, best, match.int().argmax(dim=2))
    matched = times > 0
    return torch.where(matched, index, -1), iou.gather(2, index[..., None]).squeeze(2) * matched


def _nothing(like: Tensor) -> tuple[Tensor, Tensor]:
    """All background for [B, P, ...]."""
    shape = like.shape[:2]
    return torch.full(shape, -1, dtype=torch.int64, device=like.device), like.new_zeros(shape)
