"""The losses of Generalized Focal Loss (Li et al., TPAMI 2022), one row a prior; none reduces or weighs."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def quality_focal_loss(logits: Tensor, labels: Tensor, quality: Tensor, beta: float = 2.0) -> Tensor:
    """QFL: cross entropy against the IoU as a soft label, scaled by how far the score is from it.

    ``|y - s|^beta * BCE(s, y)``, the paper's equation of QFL; y is the quality at the prior's own class, 0 elsewhere.

    Args:
        logits: [N, C].
        labels: [N], class of each prior; C is background.
        quality: [N], IoU of each positive with its box, 0 to 1.
        beta: exponent of the modulating factor.

    Returns:
        [N], summed over classes.
    """
    target = _own_class(labels, logits) * quality[:, None]
    distance = (target - logits.sigmoid()).abs()
    loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none") * distance.pow(beta)
    return loss.sum(dim=1)


def distribution_focal_loss(logits: Tensor, target: Tensor) -> Tensor:
    """DFL: cross entropy of the two bins beside the target, weighted by nearness (the paper's equation of DFL).

    Args:
        logits: [M, R + 1], one row a side.
        target: [M], distance in strides, 0 <= target < R.

    Returns:
        [M].
    """
    log_probability = logits.log_softmax(dim=-1)
    left = target.long()
    nearness = torch.stack([left + 1 - target, target - left], dim=-1)
    pair = torch.stack([left, left + 1], dim=-1)
    return -(log_probability.gather(-1, pair) * nearness).sum(dim=-1)


def generalized_focal_loss(
    log_left: Tensor, log_right: Tensor, left: Tensor, right: Tensor, target: Tensor, beta: float
) -> Tensor:
    """GFL, the paper's general form: two values of a variable, their probabilities, and a target between them.

    ``-|y - (y_l p_l + y_r p_r)|^beta ((y_r - y) log p_l + (y - y_l) log p_r)``. QFL is the case y_l, y_r = 0, 1 with
    p_r = sigmoid and beta = 2, summed over classes; DFL the case of two neighbouring bins with beta = 0; the focal
    loss QFL with targets 0 and 1.

    Args:
        log_left: [...], log p_l.
        log_right: [...], log p_r.
        left: [...], the lower value y_l.
        right: [...], the higher value y_r.
        target: [...], y from y_l to y_r.
        beta: exponent of the modulating factor.

    Returns:
        [...].
    """
    distance = (target - left * log_left.exp() - right * log_right.exp()).abs()
    return -distance.pow(beta) * ((right - target) * log_left + (target - left) * log_right)


def focal_loss(logits: Tensor, labels: Tensor, gamma: float = 2.0, alpha: float = 0.25) -> Tensor:
    """The focal loss that QFL takes the place of (Lin et al., ICCV 2017): logits [N, C], labels [N] -> [N]."""
    target = _own_class(labels, logits).to(logits.dtype)
    balance = alpha * target + (1 - alpha) * (1 - target)
    loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (balance * (target - logits.sigmoid()).abs().pow(gamma) * loss).sum(dim=1)


def _own_class(labels: Tensor, logits: Tensor) -> Tensor:
    """Which column of the logits [N, C] is each row's class: [N, C] bool."""
    return labels[:, None] == torch.arange(logits.shape[1], device=labels.device)


def giou_loss(pred: Tensor, target: Tensor, eps: float = 1e-6) -> Tensor:
    """1 - GIoU (Rezatofighi et al., CVPR 2019): [N, 4] boxes x1 y1 x2 y2 against [N, 4] -> [N]."""
    inner = (torch.min(pred[:, 2:], target[:, 2:]) - torch.max(pred[:, :2], target[:, :2])).clamp(min=0)
    outer = (torch.max(pred[:, 2:], target[:, 2:]) - torch.min(pred[:, :2], target[:, :2])).clamp(min=0)
    intersection, hull = inner[:, 0] * inner[:, 1], (outer[:, 0] * outer[:, 1]).clamp(min=eps)  # prod's gradient waits
    union = (area(pred) + area(target) - intersection).clamp(min=eps)
    return 1 - intersection / union + (hull - union) / hull


def area(boxes: Tensor) -> Tensor:
    """Width x height of boxes [..., 4] in px²."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
