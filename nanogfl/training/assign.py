"""Label assignment (which prior learns which box): dynamic soft labels (NanoDet-Plus) and ATSS, for a batch at once.

Shapes: B pictures, P priors, M boxes (those of the fullest picture; the others are padded), C classes. Pairs are [B, M,
P], one row per box: rows are long, and searches run along them. The best box of a prior (along dim 1) is found with
``max``, which is many times as fast as ``argmax`` on a CPU. Padding is marked by ``gt_valid``. There is no loop over
pictures or boxes and no synchronisation with the device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nanogfl.training.losses import area, background, own_class

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
    """Assign to each box the priors with the lowest cost, as many as the sum of its highest IoUs.

    A prior is a candidate if it lies inside any box, not only inside the one in question, as in NanoDet-Plus. A box too
    small to contain a prior therefore gets a prior of another box, if there is one, even with an IoU of 0. The cost of
    a pair is ``QFL(logits, IoU) + iou_factor * -ln(IoU)``.

    Args:
        logits: [B, P, C] class logits.
        boxes: [B, P, 4] predicted boxes in px.
        priors: [P, 3] (x, y, stride) in px.
        gt_boxes: [B, M, 4] in px.
        gt_labels: [B, M].
        gt_valid: [B, M] bool.
        topk: number of highest IoUs of a box; their sum, rounded down and at least 1, is its number of priors.
        iou_factor: weight of the IoU in the cost.

    Returns:
        gt_index [B, P] int64 (-1 = background), and the IoU of each prior with its box [B, P] (0 for background).
    """
    if gt_boxes.shape[1] == 0:
        return _nothing(logits)
    valid = gt_valid[..., None]
    candidate = (inside(priors, gt_boxes) & valid).any(dim=1, keepdim=True)
    pair = candidate & valid
    iou = pairwise_iou(gt_boxes, boxes) * pair
    cost = class_cost(logits, gt_labels, iou) - iou_factor * (iou + 1e-7).log()
    cost = torch.where(pair, cost, INFINITY)

    count = min(topk, priors.shape[0])
    wanted = iou.topk(count, dim=2).values.sum(dim=2, keepdim=True).int().clamp(min=1)  # [B, M, 1]
    cheapest = cost.topk(count, dim=2, largest=False)
    chosen = (torch.arange(count, device=cost.device) < wanted) & (cheapest.values < INFINITY)
    match = torch.zeros_like(pair).scatter(2, cheapest.indices, chosen)
    return _resolve(match, cost.min(dim=1).indices, iou)


def class_cost(logits: Tensor, gt_labels: Tensor, iou: Tensor) -> Tensor:
    """Return the QFL of every prior for every box's soft label: [B, P, C], [B, M], [B, M, P] -> [B, M, P].

    It is the loss of all classes as background, plus what the class of the box adds to it.
    """
    own = gt_labels.clamp(0, logits.shape[2] - 1)  # padding may hold any label
    logit = logits.transpose(1, 2).gather(1, own[..., None].expand(iou.shape))
    return background(logits, 2.0)[:, None] + own_class(logit, iou, 2.0)


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
    """Assign by adaptive training sample selection (Zhang et al., CVPR 2020) with square anchors of ``side`` strides.

    The ``topk`` nearest anchors of each level are candidates. A candidate is positive if its centre lies in the box and
    its IoU is at least the mean plus the standard deviation of the candidates' IoUs. Arguments as in
    :func:`dynamic_soft_label`; returns gt_index only.
    """
    del gt_labels  # the assignment does not depend on the class
    if gt_boxes.shape[1] == 0:
        return _nothing(gt_boxes.new_zeros(gt_boxes.shape[0], priors.shape[0], 1))[0]
    centre, half = priors[:, :2], side / 2 * priors[:, 2:]
    iou = pairwise_iou(gt_boxes, torch.cat([centre - half, centre + half], dim=1)[None])
    gt_x, gt_y = ((gt_boxes[..., :2] + gt_boxes[..., 2:]) / 2)[..., None].unbind(dim=2)
    distance = ((priors[:, 0] - gt_x).square() + (priors[:, 1] - gt_y).square()).sqrt()

    nearest, start = [], 0
    for level, size in zip(distance.split(level_sizes, dim=2), level_sizes, strict=True):
        nearest.append(level.topk(min(topk, size), dim=2, largest=False).indices + start)
        start += size
    index = torch.cat(nearest, dim=2)  # [B, M, K]
    near_iou = iou.gather(2, index)
    threshold = near_iou.mean(dim=2, keepdim=True) + near_iou.std(dim=2, keepdim=True)
    match = torch.zeros_like(iou, dtype=torch.bool).scatter(2, index, near_iou >= threshold)
    match &= inside(priors, gt_boxes, margin=0.01) & gt_valid[..., None]
    return _resolve(match, torch.where(match, iou, -1.0).max(dim=1).indices, iou)[0]


def inside(priors: Tensor, gt_boxes: Tensor, margin: float = 0.0) -> Tensor:
    """Return whether each prior [P, 3] lies in each box [B, M, 4] by more than ``margin`` px: [B, M, P] bool."""
    x, y, _ = priors.unbind(dim=1)
    left, top, right, bottom = gt_boxes[..., None].unbind(dim=2)
    return (x - left > margin) & (y - top > margin) & (right - x > margin) & (bottom - y > margin)


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """Return the IoU of boxes [B, M, 4] with boxes [B, P, 4]: [B, M, P]."""
    b = b.movedim(2, 0).contiguous().movedim(0, 2)  # same values, each coordinate contiguous in memory
    return box_iou(a[:, :, None], b[:, None])


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """Return the IoU of boxes [..., 4] with boxes [..., 4], broadcast against each other: [...]."""
    width, height = (
        (torch.min(a[..., axis + 2], b[..., axis + 2]) - torch.max(a[..., axis], b[..., axis])).clamp(min=0)
        for axis in (0, 1)
    )
    intersection = width * height
    return intersection / (area(a) + area(b) - intersection).clamp(min=1e-6)


def _resolve(match: Tensor, best: Tensor, iou: Tensor) -> tuple[Tensor, Tensor]:
    """Assign a prior matched by several boxes to its ``best`` box [B, P], and an unmatched prior to the background."""
    matched, only = match.byte().max(dim=1)
    index = torch.where(match.sum(dim=1) > 1, best, only)
    return torch.where(matched > 0, index, -1), iou.gather(1, index[:, None]).squeeze(1) * matched


def _nothing(like: Tensor) -> tuple[Tensor, Tensor]:
    """Return an assignment of all priors to the background, for a tensor [B, P, ...]."""
    shape = like.shape[:2]
    return torch.full(shape, -1, dtype=torch.int64, device=like.device), like.new_zeros(shape)
