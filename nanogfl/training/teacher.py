"""Distillation: a smaller detector learns from a trained detector's scores and side distributions."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nanogfl.errors import TrainingError
from nanogfl.model import zoo
from nanogfl.model.checkpoint import Card, read_card
from nanogfl.model.detector import Architecture, Detector
from nanogfl.model.weights import load_state, read_weights
from nanogfl.recipe import LossRecipe, Recipe
from nanogfl.training.losses import modulated
from nanogfl.training.objective import WHOLE, Parts, Share, split

log = logging.getLogger(__name__)


class Teacher:
    """A frozen detector and its columns of the student's classes.

    It is not a module, so that no checkpoint and no optimizer contains it.

    Args:
        network: the detector.
        columns: for each of the student's classes, its class column in the teacher's output.
        strides: strides of the student; further levels of a heavier teacher are left out.
    """

    def __init__(self, network: Detector, columns: list[int], strides: tuple[int, ...]) -> None:
        self.strides = strides
        self.network = network.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.columns = torch.tensor(columns)

    def __deepcopy__(self, _: dict[int, Any]) -> Teacher:
        """Return self: weight averaging copies the task, and a teacher never changes."""
        return self

    def to(self, device: torch.device) -> None:
        """Move to the student's device."""
        self.network.to(device)
        self.columns = self.columns.to(device)

    @torch.no_grad()
    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Predict for the student's classes and priors, from normalised pictures [B, 3, H, W].

        Returns class logits [B, P, C] and side logits [B, P, 4 * (R + 1)].
        """
        height, width = images.shape[2:]
        priors = sum(-(-height // stride) * -(-width // stride) for stride in self.strides)
        logits, sides = split(self.network(images)[:, :priors].float(), self.network.architecture.reg_max)
        return logits[..., self.columns], sides


def read_teacher(recipe: Recipe, student: Card) -> Teacher | None:
    """Return the detector that ``train.teacher`` names, or None for ``none``.

    Raises:
        TrainingError: the detector cannot teach this student.
    """
    source = recipe.train.teacher
    if source == "none":
        return None
    path = zoo.resolve(source)
    weights = read_weights(path)
    card = read_card(weights, sized=True)
    fault = _fault(card.architecture, student.architecture, recipe.loss)
    missing = [name for name in student.names if name not in card.names]
    if missing:
        fault = f"it lacks the classes {', '.join(missing[:8])}; train one on them"
    if fault:
        raise TrainingError(f"train.teacher={source} cannot teach this detector: {fault}")
    network = Detector(card.architecture)
    load_state(network, weights.state, path)
    log.info("teacher %s: family %s, size %s", source, card.architecture.family, card.architecture.size)
    return Teacher(network, [card.names.index(name) for name in student.names], student.architecture.strides)


def _fault(teacher: Architecture, student: Architecture, loss: LossRecipe) -> str | None:
    if (teacher.centred, teacher.strides[: len(student.strides)]) != (student.centred, student.strides):
        return (
            f"its family is {teacher.family}, whose priors differ from those of {student.family}; use another teacher"
        )
    if not loss.teach_sides:
        return None
    if 0 in (teacher.reg_max, student.reg_max):
        return "sides of one value have no distribution to learn; set loss.teach_sides=0"
    if teacher.reg_max != student.reg_max:
        return (
            f"its sides have {teacher.reg_max + 1} bins, not {student.reg_max + 1}; "
            f"set model.reg_max={teacher.reg_max} or loss.teach_sides=0"
        )
    return None


def teaching_loss(
    logits: Tensor,
    sides: Tensor,
    taught: tuple[Tensor, Tensor],
    recipe: LossRecipe,
    share: Share = WHOLE,
) -> Parts:
    """Return how far a student is from its teacher; if they are equal, both parts and their gradients are zero.

    There is one exception: with a beta of 0, the class part then is the entropy of the teacher's scores, without a
    gradient.

    Classes: QFL with the teacher's scores as soft labels, divided by the sum of its highest scores. Sides: the
    divergence of the softened distributions (localization distillation, Zheng et al., CVPR 2022), weighted by the
    square of the teacher's highest score, so that priors count where it is confident, and divided by the sum of these
    weights.

    Args:
        logits: [B, P, C], of the student.
        sides: [B, P, 4 * (R + 1)], of the student.
        taught: the same two tensors of the teacher.
        recipe: weights, beta, temperature.
        share: share of the step.
    """
    target, wanted = taught[0].sigmoid(), taught[1]
    sure = target.amax(dim=-1)
    classes = modulated(logits, target, recipe.beta).sum()
    parts = {"teach_classes": recipe.teach_classes * classes / share.normaliser(sure.sum())}
    if recipe.teach_sides:
        weight = sure.square()
        student, teacher = (
            (x.unflatten(-1, (4, -1)).movedim(-1, 0) / recipe.temperature).log_softmax(dim=0) for x in (sides, wanted)
        )
        divergence = F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=0).mean(dim=-1)
        total = share.normaliser(weight.sum())
        parts["teach_sides"] = recipe.teach_sides * recipe.temperature**2 * (divergence * weight).sum() / total
    return parts
