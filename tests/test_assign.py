"""nanogfl.training.assign: golden assignments, loop-by-loop oracles, hand cases, laws of a batch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from oracles import assign as oracle
from oracles.head import priors as all_priors
from oracles.losses import quality_focal_loss
from torch import Tensor

from nanogfl.training.assign import atss, class_cost, dynamic_soft_label, inside, pairwise_iou

HEIGHT, WIDTH, CLASSES = 64, 96, 3
PRIORS = torch.tensor(all_priors(HEIGHT, WIDTH, (8, 16, 32, 64)), dtype=torch.float64)
LEVELS = [96, 24, 6, 2]
GOLDEN = ["typical", "wide", "crowded", "tiny", "one", "none", "many"]


@dataclass
class Picture:
    """One picture's predictions and boxes, float64 so that no sum is near a whole number by rounding alone."""

    logits: Tensor
    boxes: Tensor
    gts: Tensor
    labels: Tensor


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def picture(count: int, seed: int = 0, smallest: float = 3, largest: float = 60) -> Picture:
    random = np.random.default_rng(seed)
    prior = PRIORS.numpy()
    distance = random.uniform(0.1, 4, (len(prior), 4)) * prior[:, 2:]
    boxes = np.concatenate([prior[:, :2] - distance[:, :2], prior[:, :2] + distance[:, 2:]], axis=1)
    corner = random.uniform(-10, (WIDTH - 10, HEIGHT - 10), (count, 2))
    gts = np.concatenate([corner, corner + random.uniform(smallest, largest, (count, 2))], axis=1)
    logits, labels = random.normal(-1, 2, (len(prior), CLASSES)), random.integers(0, CLASSES, count)
    return Picture(*(torch.from_numpy(a) for a in (logits, boxes, gts, labels)))


def padded(pictures: list[Picture], rows: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes, labels, valid; the rows of padding hold boxes that would win, were they looked at, of no class."""
    rows = max(len(p.gts) for p in pictures) if rows is None else rows
    boxes = torch.tensor([0.0, 0.0, WIDTH, HEIGHT], dtype=torch.float64).repeat(len(pictures), rows, 1)
    labels = torch.tensor([-1, 3, 1000]).repeat(len(pictures), rows)[:, :rows].clone()
    valid = torch.zeros(len(pictures), rows, dtype=torch.bool)
    for i, p in enumerate(pictures):
        boxes[i, : len(p.gts)], labels[i, : len(p.gts)], valid[i, : len(p.gts)] = p.gts, p.labels, True
    return boxes, labels, valid


def by_dsl(pictures: list[Picture], rows: int | None = None, topk: int = 13) -> tuple[Tensor, Tensor]:
    logits, boxes = torch.stack([p.logits for p in pictures]), torch.stack([p.boxes for p in pictures])
    return dynamic_soft_label(logits, boxes, PRIORS, *padded(pictures, rows), topk=topk)


def by_atss(pictures: list[Picture], rows: int | None = None, topk: int = 9) -> Tensor:
    return atss(PRIORS, LEVELS, *padded(pictures, rows), topk=topk)


def dsl_oracle(p: Picture, topk: int = 13) -> tuple[list[int], list[float]]:
    return oracle.dynamic_soft_label(
        p.logits.tolist(), p.boxes.tolist(), PRIORS.tolist(), p.gts.tolist(), p.labels.tolist(), topk
    )


def golden_case(shared: Path, case: str) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor, Tensor]]:
    arrays = np.load(shared / "reference" / "assign.npz")
    found = {k[len(case) + 1 :]: torch.from_numpy(arrays[k]) for k in arrays.files if k.startswith(f"{case}_")}
    boxes, labels = found["gt_boxes"][None], found["gt_labels"][None]
    return found, (boxes, labels, torch.ones(1, boxes.shape[1], dtype=torch.bool))


@pytest.mark.parametrize("case", GOLDEN)
def test_golden_dynamic_soft_labels(shared: Path, case: str) -> None:
    arrays, gt = golden_case(shared, case)
    index, iou = dynamic_soft_label(arrays["logits"][None], arrays["boxes"][None], arrays["priors"], *gt)
    assert index.dtype == torch.int64
    np.testing.assert_array_equal(index[0].numpy(), arrays["dsl_gt"].numpy())
    np.testing.assert_allclose(iou[0].numpy(), arrays["dsl_iou"].numpy(), atol=1e-6)


@pytest.mark.parametrize("case", GOLDEN)
def test_golden_atss(shared: Path, case: str) -> None:
    arrays, gt = golden_case(shared, case)
    index = atss(arrays["priors"], arrays["atss_levels"].tolist(), *gt)
    assert index.dtype == torch.int64
    np.testing.assert_array_equal(index[0].numpy(), arrays["atss_gt"].numpy())


def test_golden_cases_in_one_batch(shared: Path) -> None:
    """The three 320 px cases with 7, 30 and 0 boxes, padded to 60 rows, are what they are alone."""
    cases = [golden_case(shared, case)[0] for case in ("typical", "tiny", "none")]
    boxes, labels = torch.zeros(3, 60, 4), torch.zeros(3, 60, dtype=torch.int64)
    valid = torch.zeros(3, 60, dtype=torch.bool)
    logits = torch.full((3, len(cases[0]["priors"]), 10), -1e4)  # classes that no case has cost nothing
    for i, c in enumerate(cases):
        n = len(c["gt_boxes"])
        boxes[i, :n], labels[i, :n], valid[i, :n] = c["gt_boxes"], c["gt_labels"], True
        logits[i, :, : c["logits"].shape[1]] = c["logits"]
    predicted, priors = torch.stack([c["boxes"] for c in cases]), cases[0]["priors"]
    index, _ = dynamic_soft_label(logits, predicted, priors, boxes, labels, valid)
    assert torch.equal(index, torch.stack([c["dsl_gt"] for c in cases]))
    index = atss(priors, cases[0]["atss_levels"].tolist(), boxes, labels, valid)
    assert torch.equal(index, torch.stack([c["atss_gt"] for c in cases]))


@pytest.mark.parametrize(
    ("count", "smallest", "largest", "topk"),
    [
        (1, 20, 60, 13),  # one box
        (5, 3, 60, 13),
        (25, 10, 60, 13),  # crowded: many priors wanted by several
        (10, 0.5, 4, 13),  # most hold no prior at all
        (5, 10, 60, 1),
        (5, 10, 60, 1000),  # more than there are priors
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_dynamic_soft_label_equals_the_oracle(
    count: int, smallest: float, largest: float, topk: int, seed: int
) -> None:
    p = picture(count, seed, smallest, largest)
    index, iou = by_dsl([p], topk=topk)
    expected, quality = dsl_oracle(p, topk)
    assert index[0].tolist() == expected
    np.testing.assert_allclose(iou[0].numpy(), quality, atol=1e-9)


@pytest.mark.parametrize(
    ("count", "smallest", "largest", "topk"),
    [(1, 20, 60, 9), (5, 3, 60, 9), (25, 10, 60, 9), (10, 0.5, 4, 9), (5, 10, 60, 2), (5, 10, 60, 1000)],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_atss_equals_the_oracle(count: int, smallest: float, largest: float, topk: int, seed: int) -> None:
    p = picture(count, seed, smallest, largest)
    expected = oracle.atss(PRIORS.tolist(), LEVELS, p.gts.tolist(), topk)
    assert by_atss([p], topk=topk)[0].tolist() == expected


def test_the_class_cost_without_classes_as_a_dimension_is_the_cost_with_it() -> None:
    p = picture(6)
    iou = torch.rand(1, 6, len(PRIORS), dtype=torch.float64)
    got = class_cost(p.logits[None], p.labels[None], iou)[0]
    for prior, box in ((0, 0), (50, 3), (127, 5)):
        expected = quality_focal_loss(p.logits[prior].tolist(), int(p.labels[box]), float(iou[0, box, prior]))
        assert got[box, prior].item() == pytest.approx(expected, rel=1e-9)


# --- laws


COUNTS = [3, 0, 12, 1]


def test_a_batch_equals_its_singles_and_padding_is_never_assigned() -> None:
    pictures = [picture(count, seed) for seed, count in enumerate(COUNTS)]
    index, iou = by_dsl(pictures, rows=20)
    near = by_atss(pictures, rows=20)
    for i, (p, count) in enumerate(zip(pictures, COUNTS, strict=True)):
        alone, alone_iou = by_dsl([p])
        assert torch.equal(index[i], alone[0]) and torch.equal(iou[i], alone_iou[0])
        assert torch.equal(near[i], by_atss([p])[0])
        for found in (index[i], near[i]):
            assert found.max() < count
            assert (found >= 0).any() == (count > 0)


def test_permuted_boxes_give_permuted_indices() -> None:
    p, order = picture(12, 4), torch.randperm(12, generator=torch.Generator().manual_seed(0))
    permuted = Picture(p.logits, p.boxes, p.gts[order], p.labels[order])

    def renamed(index: Tensor) -> Tensor:
        return torch.where(index >= 0, order[index.clamp(min=0)], -1)

    (index, iou), (other, other_iou) = by_dsl([p]), by_dsl([permuted])
    assert torch.equal(renamed(other), index) and torch.equal(other_iou, iou)
    assert torch.equal(renamed(by_atss([permuted])), by_atss([p]))
    assert (index >= 0).sum() > 5


@pytest.mark.parametrize("rows", [0, 1, 5], ids=["no rows", "one row of padding", "five rows of padding"])
def test_no_targets_is_all_background(rows: int) -> None:
    index, iou = by_dsl([picture(0), picture(0, 1)], rows)
    near = by_atss([picture(0), picture(0, 1)], rows)
    assert index.shape == near.shape == iou.shape == (2, len(PRIORS))
    assert index.dtype == near.dtype == torch.int64
    assert (index == -1).all() and (near == -1).all() and (iou == 0).all()


def test_three_hundred_boxes() -> None:
    p = picture(300, 7, 2, 30)
    assert by_dsl([p])[0][0].tolist() == dsl_oracle(p)[0]
    assert by_atss([p])[0].tolist() == oracle.atss(PRIORS.tolist(), LEVELS, p.gts.tolist())


@pytest.mark.parametrize(
    "box",
    [
        [500, 500, 600, 600],  # outside of the picture
        [-90, -90, -10, -10],
        [20, 20, 20, 40],  # no width
        [17, 17, 19, 19],  # between the priors
        [40, 40, 20, 20],  # corners in the wrong order
    ],
)
def test_a_box_alone_that_holds_no_prior_gets_none(box: list[float]) -> None:
    p = picture(0)
    alone = Picture(p.logits, p.boxes, torch.tensor([box], dtype=torch.float64), torch.tensor([0]))
    assert (by_dsl([alone])[0] == -1).all() and (by_atss([alone]) == -1).all()


def test_a_box_outside_takes_at_most_one_prior_from_the_others() -> None:
    """As NanoDet-Plus does it: every box gets a candidate, if need be one at an IoU of 0 (ATSS does not)."""
    p = picture(4, 3, 20, 60)
    outside = torch.tensor([[500, 500, 600, 600]], dtype=torch.float64)
    more = Picture(p.logits, p.boxes, torch.cat([p.gts, outside]), torch.cat([p.labels, torch.tensor([0])]))
    index, iou = by_dsl([more])
    before, before_iou = by_dsl([p])
    lost = index != before
    assert lost.sum() <= 1 and (iou[index == 4] == 0).all()
    assert torch.equal(iou[~lost], before_iou[~lost])
    assert torch.equal(by_atss([more]), by_atss([p]))


def test_how_many_priors_a_box_gets_is_the_sum_of_its_best_ious() -> None:
    priors = torch.tensor([[x, 10.0, 8.0] for x in (4.0, 8.0, 12.0, 16.0, 40.0)])
    gt = torch.tensor([[[0.0, 0.0, 20.0, 20.0]]])
    heights = [18.0, 16.0, 12.0, 2.0, 20.0]  # IoU .9 .8 .6 .1, and 1 of a prior that is outside of the box
    boxes = torch.tensor([[[0.0, 0.0, 20.0, h] for h in heights]])
    index, iou = dynamic_soft_label(
        torch.zeros(1, 5, 2), boxes, priors, gt, torch.tensor([[1]]), torch.tensor([[True]])
    )
    assert index.tolist() == [[0, 0, -1, -1, -1]]  # .9 + .8 + .6 + .1 = 2.4: two
    torch.testing.assert_close(iou, torch.tensor([[0.9, 0.8, 0, 0, 0]]))


def test_of_equal_boxes_the_better_class_score_wins_and_the_factor_weighs_the_iou() -> None:
    priors = torch.tensor([[8.0, 8.0, 8.0], [12.0, 8.0, 8.0]])
    gt, label, valid = torch.tensor([[[0.0, 0.0, 20.0, 20.0]]]), torch.tensor([[1]]), torch.tensor([[True]])
    same = torch.tensor([[[0.0, 0.0, 20.0, 8.0]] * 2])  # IoU .4 twice: one prior
    scores = torch.tensor([[[0.0, -3.0], [0.0, -0.4]]])
    assert dynamic_soft_label(scores, same, priors, gt, label, valid)[0].tolist() == [[-1, 0]]
    better = torch.tensor([[[0.0, 0.0, 20.0, 9.0], [0.0, 0.0, 20.0, 8.0]]])
    for factor, expected in ((3.0, [[0, -1]]), (0.0, [[-1, 0]])):
        index, _ = dynamic_soft_label(scores, better, priors, gt, label, valid, iou_factor=factor)
        assert index.tolist() == expected


def test_an_iou_of_almost_nothing_is_worth_more_than_none() -> None:
    """-3 ln 1e-5 is 35, -3 ln 1e-7 is 48: a wrong class at a logit of 10 does not make up for that."""
    priors, gt = torch.tensor([[8.0, 8.0, 8.0], [50.0, 50.0, 8.0]]), torch.tensor([[[0.0, 0.0, 100.0, 100.0]]])
    boxes = torch.tensor([[[-1.0, -1.0, 0.1**0.5, 0.1**0.5], [200.0, 200.0, 210.0, 210.0]]])
    scores = torch.tensor([[[10.0, -5.0], [-5.0, -5.0]]])
    index, iou = dynamic_soft_label(scores, boxes, priors, gt, torch.tensor([[1]]), torch.tensor([[True]]))
    assert index.tolist() == [[0, -1]]
    assert iou[0, 0].item() == pytest.approx(1e-5, rel=1e-3)


def test_atss_takes_candidates_that_just_reach_the_threshold() -> None:
    """Two anchors that overlap alike: no deviation, so that both are at the mean."""
    priors, gt = torch.tensor([[28.0, 32.0, 8.0], [36.0, 32.0, 8.0]]), torch.tensor([[[22.0, 22.0, 42.0, 42.0]]])
    assert atss(priors, [2], gt, torch.tensor([[0]]), torch.tensor([[True]])).tolist() == [[0, 0]]


@pytest.mark.parametrize(("left", "expected"), [(27.995, [[-1, 0]]), (27.98, [[0, 0]])])
def test_atss_wants_a_hundredth_of_a_pixel_between_prior_and_edge(left: float, expected: list[list[int]]) -> None:
    priors = torch.tensor([[28.0, 32.0, 8.0], [28.5, 32.0, 8.0]])
    gt = torch.tensor([[[left, 22.0, 29.0, 42.0]]])
    assert atss(priors, [2], gt, torch.tensor([[0]]), torch.tensor([[True]])).tolist() == expected


def test_atss_does_not_look_at_labels() -> None:
    boxes, labels, valid = padded([picture(6)])
    assert torch.equal(atss(PRIORS, LEVELS, boxes, labels, valid), atss(PRIORS, LEVELS, boxes, labels * 0 + 2, valid))


def test_autocast_around_changes_nothing_and_no_gradient_flows() -> None:
    p = picture(8, 5)
    logits, boxes, priors = (x.float() for x in (p.logits[None], p.boxes[None], PRIORS))
    gts, labels, valid = padded([p])
    logits.requires_grad_()
    boxes.requires_grad_()
    index, iou = dynamic_soft_label(logits, boxes, priors, gts.float(), labels, valid)
    near = atss(priors, LEVELS, gts.float(), labels, valid)
    with torch.autocast("cpu", torch.bfloat16):
        rough, rough_iou = dynamic_soft_label(logits, boxes, priors, gts.float(), labels, valid)
        rough_near = atss(priors, LEVELS, gts.float(), labels, valid)
    assert torch.equal(rough, index) and torch.equal(rough_iou, iou) and torch.equal(rough_near, near)
    assert not iou.requires_grad


def test_iou_and_inside_by_hand() -> None:
    a = torch.tensor([[[0.0, 0, 2, 2], [5, 5, 6, 6], [0, 0, 0, 0]]])
    b = torch.tensor([[[1.0, 1, 3, 3], [0, 0, 2, 2]]])
    torch.testing.assert_close(pairwise_iou(a, b), torch.tensor([[[1 / 7, 1], [0, 0], [0, 0]]]))
    small = torch.tensor([[[7.0, 7.0, 7.01, 7.01]]])
    torch.testing.assert_close(pairwise_iou(small, small), torch.ones(1, 1, 1))
    priors = torch.tensor([[1.0, 1, 8], [2.0, 2, 8], [2.5, 1.5, 8]])
    assert inside(priors, b).tolist() == [[[False, True, True], [True, False, False]]]  # an edge is not inside
    assert inside(priors, b, margin=0.5).tolist() == [[[False, True, False], [True, False, False]]]
