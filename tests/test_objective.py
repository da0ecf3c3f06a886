"""nanogfl.training.objective: NanoDet-Plus' own training loss and gradients, a loop-by-loop oracle, laws."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from oracles import assign as assign_oracle
from oracles import head as head_oracle
from oracles import objective as oracle
from oracles.losses import iou
from torch import Tensor

from nanogfl.model.detector import Detector, make_guidance
from nanogfl.model.weights import load_state, read_weights, recognise
from nanogfl.recipe import LossRecipe
from nanogfl.training.assign import atss
from nanogfl.training.losses import focal_loss
from nanogfl.training.objective import (
    WHOLE,
    Assignment,
    Share,
    Targets,
    assign,
    head_loss,
    predicted_boxes,
    side_targets,
    split,
)
from nanogfl.view import normalise

HEIGHT, WIDTH, CLASSES = 64, 96, 3
PRIORS = torch.tensor(head_oracle.priors(HEIGHT, WIDTH, (8, 16, 32, 64)))
LEVELS = [96, 24, 6, 2]
DSL, ATSS = LossRecipe(), LossRecipe(assign="atss")
Method = Literal["dsl", "atss"]


def logits(batch: int, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    raw = torch.randn(batch, len(PRIORS), CLASSES + 32)
    raw[..., :CLASSES] -= 2
    return raw


def targets(*boxes: list[list[float]], rows: int | None = None, crowd: tuple[tuple[int, int], ...] = ()) -> Targets:
    """Padded targets; (picture, row) pairs in ``crowd`` are regions and not valid."""
    rows = max(len(b) for b in boxes) if rows is None else rows
    made = Targets(
        torch.zeros(len(boxes), rows, 4),
        torch.arange(rows).remainder(CLASSES).repeat(len(boxes), 1),
        torch.zeros(len(boxes), rows, dtype=torch.bool),
        torch.zeros(len(boxes), rows, dtype=torch.bool),
    )
    for i, b in enumerate(boxes):
        if b:
            made.boxes[i, : len(b)], made.valid[i, : len(b)] = torch.tensor(b), True
    for i, row in crowd:
        made.valid[i, row], made.crowd[i, row] = False, True
    return made


TWO = [[4.0, 6.0, 50.0, 40.0], [30.0, 10.0, 90.0, 60.0]]
THREE = [[3.0, 3.0, 20.0, 20.0], [40.0, 5.0, 95.0, 60.0], [10.0, 30.0, 33.0, 61.0]]


def losses(raw: Tensor, to: Targets, recipe: LossRecipe = DSL, **weights: float) -> dict[str, Tensor]:
    return head_loss(raw, PRIORS, to, assign(recipe, raw, PRIORS, LEVELS, to), LossRecipe(**weights))


def gradient(raw: Tensor, to: Targets, *parts: str, given: Assignment | None = None) -> Tensor:
    raw = raw.clone().requires_grad_()
    found = head_loss(raw, PRIORS, to, given or assign(DSL, raw, PRIORS, LEVELS, to), LossRecipe())
    torch.stack([found[part] for part in parts or found]).sum().backward()
    assert raw.grad is not None
    return raw.grad


def test_golden_training_loss_and_gradients(shared: Path) -> None:
    """Parts of both heads, and what reaches the head and the very first convolution.

    Parts agree to 1e-6. At the first convolution this network's own float32 gradient is 1.2e-3 of the maximum away
    from float64's (batch norm in eval mode over a random network), so 2e-3 is what equal code can promise there.
    """
    folder = shared / "reference"
    weights = read_weights(folder / "nanodet_plus_m_10cls.ckpt")
    architecture = recognise(weights.state, weights.source)
    detector, guidance = Detector(architecture).eval(), make_guidance("full", architecture)
    assert guidance is not None
    load_state(detector, weights.state, weights.source)
    load_state(
        guidance,
        {k.removeprefix("guidance."): v for k, v in weights.state.items() if k.startswith("guidance.")},
        weights.source,
    )
    guidance.eval()
    pictures = np.load(folder / "nanodet_plus_m_10cls.npz")["images_bgr_u8"]
    images = torch.from_numpy(np.stack([normalise(p.astype(np.float32)) for p in pictures]))
    expected = np.load(folder / "train_loss.npz")
    to = targets(expected["gt_boxes_0"].tolist(), [])
    to.labels[0] = torch.from_numpy(expected["gt_labels_0"])

    features = detector.backbone(images)
    pyramid = detector.neck(features)
    raw, guide = detector.head(pyramid), guidance(features, pyramid)
    priors, levels = detector.priors(320, 416)
    assignment = assign(DSL, guide, priors, levels, to)
    own = head_loss(raw, priors, to, assignment, LossRecipe())
    aux = head_loss(guide, priors, to, assignment, LossRecipe())
    for name, golden in (("qfl", "loss_qfl"), ("giou", "loss_bbox"), ("dfl", "loss_dfl")):
        assert own[name].item() == pytest.approx(float(expected[golden]), rel=1e-5)
        assert aux[name].item() == pytest.approx(float(expected[f"aux_{golden}"]), rel=1e-5)
    total = torch.stack([*own.values(), *aux.values()]).sum()
    assert total.item() == pytest.approx(float(expected["loss"]), rel=1e-5)

    total.backward()
    for layer, golden, tolerance in (
        (detector.head.predict[0], "grad_head_p3", 1e-4),
        (detector.backbone.conv1[0], "grad_conv1", 2e-3),
    ):
        got = layer.weight.grad.numpy()  # type: ignore[union-attr]
        np.testing.assert_allclose(got, expected[golden], rtol=0, atol=tolerance * np.abs(expected[golden]).max())


@pytest.mark.parametrize("method", ["dsl", "atss"])
def test_equals_the_oracle(method: Method) -> None:
    """Assignment and loss of a batch with two, no, and three boxes, one of them a crowd."""
    raw = logits(3)
    to = targets(TWO, [], THREE, crowd=((2, 1),))
    assignment = assign(LossRecipe(assign=method), raw, PRIORS, LEVELS, to)
    got = head_loss(raw, PRIORS, to, assignment, LossRecipe())

    rows = [[r.tolist() for r in picture] for picture in raw]
    index, quality, ignored = [], [], []
    for b, picture in enumerate(rows):
        real = [g for g in range(3) if to.valid[b, g]]
        gts, labels = [to.boxes[b, g].tolist() for g in real], [int(to.labels[b, g]) for g in real]
        boxes = [head_oracle.box(r[CLASSES:], p) for r, p in zip(picture, PRIORS.tolist(), strict=True)]
        if method == "atss":
            found = assign_oracle.atss(PRIORS.tolist(), LEVELS, gts)
        else:
            scores = [r[:CLASSES] for r in picture]
            found = assign_oracle.dynamic_soft_label(scores, boxes, PRIORS.tolist(), gts, labels)[0]
        index.append([real[g] if g >= 0 else -1 for g in found])
        quality.append([iou(box, gts[g]) if g >= 0 else 0.0 for box, g in zip(boxes, found, strict=True)])
        crowds = [to.boxes[b, g].tolist() for g in range(3) if to.crowd[b, g]]
        ignored.append(
            [
                g < 0 and any(assign_oracle.inside(p, c) > 0 for c in crowds)
                for p, g in zip(PRIORS.tolist(), found, strict=True)
            ]
        )
    assert assignment.gt_index.tolist() == index
    assert assignment.ignored.tolist() == ignored and sum(map(sum, ignored)) > 20
    np.testing.assert_allclose(assignment.quality.numpy(), quality, atol=1e-5)
    expected = oracle.head_loss(
        rows, PRIORS.tolist(), to.boxes.tolist(), to.labels.tolist(), index, quality, ignored, CLASSES
    )
    assert {k: v.item() for k, v in got.items()} == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("rows", [0, 4], ids=["no rows", "padding only"])
@pytest.mark.parametrize("recipe", [DSL, ATSS], ids=["dsl", "atss"])
def test_a_batch_without_boxes_trains_the_background_alone(rows: int, recipe: LossRecipe) -> None:
    raw = logits(2).requires_grad_()
    found = losses(raw, targets([], [], rows=rows), recipe)
    assert found["giou"].item() == found["dfl"].item() == 0
    assert found["qfl"].isfinite() and found["qfl"] > 0
    torch.stack(list(found.values())).sum().backward()
    assert raw.grad is not None and raw.grad.isfinite().all()
    assert (raw.grad[..., :CLASSES] > 0).all()  # every class score goes down
    assert (raw.grad[..., CLASSES:] == 0).all()


def test_a_picture_without_boxes_beside_one_with_boxes_only_adds_background() -> None:
    raw, to = logits(2), targets(TWO, [])
    both = losses(raw, to)
    alone = losses(raw[:1], targets(TWO))
    assert both["giou"].item() == pytest.approx(alone["giou"].item(), rel=1e-5)
    assert both["dfl"].item() == pytest.approx(alone["dfl"].item(), rel=1e-5)
    assert both["qfl"] > alone["qfl"]


def test_rows_of_padding_do_not_matter() -> None:
    raw, to = logits(2), targets(TWO, THREE)
    wide = targets(TWO, THREE, rows=9)
    wide.boxes[~wide.valid] = torch.tensor([0.0, 0.0, WIDTH, HEIGHT])
    wide.labels[~wide.valid] = 2
    for recipe in (DSL, ATSS):
        few, many = losses(raw, to, recipe), losses(raw, wide, recipe)
        assert {k: v.item() for k, v in many.items()} == {k: v.item() for k, v in few.items()}
    assert torch.equal(gradient(raw, wide), gradient(raw, to))


# --- crowds


def test_a_crowd_neither_trains_nor_punishes() -> None:
    raw = logits(1)
    to = targets([*TWO, [50.0, 0.0, 96.0, 64.0]], crowd=((0, 2),))
    assignment = assign(DSL, raw, PRIORS, LEVELS, to)
    free = assign(DSL, raw, PRIORS, LEVELS, targets(TWO))
    assert torch.equal(assignment.gt_index, free.gt_index)  # it takes no prior
    within = (PRIORS[:, 0] > 50) & (PRIORS[:, 1] > 0)
    assert torch.equal(assignment.ignored[0], within & (free.gt_index[0] < 0))
    positive_within = within & (free.gt_index[0] >= 0)
    assert positive_within.any()  # a real box in a crowd still trains

    got, before = gradient(raw, to), gradient(raw, targets(TWO))
    assert (got[assignment.ignored] == 0).all()
    assert torch.equal(got[~assignment.ignored], before[~assignment.ignored])
    assert (got[0, positive_within, :CLASSES] != 0).all()


def test_a_picture_that_is_all_crowd_costs_nothing() -> None:
    raw = logits(1).requires_grad_()
    to = targets([[-1.0, -1.0, WIDTH + 1.0, HEIGHT + 1.0]], crowd=((0, 0),))
    found = losses(raw, to)
    assert {k: v.item() for k, v in found.items()} == {"qfl": 0.0, "giou": 0.0, "dfl": 0.0}


# --- normalisation


def test_weights_scale_their_parts() -> None:
    raw, to = logits(2), targets(TWO, THREE)
    base, other = losses(raw, to), losses(raw, to, qfl=3.0, giou=1.0, dfl=1.0)
    for part, factor in (("qfl", 3.0), ("giou", 0.5), ("dfl", 4.0)):
        assert other[part].item() == pytest.approx(factor * base[part].item(), rel=1e-6)
    assert losses(raw, to, beta=1.0)["qfl"] > base["qfl"]  # less is modulated away


def test_sums_over_processes_divide_every_part() -> None:
    raw, to = logits(2), targets(TWO, THREE)
    raw[..., :CLASSES] += 3  # the sum of weights is above its least value of 1
    assignment = assign(DSL, raw, PRIORS, LEVELS, to)
    one = head_loss(raw, PRIORS, to, assignment, LossRecipe())
    asked: list[float] = []

    def mean(total: Tensor) -> Tensor:
        asked.append(total.item())
        return total * 2

    two = head_loss(raw, PRIORS, to, assignment, LossRecipe(), Share(mean, 2))
    positive = assignment.gt_index >= 0
    best = raw[..., :CLASSES].sigmoid().amax(-1)
    assert asked == [positive.sum().item(), pytest.approx(best[positive].sum().item(), rel=1e-5)]
    for part in one:
        assert two[part].item() == pytest.approx(one[part].item() / 2, rel=1e-5)


def test_few_sure_boxes_count_as_one_over_all_shares() -> None:
    assert Share(lambda total: total, 4).normaliser(torch.tensor(0.1)).item() == 0.25
    assert WHOLE.normaliser(torch.tensor(0.1)).item() == 1.0


def test_the_weight_of_a_box_is_detached_from_its_score() -> None:
    found = gradient(logits(1), targets(TWO), "giou", "dfl")
    assert (found[..., :CLASSES] == 0).all()
    assert (found[..., CLASSES:] != 0).any()


def test_hand_values_of_one_prior() -> None:
    """One prior at (32, 32), stride 8, uniform sides of 3.5 strides: its box is 56 px wide; the target is that box."""
    prior = torch.tensor([[32.0, 32.0, 8.0]])
    to = targets([[4.0, 4.0, 60.0, 60.0]])
    raw = torch.zeros(1, 1, CLASSES + 32)
    assert predicted_boxes(split(raw, 7)[1], prior).tolist() == [[[4.0, 4.0, 60.0, 60.0]]]
    assignment = assign(DSL, raw, prior, [1], to)
    assert assignment.gt_index.tolist() == [[0]] and assignment.quality.tolist() == [[1.0]]
    found = head_loss(raw, prior, to, assignment, LossRecipe())
    ln2, ln8 = float(np.log(2)), float(np.log(8))
    assert found["qfl"].item() == pytest.approx(3 * 0.25 * ln2)  # each class is one half away
    assert found["giou"].item() == pytest.approx(0, abs=1e-6)
    assert found["dfl"].item() == pytest.approx(0.25 * ln8 * 0.5)  # four sides, over 4 x max(score .5, 1)


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ([84.0, 92.0, 124.0, 102.0], [2.0, 1.0, 3.0, 0.25]),
        ([-900.0, 92.0, 124.0, 102.0], [6.9, 1.0, 3.0, 0.25]),  # farther than seven strides: R - 0.1
        ([104.0, 92.0, 124.0, 102.0], [0.0, 1.0, 3.0, 0.25]),  # the prior is left of the box
    ],
)
def test_side_targets_by_hand(box: list[float], expected: list[float]) -> None:
    got = side_targets(torch.tensor([[box]]), torch.tensor([[100.0, 100.0, 8.0]]), 7)
    torch.testing.assert_close(got, torch.tensor([[expected]]))


# --- assignment


@pytest.mark.parametrize("topk", [None, 1, 40])
@pytest.mark.parametrize("method", ["dsl", "atss"])
def test_no_positive_is_left_out_of_the_losses_of_boxes(method: Method, topk: int | None) -> None:
    recipe = LossRecipe(assign=method, topk=topk)
    for seed in range(20):
        torch.manual_seed(seed)
        corner = torch.rand(3, 5, 2) * torch.tensor([WIDTH, HEIGHT]) * 0.7
        boxes = torch.cat([corner, corner + 4 + 60 * torch.rand(3, 5, 2)], dim=2)
        given = assign(recipe, logits(3, seed), PRIORS, LEVELS, targets(*boxes.tolist()))
        rows = given.positives()
        assert all(len(row.unique()) == len(row) for row in rows)  # each prior once
        assert (given.gt_index.gather(1, rows) >= 0).sum() == (given.gt_index >= 0).sum() > 0


@pytest.mark.parametrize("recipe", [DSL, ATSS], ids=["dsl", "atss"])
def test_quality_is_the_iou_of_each_positive_with_its_box(recipe: LossRecipe) -> None:
    raw, to = logits(2, seed=3), targets(TWO, THREE)
    found = assign(recipe, raw, PRIORS, LEVELS, to)
    boxes = predicted_boxes(split(raw, 7)[1], PRIORS)
    positives = (found.gt_index >= 0).nonzero().tolist()
    assert len(positives) > 5
    for b, p in positives:
        own = to.boxes[b, found.gt_index[b, p]]
        assert found.quality[b, p].item() == pytest.approx(iou(boxes[b, p].tolist(), own.tolist()), abs=1e-5)
    assert (found.quality[found.gt_index < 0] == 0).all()


@pytest.mark.parametrize("method", ["dsl", "atss"])
def test_topk_of_the_recipe_is_used(method: Method) -> None:
    raw, to = logits(1), targets(THREE)
    default = assign(LossRecipe(assign=method), raw, PRIORS, LEVELS, to)
    named = assign(LossRecipe(assign=method, topk=13 if method == "dsl" else 9), raw, PRIORS, LEVELS, to)
    fewer = assign(LossRecipe(assign=method, topk=1), raw, PRIORS, LEVELS, to)
    assert torch.equal(default.gt_index, named.gt_index)
    assert (fewer.gt_index >= 0).sum() < (default.gt_index >= 0).sum()


def test_the_anchor_of_the_recipe_is_used() -> None:
    raw, to = logits(2), targets(TWO, THREE)
    for side in (5.0, 8.0, 3.0):
        found = assign(LossRecipe(assign="atss", anchor=side), raw, PRIORS, LEVELS, to)
        assert torch.equal(found.gt_index, atss(PRIORS, LEVELS, to.boxes, to.labels, to.valid, side=side))
        assert (side == 5.0) == torch.equal(found.gt_index, assign(ATSS, raw, PRIORS, LEVELS, to).gt_index)


@pytest.mark.parametrize("recipe", [DSL, ATSS], ids=["dsl", "atss"])
def test_an_assignment_is_a_constant_in_float32(recipe: LossRecipe) -> None:
    raw, to = logits(2).bfloat16(), targets(TWO, THREE)
    found = assign(recipe, raw.clone().requires_grad_(), PRIORS, LEVELS, to)
    exact = assign(recipe, raw.float(), PRIORS, LEVELS, to)
    assert not found.quality.requires_grad
    assert torch.equal(found.gt_index, exact.gt_index) and torch.equal(found.quality, exact.quality)


# --- numbers


@pytest.mark.parametrize("recipe", [DSL, ATSS], ids=["dsl", "atss"])
def test_bf16_autocast_is_near_and_has_a_finite_gradient(recipe: LossRecipe) -> None:
    raw, to = logits(2), targets(TWO, [])
    exact = losses(raw, to, recipe)
    rough = raw.bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = losses(rough, to, recipe)
    torch.stack(list(found.values())).sum().backward()
    assert rough.grad is not None and rough.grad.isfinite().all() and (rough.grad != 0).any()
    for part, value in found.items():
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(exact[part].item(), rel=0.05)


def test_the_loss_of_half_precision_logits_is_made_in_float32() -> None:
    raw, to = logits(2).bfloat16(), targets(TWO, THREE)
    given = assign(DSL, raw, PRIORS, LEVELS, to)
    found, exact = (head_loss(x, PRIORS, to, given, LossRecipe()) for x in (raw, raw.float()))
    assert found == exact


def test_beta_is_the_exponent_of_the_focal_loss_too() -> None:
    raw, to = logits(1), targets(TWO)
    given = assign(DSL, raw, PRIORS, LEVELS, to)
    labels = torch.where(given.gt_index[0] >= 0, to.labels[0, given.gt_index[0].clamp(min=0)], CLASSES)
    for beta in (1.0, 3.0):
        found = head_loss(raw, PRIORS, to, given, LossRecipe(classes="focal", beta=beta))["focal"]
        expected = focal_loss(raw[0, :, :CLASSES], labels, gamma=beta).sum() / (given.gt_index >= 0).sum()
        assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_extreme_logits_have_a_finite_loss_and_gradient() -> None:
    raw, to = logits(2) * 1e3, targets(TWO, THREE)
    assert all(part.isfinite() for part in losses(raw, to).values())
    assert gradient(raw, to).isfinite().all()


@pytest.mark.parametrize("box", [[8.0, 8.0, 8.0, 8.0], [500.0, 500.0, 600.0, 600.0], [17.0, 17.0, 17.1, 17.1]])
def test_boxes_that_nothing_can_learn_leave_a_finite_gradient(box: list[float]) -> None:
    to = targets([*TWO, box])
    assert gradient(logits(1), to).isfinite().all()
    alone = targets([box])
    assert losses(logits(1), alone)["giou"].item() == 0


def test_another_heads_assignment_is_taken_as_it_is() -> None:
    """Guidance assigns for both heads: index and quality come from it, not from the head that is trained."""
    guide, raw, to = logits(1, seed=1), logits(1, seed=2), targets(TWO)
    given = assign(DSL, guide, PRIORS, LEVELS, to)
    halved = replace(given, quality=given.quality / 2)
    first = head_loss(raw, PRIORS, to, given, LossRecipe())
    second = head_loss(raw, PRIORS, to, halved, LossRecipe())
    assert second["qfl"] != first["qfl"]
    assert second["giou"] == first["giou"] and second["dfl"] == first["dfl"]
