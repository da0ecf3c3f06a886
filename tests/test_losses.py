"""nanogfl.training.losses: golden arrays, loop-by-loop oracles, hand values, gradients by differences, laws."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from oracles import losses as oracle
from oracles.gradient import central_difference
from torch import Tensor
from torch.nn import functional as F

from nanogfl.training.losses import (
    distribution_focal_loss,
    focal_loss,
    generalized_focal_loss,
    giou_loss,
    quality_focal_loss,
)

Loss = Callable[[Tensor], Tensor]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def numbers(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def random_boxes(count: int, seed: int) -> np.ndarray:
    corner = numbers(seed).uniform(0, 60, (count, 2))
    return np.concatenate([corner, corner + numbers(seed + 100).uniform(2, 50, (count, 2))], axis=1)


@pytest.mark.parametrize("name", ["qfl", "dfl", "giou"])
def test_golden_value_and_gradient(shared: Path, name: str) -> None:
    arrays = np.load(shared / "reference" / "losses.npz")

    def read(key: str) -> Tensor:
        return torch.from_numpy(arrays[key])

    table: dict[str, tuple[str, Loss]] = {
        "qfl": ("qfl_logits", lambda p: quality_focal_loss(p, read("qfl_labels"), read("qfl_quality"))),
        "dfl": ("dfl_logits", lambda p: distribution_focal_loss(p, read("dfl_target"))),
        "giou": ("giou_pred", lambda p: giou_loss(p, read("giou_target"))),
    }
    key, loss = table[name]
    prediction = read(key).requires_grad_()
    total = (loss(prediction) * read(f"{name}_weight")).sum() / float(arrays[f"{name}_avg_factor"])
    total.backward()
    expected, gradient = float(arrays[f"{name}_loss"]), arrays[f"{name}_grad"]
    assert total.item() == pytest.approx(expected, rel=1e-5)
    assert prediction.grad is not None
    np.testing.assert_allclose(prediction.grad.numpy(), gradient, rtol=0, atol=1e-5 * np.abs(gradient).max())


@pytest.mark.parametrize(
    ("rows", "classes", "beta"),
    [(40, 10, 2.0), (7, 1, 2.0), (20, 80, 2.0), (20, 3, 1.0), (20, 3, 2.5)],
    ids=["ten classes", "one class", "coco", "beta 1", "beta 2.5"],
)
def test_qfl_equals_the_oracle(rows: int, classes: int, beta: float) -> None:
    logits = numbers(0).normal(0, 3, (rows, classes))
    labels, quality = numbers(1).integers(0, classes + 1, rows), numbers(2).uniform(0, 1, rows)
    got = quality_focal_loss(
        torch.from_numpy(logits).float(), torch.from_numpy(labels), torch.from_numpy(quality).float(), beta
    )
    expected = [
        oracle.quality_focal_loss(row, int(label), y, beta)
        for row, label, y in zip(logits, labels, quality, strict=True)
    ]
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("reg_max", [1, 7, 16])
def test_dfl_equals_the_oracle(reg_max: int) -> None:
    logits, target = numbers(0).normal(0, 3, (60, reg_max + 1)), numbers(1).uniform(0, reg_max - 0.1, 60)
    target[:2] = 0, reg_max - 0.1  # both ends of what the objective clamps to
    got = distribution_focal_loss(torch.from_numpy(logits), torch.from_numpy(target))
    expected = [oracle.distribution_focal_loss(row, y) for row, y in zip(logits, target, strict=True)]
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-9)


def test_giou_equals_the_oracle() -> None:
    pred, target = random_boxes(80, 0), random_boxes(80, 1)
    got = giou_loss(torch.from_numpy(pred), torch.from_numpy(target))
    expected = [oracle.giou_loss(a, b) for a, b in zip(pred, target, strict=True)]
    assert any(oracle.overlap(a, b) == 0 for a, b in zip(pred, target, strict=True))
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-9)


def test_gradients_equal_central_differences_of_the_oracles() -> None:
    labels, quality = [0, 2, 3], [0.9, 0.2, 0.4]
    target, boxes = [0.3, 3.0, 6.9], random_boxes(3, 5)
    cases: list[tuple[Loss, Callable[[np.ndarray], float], np.ndarray]] = [
        (
            lambda x: quality_focal_loss(x, torch.tensor(labels), torch.tensor(quality).double()),
            lambda x: sum(map(oracle.quality_focal_loss, x, labels, quality)),
            numbers(3).normal(0, 2, (3, 3)),
        ),
        (
            lambda x: distribution_focal_loss(x, torch.tensor(target).double()),
            lambda x: sum(map(oracle.distribution_focal_loss, x, target)),
            numbers(4).normal(0, 2, (3, 8)),
        ),
        (
            lambda x: giou_loss(x, torch.from_numpy(boxes)),
            lambda x: sum(map(oracle.giou_loss, x, boxes)),
            random_boxes(3, 6),
        ),
    ]
    for ours, slow, start in cases:
        x = torch.from_numpy(start).requires_grad_()
        ours(x).sum().backward()
        assert x.grad is not None
        np.testing.assert_allclose(x.grad.numpy(), central_difference(slow, start), rtol=1e-5, atol=1e-6)


# --- QFL


def test_qfl_is_zero_where_the_score_is_the_quality() -> None:
    quality = torch.tensor([0.1, 0.5, 0.93])
    logits = torch.logit(quality)[:, None].requires_grad_()
    loss = quality_focal_loss(logits, torch.zeros(3, dtype=torch.long), quality)
    loss.sum().backward()
    assert loss.abs().max() < 1e-12
    assert logits.grad is not None and logits.grad.abs().max() < 1e-6


@pytest.mark.parametrize(
    ("logit", "label", "quality", "beta", "expected"),
    [
        (0.0, 1, 0.0, 2.0, 0.25 * math.log(2)),  # background at a score of one half
        (0.0, 0, 1.0, 2.0, 0.25 * math.log(2)),  # a perfect box at one half
        (0.0, 0, 0.5, 2.0, 0.0),  # exactly as sure as it is good
        (0.0, 0, 0.75, 2.0, 0.0625 * math.log(2)),  # |.75 - .5|² ln 2
        (math.log(3), 1, 0.0, 2.0, 0.5625 * math.log(4)),  # s = 3/4 on background
        (math.log(3), 1, 0.0, 0.0, math.log(4)),  # beta 0 is plain cross entropy
    ],
)
def test_qfl_hand_values(logit: float, label: int, quality: float, beta: float, expected: float) -> None:
    got = quality_focal_loss(torch.tensor([[logit]]), torch.tensor([label]), torch.tensor([quality]), beta)
    assert got.item() == pytest.approx(expected, abs=1e-6)


def test_qfl_of_background_does_not_look_at_the_quality() -> None:
    logits, background = torch.randn(5, 4), torch.full((5,), 4)
    assert torch.equal(
        quality_focal_loss(logits, background, torch.zeros(5)), quality_focal_loss(logits, background, torch.ones(5))
    )


# --- DFL


def test_dfl_is_least_at_the_targets_two_bin_distribution() -> None:
    target = torch.tensor([2.3], dtype=torch.float64)
    best = torch.full((1, 8), 1e-12, dtype=torch.float64)
    best[0, 2], best[0, 3] = 0.7, 0.3
    logits = best.log().requires_grad_()
    least = distribution_focal_loss(logits, target)
    least.sum().backward()
    assert least.item() == pytest.approx(-(0.7 * math.log(0.7) + 0.3 * math.log(0.3)), abs=1e-9)
    assert logits.grad is not None and logits.grad.abs().max() < 1e-9
    others = logits.detach() + torch.from_numpy(numbers(0).normal(0, 1, (200, 8)))
    assert (distribution_focal_loss(others, target.expand(200)) > least.item()).all()


@pytest.mark.parametrize("target", [0.0, 0.5, 3.0, 6.9])
def test_dfl_of_the_uniform_distribution_is_the_log_of_the_bins(target: float) -> None:
    assert distribution_focal_loss(torch.zeros(1, 8), torch.tensor([target])).item() == pytest.approx(math.log(8))


def test_dfl_of_a_whole_number_is_the_cross_entropy_of_its_bin() -> None:
    logits, target = torch.randn(7, 8), torch.arange(7)
    expected = torch.nn.functional.cross_entropy(logits, target, reduction="none")
    torch.testing.assert_close(distribution_focal_loss(logits, target.float()), expected)


# --- GIoU


@pytest.mark.parametrize(
    ("pred", "target", "expected"),
    [
        ([0, 0, 1, 1], [0, 0, 1, 1], 0.0),  # identical
        ([0, 0, 2, 2], [0, 0, 1, 1], 0.75),  # one in the other: hull = union, 1 - 1/4
        ([0, 0, 1, 1], [1, 0, 2, 1], 1.0),  # side by side: no gap
        ([0, 0, 1, 1], [2, 0, 3, 1], 4 / 3),  # a gap of one: 1 + 1/3
        ([0, 0, 1, 1], [1, 1, 2, 2], 1.5),  # corner to corner: hull 4, union 2
        ([0, 0, 2, 2], [1, 1, 3, 3], 1 - 1 / 7 + 2 / 9),
        ([0, 0, 1, 1], [999, 0, 1000, 1], 1.998),  # far apart: towards 2
        ([0, 0, 0.02, 0.02], [0, 0, 0.02, 0.02], 0.0),  # small, but larger than eps
    ],
)
def test_giou_hand_values(pred: list[float], target: list[float], expected: float) -> None:
    a, b = torch.tensor([pred]).float(), torch.tensor([target]).float()
    assert giou_loss(a, b).item() == pytest.approx(expected, abs=1e-6)
    assert giou_loss(b, a).item() == pytest.approx(expected, abs=1e-6)


def test_giou_does_not_change_with_shift_and_scale() -> None:
    pred, target = torch.from_numpy(random_boxes(30, 2)), torch.from_numpy(random_boxes(30, 3))
    torch.testing.assert_close(giou_loss(pred * 7 + 11, target * 7 + 11), giou_loss(pred, target))


@pytest.mark.parametrize(
    ("pred", "target"),
    [
        ([5, 5, 5, 5], [5, 5, 5, 5]),  # two points
        ([5, 5, 5, 5], [0, 0, 10, 10]),  # a point in a box
        ([0, 0, 10, 10], [5, 5, 5, 5]),
        ([0, 0, 1e-4, 1e-4], [0, 0, 1e-4, 1e-4]),  # smaller than eps
        ([3, 0, 3, 10], [3, 0, 3, 10]),  # a line
        ([0, 0, 1e4, 1e4], [2e4, 2e4, 3e4, 3e4]),
    ],
)
def test_giou_of_empty_boxes_has_a_finite_gradient(pred: list[float], target: list[float]) -> None:
    box = torch.tensor([pred], dtype=torch.float32, requires_grad=True)
    loss = giou_loss(box, torch.tensor([target], dtype=torch.float32))
    loss.sum().backward()
    assert 0 <= loss.item() <= 2 + 1e-6
    assert box.grad is not None and box.grad.isfinite().all()


# --- all


def test_nothing_is_reduced_and_rows_do_not_meet() -> None:
    logits, labels, quality = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 4, 4]), torch.rand(6)
    side, target = torch.randn(6, 8), torch.rand(6) * 6.9
    pred, boxes = (torch.from_numpy(random_boxes(6, seed)).float() for seed in (7, 8))
    for rows in (slice(2, 3), slice(0, 0)):
        for whole, part in (
            (
                quality_focal_loss(logits, labels, quality),
                quality_focal_loss(logits[rows], labels[rows], quality[rows]),
            ),
            (distribution_focal_loss(side, target), distribution_focal_loss(side[rows], target[rows])),
            (giou_loss(pred, boxes), giou_loss(pred[rows], boxes[rows])),
        ):
            assert whole.shape == (6,)
            torch.testing.assert_close(part, whole[rows])


@pytest.mark.parametrize("size", [100.0, 1e4])
def test_extreme_logits_stay_finite(size: float) -> None:
    logits = (torch.tensor([[1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]]) * size).requires_grad_()
    bins = (torch.eye(8)[:3] * size).requires_grad_()
    labels, quality = torch.tensor([0, 0, 2]), torch.tensor([0.0, 1.0, 0.5])
    qfl = quality_focal_loss(logits, labels, quality)
    dfl = distribution_focal_loss(bins, torch.tensor([6.5, 1.0, 1.5]))
    (qfl.sum() + dfl.sum()).backward()
    torch.testing.assert_close(qfl, torch.tensor([size, 2 * size, 2 * size]))  # -ln of a vanishing probability
    torch.testing.assert_close(dfl, torch.tensor([size, 0.0, size / 2]), atol=1e-3, rtol=1e-6)
    for x in (logits, bins):
        assert x.grad is not None and x.grad.isfinite().all()


# --- the general form, of which QFL and DFL are cases


def same_with_gradient(ours: Loss, general: Loss, at: Tensor) -> None:
    """Both values and both gradients agree."""
    grads = []
    for function in (ours, general):
        x = at.clone().requires_grad_()
        value = function(x)
        value.sum().backward()
        grads.append((value.detach(), x.grad))
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("beta", [0.0, 1.0, 2.0, 2.5])
def test_qfl_is_the_general_form_between_zero_and_one(beta: float) -> None:
    labels, quality = torch.tensor([0, 1, 3, 2]), torch.tensor([0.9, 0.2, 0.7, 1.0]).double()
    target = F.one_hot(labels, 4)[:, :3] * quality[:, None]

    def general(x: Tensor) -> Tensor:
        zero, one = torch.zeros_like(x), torch.ones_like(x)
        return generalized_focal_loss(F.logsigmoid(-x), F.logsigmoid(x), zero, one, target, beta).sum(dim=1)

    same_with_gradient(lambda x: quality_focal_loss(x, labels, quality, beta), general, torch.randn(4, 3).double() * 3)


def test_dfl_is_the_general_form_between_neighbouring_bins() -> None:
    target = torch.tensor([0.0, 0.4, 3.0, 6.9]).double()
    left = target.long()

    def general(x: Tensor) -> Tensor:
        log = x.log_softmax(dim=1)
        ends = (log.gather(1, (left + i)[:, None])[:, 0] for i in (0, 1))
        return generalized_focal_loss(*ends, left.double(), left + 1.0, target, 0.0)

    same_with_gradient(lambda x: distribution_focal_loss(x, target), general, torch.randn(4, 8).double() * 3)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0, 2.5])
def test_focal_loss_is_the_general_form_with_targets_zero_and_one(gamma: float) -> None:
    labels = torch.tensor([0, 1, 3, 2])
    target = F.one_hot(labels, 4)[:, :3].double()

    def general(x: Tensor) -> Tensor:
        zero, one = torch.zeros_like(x), torch.ones_like(x)
        loss = generalized_focal_loss(F.logsigmoid(-x), F.logsigmoid(x), zero, one, target, gamma)
        return (loss * torch.where(target > 0, 0.25, 0.75)).sum(dim=1)

    same_with_gradient(lambda x: focal_loss(x, labels, gamma), general, torch.randn(4, 3).double() * 3)


@pytest.mark.parametrize(
    ("logit", "label", "expected"),
    [
        (0.0, 0, 0.25 * 0.25 * math.log(2)),
        (0.0, 1, 0.75 * 0.25 * math.log(2)),  # background
        (-math.log(3), 0, 0.25 * 0.75**2 * math.log(4)),
        (-math.log(3), 1, 0.75 * 0.25**2 * math.log(4 / 3)),
    ],
)
def test_focal_hand_values(logit: float, label: int, expected: float) -> None:
    got = focal_loss(torch.tensor([[logit]]), torch.tensor([label]))
    assert got.item() == pytest.approx(expected, rel=1e-5)


def test_the_general_form_is_least_where_the_estimate_is_the_target() -> None:
    """The paper's: its minimum is at p_l = (y_r - y) / (y_r - y_l)."""
    p = torch.linspace(0.01, 0.99, 99).double()
    loss = generalized_focal_loss(
        (1 - p).log(), p.log(), torch.full_like(p, 2), torch.full_like(p, 3), torch.full_like(p, 2.3), 2.0
    )
    assert p[loss.argmin()].item() == pytest.approx(0.3)
