"""From logits and boxes to the training loss: pure functions, for a whole batch at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nanogfl.model.distribution import REG_MAX, distances_to_boxes, integral
from nanogfl.recipe import LossRecipe
from nanogfl.training.assign import atss, box_iou, dynamic_soft_label, inside
from nanogfl.training.losses import distribution_focal_loss, focal_loss, giou_loss, quality_focal_loss

Parts = dict[str, Tensor]


@dataclass(frozen=True)
class Targets:
    """The boxes of a batch, padded to the fullest picture.

    Attributes:
        boxes: [B, M, 4] in px of the network's input.
        labels: [B, M] int64.
        valid: [B, M] bool, real boxes.
        crowd: [B, M] bool, regions that neither train nor punish (never valid).
    """

    boxes: Tensor
    labels: Tensor
    valid: Tensor
    crowd: Tensor


@dataclass(frozen=True)
class Share:
    """Which part of a step a loss is made of: one of several processes or cores, whose gradients are averaged.

    Attributes:
        mean: averages a number over all shares of the step.
        count: how many there are.
    """

    mean: Callable[[Tensor], Tensor] = lambda total: total
    count: int = 1

    def normaliser(self, total: Tensor) -> Tensor:
        """What to divide by, so that the mean over the shares is what the whole step divided by its total gives."""
        return self.mean(total).clamp(min=1 / self.count)


WHOLE = Share()


@dataclass(frozen=True)
class Assignment:
    """What each prior learns.

    Attributes:
        gt_index: [B, P] int64, its box; -1 is background.
        quality: [B, P], IoU with that box; 0 of background.
        ignored: [B, P] bool, background that is not judged, in a crowd.
    """

    gt_index: Tensor
    quality: Tensor
    ignored: Tensor


def assign(
    recipe: LossRecipe, raw: Tensor, priors: Tensor, levels: list[int], targets: Targets, reg_max: int = REG_MAX
) -> Assignment:
    """Assign by the predictions of one head, raw [B, P, C + 4 * (R + 1)], with the recipe's method."""
    raw = raw.detach().float()
    logits, sides = split(raw, reg_max)
    boxes = predicted_boxes(sides, priors)
    gt = (targets.boxes, targets.labels, targets.valid)
    if recipe.assign == "atss":
        index = atss(priors, levels, *gt, topk=recipe.topk or 9, side=recipe.anchor)
        quality = _iou_with_own(boxes, targets.boxes, index)
    else:
        index, quality = dynamic_soft_label(logits, boxes, priors, *gt, topk=recipe.topk or 13)
    ignored = (inside(priors, targets.boxes) & targets.crowd[..., None]).any(dim=1) & (index < 0)
    return Assignment(index, quality, ignored)


def head_loss(
    raw: Tensor,
    priors: Tensor,
    targets: Targets,
    assignment: Assignment,
    recipe: LossRecipe,
    share: Share = WHOLE,
    reg_max: int = REG_MAX,
) -> Parts:
    """QFL (or focal loss), GIoU and DFL of one head against an assignment, each already weighted.

    QFL is divided by the number of positives; boxes are weighted by the detached best class score of their prior
    and divided by the sum of these weights (both over all shares of the step, and at least 1 there). Dirac sides
    (R = 0) have no DFL.
    """
    logits, sides = split(raw.float(), reg_max)
    classes = logits.shape[-1]
    positive = assignment.gt_index >= 0
    own = assignment.gt_index.clamp(min=0)
    if targets.boxes.shape[1]:
        gt_boxes = targets.boxes.gather(1, own[..., None].expand(-1, -1, 4))
        labels = torch.where(positive, targets.labels.gather(1, own), classes)
    else:
        gt_boxes = logits.new_zeros(*own.shape, 4)
        labels = torch.full_like(own, classes)

    flat, label = logits.reshape(-1, classes), labels.reshape(-1)
    if recipe.classes == "focal":
        qfl = focal_loss(flat, label, recipe.beta).view_as(own)
    else:
        qfl = quality_focal_loss(flat, label, assignment.quality.reshape(-1), recipe.beta).view_as(own)
    positives = share.normaliser(positive.sum().float())
    weight = logits.detach().amax(dim=-1).sigmoid() * positive
    total = share.normaliser(weight.sum())

    boxes = predicted_boxes(sides, priors)
    giou = giou_loss(boxes.reshape(-1, 4), gt_boxes.reshape(-1, 4)).view_as(weight)
    parts = {
        recipe.classes: recipe.qfl * (qfl * ~assignment.ignored).sum() / positives,
        "giou": recipe.giou * (giou * weight).sum() / total,
    }
    if reg_max:
        target = side_targets(gt_boxes, priors, reg_max)
        bins = sides.unflatten(-1, (4, -1)).flatten(0, 2)
        dfl = distribution_focal_loss(bins, target.flatten()).view_as(target).sum(dim=-1)
        parts["dfl"] = recipe.dfl * (dfl * weight).sum() / (4 * total)
    return parts


def predicted_boxes(sides: Tensor, priors: Tensor) -> Tensor:
    """Side logits [B, P, 4 * (R + 1)] -> boxes [B, P, 4] in px."""
    return distances_to_boxes(integral(sides), priors)


def split(raw: Tensor, reg_max: int) -> tuple[Tensor, Tensor]:
    """Raw logits [B, P, C + 4 * (R + 1)] -> class logits [B, P, C] and side logits [B, P, 4 * (R + 1)]."""
    sides = 4 * (reg_max + 1)
    return raw.split([raw.shape[-1] - sides, sides], dim=-1)  # type: ignore[return-value]


def side_targets(boxes: Tensor, priors: Tensor, reg_max: int) -> Tensor:
    """Distances of the four sides from the prior in strides, clamped to [0, R - 0.1]: [B, P, 4]."""
    xy, stride = priors[:, :2], priors[:, 2:]
    sides = torch.cat([xy - boxes[..., :2], boxes[..., 2:] - xy], dim=-1) / stride
    return sides.clamp(0, reg_max - 0.1)


def _iou_with_own(boxes: Tensor, gt_boxes: Tensor, index: Tensor) -> Tensor:
    if gt_boxes.shape[1] == 0:
        return boxes.new_zeros(index.shape)
    own = gt_boxes.gather(1, index.clamp(min=0)[..., None].expand(-1, -1, 4))
    return box_iou(boxes, own) * (index >= 0)
