"""The training loss from logits and boxes: pure functions, for a whole batch at once."""

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
    """The ground-truth boxes of a batch, padded to the picture with the most boxes.

    Attributes:
        boxes: [B, M, 4] in px of the network's input.
        labels: [B, M] int64.
        valid: [B, M] bool, real boxes.
        crowd: [B, M] bool, crowd regions: never assigned (never valid), and background inside them is not penalised.
    """

    boxes: Tensor
    labels: Tensor
    valid: Tensor
    crowd: Tensor


@dataclass(frozen=True)
class Share:
    """The part of a step that a loss is computed for: one of several processes or cores whose gradients are averaged.

    Attributes:
        mean: averages a number over all shares of the step.
        count: number of shares.
    """

    mean: Callable[[Tensor], Tensor] = lambda total: total
    count: int = 1

    def normaliser(self, total: Tensor) -> Tensor:
        """Return a divisor such that the mean over the shares is the whole step's sum divided by its total."""
        return self.mean(total).clamp(min=1 / self.count)


WHOLE = Share()


@dataclass(frozen=True)
class Assignment:
    """The box that each prior is assigned to.

    Attributes:
        gt_index: [B, P] int64, index of the box; -1 for background.
        quality: [B, P], IoU with that box; 0 for background.
        ignored: [B, P] bool, background in a crowd region, which is left out of the class loss.
        most: upper bound on the number of positive priors of a picture, independent of the boxes' values.
    """

    gt_index: Tensor
    quality: Tensor
    ignored: Tensor
    most: int

    def positives(self) -> Tensor:
        """Return the indices of the positive priors, [B, K] int64, filled up with other priors.

        K is ``most``, rounded up to whole CPU vectors so that a row's result does not depend on its position, but at
        most P. It is known without synchronising the device and much smaller than P; box losses are computed on these
        rows only.
        """
        count = min(-(-self.most // 16) * 16, self.gt_index.shape[1])
        return (self.gt_index >= 0).byte().topk(count, dim=1, sorted=False).indices


def assign(
    recipe: LossRecipe, raw: Tensor, priors: Tensor, levels: list[int], targets: Targets, reg_max: int = REG_MAX
) -> Assignment:
    """Assign priors to boxes by one head's predictions, raw [B, P, C + 4 * (R + 1)], with the recipe's method."""
    raw = raw.detach().float()
    logits, sides = split(raw, reg_max)
    boxes = predicted_boxes(sides, priors)
    gt = (targets.boxes, targets.labels, targets.valid)
    if recipe.assign == "atss":
        topk = recipe.topk or 9
        index, each = atss(priors, levels, *gt, topk=topk, side=recipe.anchor), topk * len(levels)
        quality = _iou_with_own(boxes, targets.boxes, index)
    else:
        each = recipe.topk or 13
        index, quality = dynamic_soft_label(logits, boxes, priors, *gt, topk=each)
    ignored = (inside(priors, targets.boxes) & targets.crowd[..., None]).any(dim=1) & (index < 0)
    return Assignment(index, quality, ignored, each * targets.boxes.shape[1])


def supervise(
    recipe: LossRecipe,
    raw: Tensor,
    guide: Tensor | None,
    priors: Tensor,
    levels: list[int],
    targets: Targets,
    reg_max: int = REG_MAX,
    share: Share = WHOLE,
    choose: Callable[..., Assignment] = assign,
    tick: Callable[[str], None] = lambda _: None,
) -> Parts:
    """Return the loss parts of the detector's head, and of guidance's if any, for one assignment.

    Args:
        recipe: the assignment's method, and the losses' weights.
        raw: the detector's outputs, [B, P, C + 4 * (R + 1)].
        guide: guidance's outputs, of the same shape; if any, they assign for both heads.
        priors: [P, 3] float32, x, y, stride in px.
        levels: number of priors of each level.
        targets: the boxes of the batch.
        reg_max: R.
        share: share of the step that the batch makes up.
        choose: assigns priors to boxes; has the arguments of ``assign``.
        tick: called with the name of each stage that ends, for timing.
    """
    raw, guide = raw.float(), None if guide is None else guide.float()
    assignment = choose(recipe, raw if guide is None else guide, priors, levels, targets, reg_max)
    tick("assignment")
    parts = head_loss(raw, priors, targets, assignment, recipe, share, reg_max)
    if guide is not None:
        again = head_loss(guide, priors, targets, assignment, recipe, share, reg_max)
        parts |= {f"guide_{name}": part for name, part in again.items()}
    return parts


def head_loss(
    raw: Tensor,
    priors: Tensor,
    targets: Targets,
    assignment: Assignment,
    recipe: LossRecipe,
    share: Share = WHOLE,
    reg_max: int = REG_MAX,
) -> Parts:
    """Return QFL (or focal loss), GIoU and DFL of one head for an assignment, already weighted by the recipe.

    QFL is divided by the number of positives. Box losses are weighted by the detached highest class score of their
    prior and divided by the sum of these weights. Both divisors are taken over all shares of the step and are at least
    1. Dirac sides (R = 0) have no DFL.
    """
    logits, sides = split(raw.float(), reg_max)
    classes, index = logits.shape[-1], assignment.gt_index
    rows = assignment.positives()
    own = index.gather(1, rows)
    positive, own = own >= 0, own.clamp(min=0)
    label = torch.where(positive, targets.labels.gather(1, own), classes)
    labels = torch.full_like(index, classes).scatter(1, rows, label).flatten()

    flat = logits.reshape(-1, classes)
    if recipe.classes == "focal":
        qfl = focal_loss(flat, labels, recipe.beta).view_as(index)
    else:
        qfl = quality_focal_loss(flat, labels, assignment.quality.flatten(), recipe.beta).view_as(index)
    positives = share.normaliser(positive.sum().float())
    weight = _at(rows, logits.detach()).amax(dim=-1).sigmoid() * positive

    def summed(values: Tensor) -> Tensor:  # in the order of all priors, so that padding does not affect rounding
        return values.new_zeros(index.shape).scatter(1, rows, values).sum()

    total = share.normaliser(summed(weight))
    gt_boxes, near, sides = _at(own, targets.boxes), priors[rows], _at(rows, sides)
    giou = giou_loss(predicted_boxes(sides, near).flatten(0, 1), gt_boxes.flatten(0, 1)).view_as(weight)
    parts = {
        recipe.classes: recipe.qfl * (qfl * ~assignment.ignored).sum() / positives,
        "giou": recipe.giou * summed(giou * weight) / total,
    }
    if reg_max:
        target = side_targets(gt_boxes, near, reg_max)
        bins = sides.unflatten(-1, (4, -1)).flatten(0, 2)
        dfl = distribution_focal_loss(bins, target.flatten()).view_as(target).sum(dim=-1)
        parts["dfl"] = recipe.dfl * summed(dfl * weight) / (4 * total)
    return parts


def _at(rows: Tensor, values: Tensor) -> Tensor:
    """Select rows of each picture: indices [B, K] into [B, P, N] -> [B, K, N]."""
    return values.gather(1, rows[..., None].expand(-1, -1, values.shape[-1]))


def predicted_boxes(sides: Tensor, priors: Tensor) -> Tensor:
    """Decode side logits [B, P, 4 * (R + 1)] to boxes [B, P, 4] in px; priors are [P, 3], or [B, P, 3] per picture."""
    return distances_to_boxes(integral(sides), priors)


def split(raw: Tensor, reg_max: int) -> tuple[Tensor, Tensor]:
    """Split raw logits [B, P, C + 4 * (R + 1)] into class logits [B, P, C] and side logits [B, P, 4 * (R + 1)]."""
    sides = 4 * (reg_max + 1)
    return raw.split([raw.shape[-1] - sides, sides], dim=-1)  # type: ignore[return-value]


def side_targets(boxes: Tensor, priors: Tensor, reg_max: int) -> Tensor:
    """Return the distances of the four sides from the prior in strides, clamped to [0, R - 0.1]: [B, P, 4]."""
    xy, stride = priors[..., :2], priors[..., 2:]
    sides = torch.cat([xy - boxes[..., :2], boxes[..., 2:] - xy], dim=-1) / stride
    return sides.clamp(0, reg_max - 0.1)


def _iou_with_own(boxes: Tensor, gt_boxes: Tensor, index: Tensor) -> Tensor:
    if gt_boxes.shape[1] == 0:
        return boxes.new_zeros(index.shape)
    return box_iou(boxes, _at(index.clamp(min=0), gt_boxes)) * (index >= 0)
