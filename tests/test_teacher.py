"""nanogfl.training.teacher: equal detectors have nothing to teach each other, and who may teach whom."""

from __future__ import annotations

import copy
import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from models import random_detector, write_checkpoint

import nanogfl
from nanogfl.errors import TrainingError
from nanogfl.model.checkpoint import Card
from nanogfl.model.detector import Architecture
from nanogfl.recipe import LossRecipe, load_recipe
from nanogfl.training.objective import Share, split
from nanogfl.training.teacher import Teacher, read_teacher, teaching_loss

Train = Callable[..., dict[str, Any]]
NAMES = ("red", "green", "blue")


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2


def student(names: tuple[str, ...] = NAMES, **shape: Any) -> Card:
    return Card(Architecture("s", len(names), **shape), names, (64, 64), "stretch")


def test_equal_predictions_teach_nothing() -> None:
    logits, sides = numbers(2, 5, 3).requires_grad_(), numbers(2, 5, 32, seed=1).requires_grad_()
    parts = teaching_loss(logits, sides, (logits.detach(), sides.detach()), LossRecipe())
    total = torch.stack(list(parts.values())).sum()
    total.backward()
    assert set(parts) == {"teach_classes", "teach_sides"}
    assert total.item() == pytest.approx(0, abs=1e-12)
    for x in (logits, sides):
        assert x.grad is not None and x.grad.abs().max() < 1e-12


def test_with_a_beta_of_zero_equal_scores_leave_their_entropy_and_no_gradient() -> None:
    logits, sides = numbers(2, 5, 3).requires_grad_(), numbers(2, 5, 32, seed=1)
    parts = teaching_loss(logits, sides, (logits.detach(), sides), LossRecipe(beta=0.0))
    score = logits.detach().sigmoid()
    entropy = -(score * score.log() + (1 - score) * (1 - score).log())
    expected = entropy.sum() / score.amax(dim=-1).sum().clamp(min=1)
    assert parts["teach_classes"].item() == pytest.approx(float(expected), rel=1e-5)
    (gradient,) = torch.autograd.grad(parts["teach_classes"], logits)
    assert gradient.abs().max() < 1e-6


def test_every_step_goes_towards_the_teacher() -> None:
    taught = (numbers(2, 5, 3), numbers(2, 5, 32, seed=1))
    logits, sides = numbers(2, 5, 3, seed=2).requires_grad_(), numbers(2, 5, 32, seed=3).requires_grad_()
    optimizer = torch.optim.Adam([logits, sides], lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        torch.stack(list(teaching_loss(logits, sides, taught, LossRecipe()).values())).sum().backward()
        optimizer.step()
    torch.testing.assert_close(logits.sigmoid(), taught[0].sigmoid(), atol=0.15, rtol=0)
    ours, theirs = (x.detach().unflatten(-1, (4, 8)).softmax(-1) for x in (sides, taught[1]))
    torch.testing.assert_close(ours, theirs, atol=0.1, rtol=0)


def test_one_side_by_hand() -> None:
    """Two bins at temperature 2: the teacher is sure of the first, the student of none."""
    taught = (torch.tensor([[[0.0]]]), torch.tensor([[[2.0, 0.0] * 4]]))
    recipe = LossRecipe(teach_classes=0.0, teach_sides=0.5, temperature=2.0)
    parts = teaching_loss(torch.zeros(1, 1, 1), torch.zeros(1, 1, 8), taught, recipe)
    p = torch.tensor(1.0).sigmoid()
    divergence = p * (p / 0.5).log() + (1 - p) * ((1 - p) / 0.5).log()
    weight = 0.5**2  # the teacher's score squared; the sum of weights counts at least 1
    assert parts["teach_sides"].item() == pytest.approx(0.5 * 2.0**2 * float(divergence) * weight, rel=1e-5)
    assert parts["teach_classes"].item() == 0


@pytest.mark.parametrize("beta", [0.0, 1.0, 2.0])
def test_one_class_by_hand(beta: float) -> None:
    """The teacher says 3 in 4, the student 1 in 2: a quarter away."""
    taught = (torch.tensor([[[3.0]]]).log(), torch.zeros(1, 1, 32))
    parts = teaching_loss(torch.zeros(1, 1, 1), torch.zeros(1, 1, 32), taught, LossRecipe(beta=beta))
    assert parts["teach_classes"].item() == pytest.approx(0.25**beta * math.log(2), rel=1e-5)  # over at least 1


def test_sums_over_shares_divide_both_parts() -> None:
    taught = (numbers(2, 40, 3), numbers(2, 40, 32, seed=1))
    ours = (numbers(2, 40, 3, seed=2), numbers(2, 40, 32, seed=3))
    one = teaching_loss(*ours, taught, LossRecipe())
    two = teaching_loss(*ours, taught, LossRecipe(), Share(lambda total: total * 2, 2))
    for part in ("teach_classes", "teach_sides"):
        assert two[part].item() == pytest.approx(one[part].item() / 2, rel=1e-9)


def test_the_background_is_no_teacher_of_sides() -> None:
    logits = torch.tensor([[[-9.0], [3.0]]])
    sides = torch.zeros(1, 2, 32, requires_grad=True)
    taught = (logits, numbers(1, 2, 32).float())
    teaching_loss(logits, sides, taught, LossRecipe())["teach_sides"].backward()
    assert sides.grad is not None
    assert sides.grad[0, 1].abs().max() > 1e5 * sides.grad[0, 0].abs().max()


def test_classes_are_matched_by_name(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "teacher.ckpt")
    recipe = load_recipe(None, [f"train.teacher={path}"])
    teacher = read_teacher(recipe, student(("blue", "red")))
    assert teacher is not None and not teacher.network.training
    assert not any(p.requires_grad for p in teacher.network.parameters())
    images = torch.randn(1, 3, 64, 64)
    logits, sides = teacher.predict(images)
    with torch.no_grad():
        raw = teacher.network(images)
    assert torch.equal(logits, raw[..., [2, 0]]) and torch.equal(sides, raw[..., 3:])


@pytest.mark.parametrize(
    ("architecture", "names", "card", "assignments", "expected"),
    [
        (None, NAMES, student(("red", "white")), [], "lacks the classes white"),
        (None, NAMES, student(reg_max=16), [], r"8 bins, not 17; set model.reg_max=7 or loss.teach_sides=0"),
        (None, NAMES, student(reg_max=16), ["loss.teach_sides=0"], None),
        (None, NAMES, student(reg_max=0), [], "no distribution to learn; set loss.teach_sides=0"),
        (Architecture("s", 3, family="first"), NAMES, student(), [], "priors differ from those of plus; use another"),
        (None, NAMES, student(family="first"), [], "priors differ from those of first; use another"),
        (None, NAMES, student(family="resnet"), [], "priors differ from those of resnet; use another"),
        (Architecture("m", 3, quality="top4"), NAMES, student(), [], None),
        (Architecture("s", 3, family="resnet"), NAMES, student(), [], None),
    ],
    ids=[
        "a class too many",
        "other bins",
        "other bins, classes only",
        "Dirac",
        "other priors",
        "corners for centres",
        "a level too few",
        "a larger one",
        "the paper's heavy one",
    ],
)
def test_who_may_teach(
    tmp_path: Path,
    architecture: Architecture | None,
    names: tuple[str, ...],
    card: Card,
    assignments: list[str],
    expected: str | None,
) -> None:
    path = write_checkpoint(tmp_path / "teacher.ckpt", architecture, names=names)
    recipe = load_recipe(None, [f"train.teacher={path}", *assignments])
    if expected is None:
        assert read_teacher(recipe, card) is not None
    else:
        with pytest.raises(TrainingError, match=expected):
            read_teacher(recipe, card)


def test_a_heavy_detector_teaches_on_the_levels_of_both() -> None:
    """Its fifth level, of stride 128, has no counterpart; the others lie at the same places."""
    heavy, light = Architecture("s", 3, family="resnet"), Architecture("s", 3)
    network = random_detector(heavy)
    teacher = Teacher(network, [0, 1, 2], light.strides)
    images = torch.randn(1, 3, 96, 160, generator=torch.Generator().manual_seed(0))
    priors, sizes = random_detector(light).priors(96, 160)
    assert torch.equal(network.priors(96, 160)[0][: len(priors)], priors)
    logits, sides = teacher.predict(images)
    with torch.no_grad():
        raw = network(images)
    assert logits.shape[1] == sides.shape[1] == sum(sizes) == 321 and raw.shape[1] == 321 + 2
    assert torch.equal(torch.cat([logits, sides], dim=-1), raw[:, :321])


def test_copies_of_a_task_share_the_teacher() -> None:
    teacher = Teacher(random_detector(Architecture("s", 3)), [0, 1, 2], (8, 16, 32, 64))
    assert copy.deepcopy([teacher])[0] is teacher


def test_a_run_with_a_teacher(tiny_set: Path, tiny_run: Path, tmp_path: Path, tiny_train: Train) -> None:
    """It learns from the teacher, the teacher stays as it was, and no checkpoint holds it."""
    before = (tiny_run / "best.ckpt").read_bytes()
    tiny_train(tiny_set, tmp_path / "run", f"train.teacher={tiny_run / 'best.ckpt'}")
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        row = next(csv.DictReader(file))
    assert float(row["teach_classes"]) > 0 and float(row["teach_sides"]) > 0
    assert (tiny_run / "best.ckpt").read_bytes() == before
    last = torch.load(tmp_path / "run" / "last.ckpt", map_location="cpu", weights_only=True)
    assert not [key for key in last["state_dict"] if "teacher" in key]
    assert nanogfl.load(tmp_path / "run" / "best.ckpt").names == nanogfl.load(tiny_run / "best.ckpt").names


def test_a_teacher_of_its_own_weights_says_nothing_at_first(tiny_run: Path) -> None:
    detector = nanogfl.load(tiny_run / "best.ckpt").network
    assert detector is not None
    teacher = Teacher(copy.deepcopy(detector), list(range(6)), (8, 16, 32, 64))  # type: ignore[arg-type]
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    parts = teaching_loss(*split(detector(images), 7), teacher.predict(images), LossRecipe())
    assert sum(part.item() for part in parts.values()) < 1e-6
