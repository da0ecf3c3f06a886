"""The losses of Generalized Focal Loss (Li et al., TPAMI 2022): one value per row, neither reduced nor weighted."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def quality_focal_loss(logits: Tensor, labels: Tensor, quality: Tensor, beta: float = 2.0) -> Tensor:
    """Return the QFL: cross entropy against the IoU as a soft label, scaled by the score's distance from it.

    ``|y - s|^beta * BCE(s, y)``, the paper's equation of QFL; y is the quality at the prior's own class, 0 elsewhere.

    Args:
        logits: [N, C].
        labels: [N], class of each prior; C is background.
        quality: [N], IoU of each positive with its box, 0 to 1.
        beta: exponent of the modulating factor.

    Returns:
        [N], summed over classes.
    """
    rest, own, logit = _background_and_own(logits, labels, beta)
    return rest + own * own_class(logit, quality, beta)


def modulated(logits: Tensor, target: Tensor, beta: float) -> Tensor:
    """Return one term of QFL, ``|y - s|^beta * BCE(s, y)`` with s the sigmoid of the logits; all of one shape."""
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return entropy * (target - logits.sigmoid()).abs().pow(beta)


def own_class(logit: Tensor, quality: Tensor, beta: float) -> Tensor:
    """Return what a row's own class adds to its background loss: the term for this quality minus that for 0."""
    return modulated(logit, quality, beta) - modulated(logit, torch.zeros_like(quality), beta)


def background(logits: Tensor, beta: float) -> Tensor:
    """Return the QFL of background rows, ``s^beta * BCE(s, 0)`` summed over the classes: [..., C] -> [...]."""
    return (logits.sigmoid().pow(beta) * F.softplus(logits)).sum(dim=-1)


def _background_and_own(logits: Tensor, labels: Tensor, beta: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return each row's loss as background [N], whether it has a class [N], and its logit there [N], else any logit."""
    classes = logits.shape[1]
    rest, logit = _BackgroundAndOwn.apply(logits, labels.clamp(max=classes - 1)[:, None], beta)
    return rest, labels < classes, logit


class _BackgroundAndOwn(torch.autograd.Function):
    """The background loss of all rows and the logits of their own classes, with a handwritten gradient.

    Nearly all terms of the loss are background. For them, autograd would keep several tensors of the logits' size and
    create two more for the gradient of the own logits; this function keeps only one, the gradient.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, place: Tensor, beta: float) -> tuple[Tensor, Tensor]:
        score, entropy = logits.sigmoid(), F.softplus(logits)
        factor = score.pow(beta)
        loss = (factor * entropy).sum(dim=-1)
        if ctx.needs_input_grad[0]:  # d/dx of s^b H, where H' is s and s' is s (1 - s): s^b (s + (1 - s) b H)
            slope = score.lerp_(score.new_ones(()), entropy.mul_(beta)).mul_(factor)
            ctx.save_for_backward(slope, place)
        return loss, logits.gather(1, place).squeeze(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, own: Tensor) -> tuple[Tensor, None, None]:
        slope, place = ctx.saved_tensors
        return (slope * gradient[:, None]).scatter_add_(1, place, own[:, None]), None, None


def distribution_focal_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Return the DFL (the paper's equation): cross entropy of the two bins next to the target, weighted by nearness.

    Args:
        logits: [M, R + 1], one row per side.
        target: [M], distance in strides, 0 <= target < R.

    Returns:
        [M].
    """
    bins = torch.arange(logits.shape[1], dtype=target.dtype, device=target.device)[:, None]
    nearness = (1 - (target - bins).abs()).clamp(min=0)  # [R + 1, M], 0 except for the two bins next to the target
    return -(logits.t().log_softmax(dim=0) * nearness).sum(dim=0)


def generalized_focal_loss(
    log_left: Tensor, log_right: Tensor, left: Tensor, right: Tensor, target: Tensor, beta: float
) -> Tensor:
    """Return the GFL, the paper's general form, of two values of a variable, their probabilities, a target between.

    ``-|y - (y_l p_l + y_r p_r)|^beta ((y_r - y) log p_l + (y - y_l) log p_r)``. QFL is the case y_l, y_r = 0, 1 with
    p_r = sigmoid and beta = 2, summed over classes. DFL is the case of two neighbouring bins with beta = 0. The focal
    loss is QFL with targets 0 and 1.

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
    """Return the focal loss (Lin et al., ICCV 2017), which QFL replaces: logits [N, C], labels [N] -> [N]."""
    rest, own, logit = _background_and_own(logits, labels, gamma)
    one, zero = torch.ones_like(logit), torch.zeros_like(logit)
    swapped = alpha * modulated(logit, one, gamma) - (1 - alpha) * modulated(logit, zero, gamma)
    return (1 - alpha) * rest + own * swapped


def giou_loss(pred: Tensor, target: Tensor, eps: float = 1e-6) -> Tensor:
    """Return 1 - GIoU (Rezatofighi et al., CVPR 2019): [N, 4] boxes x1 y1 x2 y2 against [N, 4] -> [N]."""
    inner = (torch.min(pred[:, 2:], target[:, 2:]) - torch.max(pred[:, :2], target[:, :2])).clamp(min=0)
    outer = (torch.max(pred[:, 2:], target[:, 2:]) - torch.min(pred[:, :2], target[:, :2])).clamp(min=0)
    # products are written out, because the backward of torch.prod synchronises the device
    intersection, hull = inner[:, 0] * inner[:, 1], (outer[:, 0] * outer[:, 1]).clamp(min=eps)
    union = (area(pred) + area(target) - intersection).clamp(min=eps)
    return 1 - intersection / union + (hull - union) / hull


def area(boxes: Tensor) -> Tensor:
    """Return width x height of boxes [..., 4] in px²."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
