"""nanogfl.boxes: hand values, laws, and a loop-by-loop oracle."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from oracles import losses as oracle

from nanogfl import boxes

UNIT = [0, 0, 1, 1]
QUARTER_TURN = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])  # (x, y) -> (-y, x)


def rows(*corners: Sequence[float]) -> NDArray[np.float64]:
    return np.array(corners, np.float64).reshape(-1, 4)


def random_boxes(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    low = rng.uniform(-20, 80, (count, 2))
    return np.concatenate([low, low + rng.uniform(0.5, 60, (count, 2))], axis=1)


@pytest.mark.parametrize(
    ("box", "area", "reason"),
    [
        (UNIT, 1, "no +1 on the sides"),
        ([2, 3, 5, 7], 12, "width times height"),
        ([0.25, 0, 0.75, 2], 1, "parts of pixels count"),
        ([5, 5, 5, 9], 0, "no width"),
        ([9, 9, 5, 5], 0, "inverted on both sides is empty, not positive again"),
        ([9, 5, 5, 9], 0, "inverted on one side is empty, not negative"),
    ],
)
def test_area_of_a_box(box: list[float], area: float, reason: str) -> None:
    assert boxes.areas(rows(box)).tolist() == [area], reason


@pytest.mark.parametrize(
    ("a", "b", "expected", "reason"),
    [
        (UNIT, UNIT, 1, "the same"),
        ([0, 0, 2, 2], [1, 1, 3, 3], 1 / 7, "a corner shared"),
        ([0, 0, 4, 4], [1, 1, 3, 3], 4 / 16, "one inside the other"),
        ([0, 0, 3, 1], [0, 0, 5, 1], 3 / 5, "a prefix"),
        ([0, 0, 2, 2], [2, 0, 4, 2], 0, "an edge in common has no area"),
        ([0, 0, 2, 2], [2, 2, 4, 4], 0, "a point in common has no area"),
        ([0, 0, 2, 2], [7, 7, 9, 9], 0, "apart on both axes: two negative sides are no overlap"),
        ([0, 0, 2, 2], [0, 5, 2, 7], 0, "apart on one axis"),
        ([1, 1, 1, 1], [1, 1, 1, 1], 0, "two empty boxes, not NaN"),
        ([0, 0, 2, 2], [1, 0, 1, 2], 0, "an empty box inside another"),
        ([3, 3, 1, 1], [1, 1, 3, 3], 0, "an inverted box is empty"),
    ],
)
def test_iou_of_two_boxes(a: list[float], b: list[float], expected: float, reason: str) -> None:
    np.testing.assert_allclose(boxes.iou(rows(a), rows(b)), [[expected]], rtol=1e-12, err_msg=reason)


def test_iou_of_all_pairs_is_the_loops() -> None:
    rng = np.random.default_rng(1)
    a, b = random_boxes(rng, 23), random_boxes(rng, 17)
    expected = [[oracle.iou(x, y) for y in b] for x in a]
    np.testing.assert_allclose(boxes.iou(a, b), expected, rtol=1e-12)


def test_iou_is_symmetric_bounded_and_one_with_itself() -> None:
    a = random_boxes(np.random.default_rng(2), 40)
    table = boxes.iou(a, a)
    np.testing.assert_array_equal(table, table.T)
    np.testing.assert_allclose(np.diag(table), 1, rtol=1e-12)
    assert table.min() >= 0
    assert table.max() <= 1 + 1e-12


def test_iou_knows_neither_place_nor_scale() -> None:
    rng = np.random.default_rng(3)
    a, b = random_boxes(rng, 12), random_boxes(rng, 12)
    np.testing.assert_allclose(boxes.iou(a * 7 + 31, b * 7 + 31), boxes.iou(a, b), atol=1e-12)


def test_iou_with_no_boxes_is_an_empty_table() -> None:
    assert boxes.iou(rows(), rows(UNIT, UNIT)).shape == (0, 2)
    assert boxes.iou(rows(UNIT), rows()).shape == (1, 0)


@pytest.mark.parametrize(
    ("box", "expected", "reason"),
    [
        ([1, 2, 3, 4], [1, 2, 3, 4], "inside stays"),
        ([-5, -6, 50, 60], [0, 0, 30, 20], "x by the width 30, y by the height 20"),
        ([25, 15, 35, 25], [25, 15, 30, 20], "over the far corner"),
        ([-9, -9, -1, -1], [0, 0, 0, 0], "outside on the near side: empty, at the corner"),
        ([40, 5, 50, 9], [30, 5, 30, 9], "outside on the right: empty, at the edge"),
    ],
)
def test_clip_cuts_to_the_frame(box: list[float], expected: list[float], reason: str) -> None:
    given = rows(box)
    np.testing.assert_array_equal(boxes.clip(given, 20, 30), rows(expected), err_msg=reason)
    np.testing.assert_array_equal(given, rows(box), err_msg="the caller's boxes are not changed")


def test_clip_twice_is_clip_once_and_keeps_the_type() -> None:
    many = random_boxes(np.random.default_rng(4), 50).astype(np.float32)
    once = boxes.clip(many, 40, 60)
    assert once.dtype == np.float32
    np.testing.assert_array_equal(boxes.clip(once, 40, 60), once)


@pytest.mark.parametrize(
    ("matrix", "box", "expected", "reason"),
    [
        (np.eye(3), [1, 2, 3, 5], [1, 2, 3, 5], "identity"),
        (np.array([[1.0, 0, 4], [0, 1, -1], [0, 0, 1]]), [1, 2, 3, 5], [5, 1, 7, 4], "shift"),
        (np.diag([2.0, 3, 1]), [1, 2, 3, 5], [2, 6, 6, 15], "each axis by its own factor"),
        (np.diag([-1.0, 1, 1]), [1, 2, 3, 5], [-3, 2, -1, 5], "a mirror swaps the sides back"),
        (QUARTER_TURN, [1, 2, 3, 5], [-5, 1, -2, 3], "a quarter turn: width and height change places"),
        (np.array([[1.0, 1, 0], [0, 1, 0], [0, 0, 1]]), [0, 0, 2, 3], [0, 0, 5, 3], "shear: the hull"),
        (np.diag([1.0, 1, 2]), [2, 4, 6, 8], [1, 2, 3, 4], "homogeneous: divided by the third"),
        (np.array([[1.0, 0, 0], [0, 1, 0], [0.5, 0, 1]]), [0, 0, 2, 4], [0, 0, 1, 4], "perspective: x / (x/2 + 1)"),
    ],
)
def test_transform_of_a_box(matrix: NDArray[np.float64], box: list[float], expected: list[float], reason: str) -> None:
    np.testing.assert_allclose(boxes.transform(rows(box), matrix), rows(expected), atol=1e-12, err_msg=reason)


def test_transform_is_the_hull_of_every_point_inside() -> None:
    rng = np.random.default_rng(5)
    for box in random_boxes(rng, 8):
        matrix = np.eye(3) + rng.uniform(-0.5, 0.5, (3, 3)) * [[1, 1, 9], [1, 1, 9], [2e-3, 2e-3, 0]]
        x, y = np.meshgrid(np.linspace(box[0], box[2], 21), np.linspace(box[1], box[3], 21))
        moved = matrix @ np.stack([x.ravel(), y.ravel(), np.ones(x.size)])
        points = moved[:2] / moved[2]
        hull = [*points.min(axis=1), *points.max(axis=1)]
        np.testing.assert_allclose(boxes.transform(box[None], matrix)[0], hull, rtol=1e-9)


def test_an_axis_aligned_map_and_its_inverse_give_the_boxes_back() -> None:
    many = random_boxes(np.random.default_rng(6), 30)
    matrix = np.array([[-1.7, 0, 31], [0, 0.4, -8], [0, 0, 1]])
    again = boxes.transform(boxes.transform(many, matrix), np.linalg.inv(matrix))
    np.testing.assert_allclose(again, many, atol=1e-9)


def test_an_affine_transform_is_the_general_one() -> None:
    """Without perspective the hull is made from centres and half sides; a perspective of nothing is one of corners."""
    rng = np.random.default_rng(5)
    for _ in range(50):
        matrix = np.eye(3)
        matrix[:2] = rng.uniform(-3, 3, (2, 3))
        many = rng.uniform(-50, 50, (9, 4))  # inverted ones too
        general = boxes.transform(many, matrix + np.array([[0] * 3, [0] * 3, [1e-300, 0, 0]]))
        np.testing.assert_allclose(boxes.transform(many, matrix), general, atol=1e-9)


def test_transform_keeps_the_type_and_no_boxes_stay_none() -> None:
    assert boxes.transform(rows(UNIT).astype(np.float32), QUARTER_TURN).dtype == np.float32
    assert boxes.transform(np.zeros(0), np.eye(3)).shape == (0, 4)


def test_coverage_by_hand() -> None:
    """Part of each box of the first that lies in each of the second; not symmetric; an empty box has no part."""
    a = np.array([[0, 0, 4, 4], [2, 2, 2, 9]], np.float64)
    b = np.array([[2, 0, 8, 4], [0, 0, 4, 4], [9, 9, 10, 10]], np.float64)
    assert boxes.coverage(a, b).tolist() == [[0.5, 1, 0], [0, 0, 0]]
    assert boxes.coverage(b, a)[0, 0] == 8 / 24
    assert boxes.coverage(a / 8, b / 8).tolist() == [[0.5, 1, 0], [0, 0, 0]]  # smaller than a pixel, too
