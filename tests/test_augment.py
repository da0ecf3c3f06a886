"""nanogfl.data.augment: pictures and boxes move together, and nothing else changes."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from nanogfl import boxes as box_math
from nanogfl.data.augment import (
    LEAST_SIDE,
    Sample,
    augment,
    colour,
    move,
    random_matrix,
    random_tint,
    translation,
    warp,
)
from nanogfl.recipe import AugmentRecipe
from nanogfl.view import RULES, View

STILL = AugmentRecipe(
    scale=(1, 1), stretch=(1, 1), translate=0, flip=0, brightness=0, contrast=(1, 1), saturation=(1, 1)
)
ALIGNED = replace(STILL, scale=(0.7, 1.3), stretch=(0.8, 1.25), translate=0.1, flip=0.5, flip_vertical=0.5)
SIZE = (256, 320)
HALF_PIXEL = [rule for rule in RULES if rule != "stretch-corner"]


def sample(
    shape: tuple[int, int], boxes: list[list[float]], labels: list[int] | None = None, crowd: bool = False
) -> Sample:
    """A dark picture with bright rectangles."""
    picture = np.zeros((*shape, 3), np.uint8)
    for x1, y1, x2, y2 in np.array(boxes, int).reshape(-1, 4):
        picture[y1:y2, x1:x2] = 200
    names = list(range(len(boxes))) if labels is None else labels
    corners = np.array(boxes, np.float64).reshape(-1, 4)
    return Sample(picture, corners, np.array(names, np.int64), np.full(len(names), crowd))


def edges(picture: NDArray[np.uint8], box: NDArray[np.float64]) -> list[float]:
    """x1 y1 x2 y2 in px where the lines through the middle of a box cross half of 200, between the pixels' centres."""
    x1, y1, x2, y2 = box.astype(int)
    part = picture[y1 - 5 : y2 + 6, x1 - 5 : x2 + 6, 0].astype(float)
    crossings = []
    for line, start in ((part[part.shape[0] // 2], x1 - 5), (part[:, part.shape[1] // 2], y1 - 5)):
        lit = np.flatnonzero(line >= 100)
        low, high = int(lit[0]), int(lit[-1])
        rise = low - (line[low] - 100) / (line[low] - line[low - 1])
        fall = high + (line[high] - 100) / (line[high] - line[high + 1])
        crossings.append((start + rise + 0.5, start + fall + 0.5))
    (left, right), (top, bottom) = crossings
    return [left, top, right, bottom]


@pytest.mark.parametrize("rule", HALF_PIXEL)
@pytest.mark.parametrize("seed", range(8))
def test_an_upright_box_lies_on_the_edges_of_its_object(seed: int, rule: str) -> None:
    given = sample((64, 80), [[30, 24, 50, 44]])
    made = augment([given], SIZE, rule, ALIGNED, np.random.default_rng(seed))
    np.testing.assert_allclose(edges(made.picture, made.boxes[0]), made.boxes[0], atol=0.3)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"rotate": 45.0}, "rotation"),
        ({"shear": 20.0}, "shear"),
        ({"perspective": 0.3}, "perspective"),
        ({"rotate": 30.0, "shear": 10.0, "perspective": 0.2}, "all of them"),
    ],
)
def test_a_turned_object_touches_all_sides_of_its_box(change: dict[str, float], reason: str) -> None:
    offsets = []
    recipe = replace(ALIGNED, scale=(0.9, 1.1), **change)
    for seed in range(40):
        given = sample((220, 300), [[110, 80, 190, 140]])
        given.picture[..., 2] = 0  # blue, which the grey surround is not
        made = augment([given], SIZE, "stretch", recipe, np.random.default_rng(seed))
        y, x = np.nonzero(cv2.subtract(made.picture[..., 0], made.picture[..., 2]) > 100)
        mask = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1])
        np.testing.assert_allclose(mask, made.boxes[0], atol=1.5, err_msg=f"{reason}, seed {seed}")
        offsets.append((mask - made.boxes[0]).reshape(2, 2).mean(axis=0))
    assert np.abs(np.mean(offsets, axis=0)).max() < 0.15, "no side is favoured, so no half pixel is lost"


@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(STILL, id="still"),
        pytest.param(ALIGNED, id="aligned"),
        pytest.param(replace(ALIGNED, rotate=30, shear=15), id="affine"),
        pytest.param(replace(ALIGNED, rotate=30, perspective=0.3), id="perspective"),
    ],
)
def test_each_pixel_comes_from_where_the_matrix_says(recipe: AugmentRecipe) -> None:
    y, x = np.mgrid[:120, :160].astype(np.float64) + 0.5
    ramp = np.stack([x, y, np.full_like(x, 7)], axis=2).astype(np.uint8)  # centres at 0.5 are stored as 0
    for seed in range(6):
        matrix = random_matrix(View((120, 160), SIZE, "letterbox"), recipe, np.random.default_rng(seed))
        out_y, out_x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
        points = np.linalg.inv(matrix) @ np.stack([out_x.ravel(), out_y.ravel(), np.ones(out_x.size)])
        from_x, from_y = (points[:2] / points[2]).reshape(2, *SIZE)
        inside = (from_x > 0.6) & (from_x < 159.4) & (from_y > 0.6) & (from_y < 119.4)
        warped = warp(ramp, matrix, SIZE).astype(np.float64)
        assert inside.mean() > 0.2
        np.testing.assert_allclose(warped[inside][:, 0], from_x[inside] - 0.5, atol=0.6)
        np.testing.assert_allclose(warped[inside][:, 1], from_y[inside] - 0.5, atol=0.6)
        outside = (from_x < -1) | (from_x > 161) | (from_y < -1) | (from_y > 121)
        assert (warped[outside] == 114).all()


def test_the_matrix_and_its_inverse_give_the_boxes_back() -> None:
    for seed in range(20):
        matrix = random_matrix(View((200, 300), SIZE, "letterbox"), ALIGNED, np.random.default_rng(seed))
        boxes = np.array([[10.0, 20, 60, 90], [0, 0, 300, 200]])
        again = box_math.transform(box_math.transform(boxes, matrix), np.linalg.inv(matrix))
        np.testing.assert_allclose(again, boxes, atol=1e-9)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("shape", [(64, 80), (200, 100), (37, 901), SIZE])
def test_without_change_it_is_the_view(shape: tuple[int, int], rule: str) -> None:
    view = View(shape, SIZE, rule)
    matrix = random_matrix(view, STILL, np.random.default_rng(0))
    np.testing.assert_allclose(matrix, view.matrix, atol=1e-9)


@pytest.mark.parametrize("rule", HALF_PIXEL)
def test_without_change_the_picture_is_the_views_up_to_opencvs_rounding(rule: str) -> None:
    picture = np.random.default_rng(3).integers(0, 256, (100, 90, 3), dtype=np.uint8)
    given = Sample(picture, np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0, bool))
    made = augment([given], SIZE, rule, STILL, np.random.default_rng(0))
    view = View((100, 90), SIZE, rule)
    (height, width), (y, x) = view.content, view.offset
    inner = np.s_[y + 4 : y + height - 4, x + 4 : x + width - 4]  # the edge mixes with grey, the view's does not
    error = np.abs(made.picture[inner].astype(float) - view.apply(picture)[inner])
    assert error.max() <= 6, "1/32 px of the steepest edge"
    assert error.mean() < (1.5 if cv2.__version__ < "5" else 1), "OpenCV 4 rounds more coarsely"


def test_a_generator_in_the_same_state_makes_the_same_sample() -> None:
    recipe = AugmentRecipe(rotate=10, shear=5, perspective=0.1, mosaic=1)
    parts = [sample((50 + i, 70), [[10, 10, 40, 30]], [i]) for i in range(4)]
    first, again, other = (augment(parts, SIZE, "stretch", recipe, np.random.default_rng(s)) for s in (5, 5, 6))
    np.testing.assert_array_equal(first.picture, again.picture)
    np.testing.assert_array_equal(first.boxes, again.boxes)
    assert (first.picture != other.picture).any()


def test_the_given_picture_and_boxes_are_left_alone() -> None:
    given = sample((256, 320), [[30, 24, 50, 44]])
    picture, boxes = given.picture.copy(), given.boxes.copy()
    for rule in RULES:
        augment([given], SIZE, rule, AugmentRecipe(), np.random.default_rng(1))
        augment([given], SIZE, rule, replace(STILL, brightness=0.4), np.random.default_rng(1))
    np.testing.assert_array_equal(given.picture, picture)
    np.testing.assert_array_equal(given.boxes, boxes)


@pytest.mark.parametrize("vertical", [False, True])
def test_flip_probabilities_of_zero_and_one_are_certain(vertical: bool) -> None:
    given = sample(SIZE, [[10, 20, 60, 90]])
    mirrored = [[10, 166, 60, 236]] if vertical else [[260, 20, 310, 90]]
    for probability, expected in ((0.0, [[10, 20, 60, 90]]), (1.0, mirrored)):
        recipe = replace(STILL, **{"flip_vertical" if vertical else "flip": probability})
        for seed in range(20):
            made = augment([given], SIZE, "stretch", recipe, np.random.default_rng(seed))
            np.testing.assert_allclose(made.boxes, expected, atol=1e-9)


def test_changes_stay_within_the_recipe() -> None:
    recipe = replace(STILL, scale=(0.5, 2), stretch=(0.9, 1.1), translate=0.25)
    matrices = [random_matrix(View(SIZE, SIZE, "stretch"), recipe, np.random.default_rng(s)) for s in range(400)]
    zoom_x, zoom_y = np.array([(m[0, 0], m[1, 1]) for m in matrices]).T
    assert 0.45 <= min(zoom_x.min(), zoom_y.min()) < 0.6
    assert 1.8 < max(zoom_x.max(), zoom_y.max()) <= 2.2
    assert 0.9 / 1.1 <= (zoom_x / zoom_y).min() < 0.9
    centres = np.array([(m @ [160, 128, 1])[:2] for m in matrices]) - (160, 128)  # the middle moves by the shift alone
    assert (np.abs(centres) <= (0.25 * 320, 0.25 * 256)).all()
    assert (np.abs(centres).max(axis=0) > (0.23 * 320, 0.23 * 256)).all()


def test_perspective_is_a_part_of_each_sides_own_length() -> None:
    recipe = replace(STILL, perspective=0.3)
    wide = (100, 400)
    lasts = np.array(
        [random_matrix(View(wide, wide, "stretch"), recipe, np.random.default_rng(s))[2] for s in range(300)]
    )
    over_width, over_height = np.abs(lasts[:, 0]) * 400, np.abs(lasts[:, 1]) * 100
    assert 0.28 < over_width.max() <= 0.3
    assert 0.28 < over_height.max() <= 0.3
    np.testing.assert_allclose(lasts @ [200, 50, 1], 1, atol=1e-12, err_msg="the middle keeps its size")


@pytest.mark.parametrize(
    ("shift", "kept", "crowd", "reason"),
    [
        (0, True, False, "wholly inside"),
        (-89, True, False, "11 % left"),
        (-91, True, True, "9 % left: neither trains nor punishes"),
        (-98.5, True, True, "1.5 px left"),
        (-99.1, False, False, "less than a pixel left"),
        (-100, False, False, "just outside"),
        (-300, False, False, "far outside"),
    ],
)
def test_a_box_leaving_the_input(shift: float, kept: bool, crowd: bool, reason: str) -> None:
    given = sample((200, 200), [[0, 50, 100, 150]])
    made = move(given, translation(shift, 0), (0, 0, 200, 200))
    expected = [[0, 50, 100 + shift, 150]] if kept else []
    np.testing.assert_allclose(made.boxes, np.reshape(expected, (-1, 4)), atol=1e-9, err_msg=reason)
    assert made.crowd.tolist() == [crowd] * kept, reason


@pytest.mark.parametrize(
    ("box", "kept", "reason"),
    [
        ([10, 10, 11, 30], False, "a pixel wide, no more"),
        ([10, 10, 30, 10.5], False, "half a pixel high"),
        ([10, 10, 11.5, 11.5], True, "more than a pixel each way"),
        ([10, 10, 10, 10], False, "a point"),
    ],
)
def test_a_box_too_small_to_learn_goes(box: list[float], kept: bool, reason: str) -> None:
    assert len(move(sample((64, 64), [box]), np.eye(3), (0, 0, 64, 64)).boxes) == kept, reason


def test_labels_and_crowd_stay_with_their_boxes() -> None:
    boxes = [[0, 0, 50, 50], [300, 300, 340, 340], [100, 100, 150, 150], [5, 5, 5.5, 5.5], [60, 60, 90, 90]]
    given = replace(sample((400, 400), boxes, [4, 3, 2, 1, 0]), crowd=np.array([True, False, False, True, False]))
    made = move(given, np.eye(3), (0, 0, 200, 200))
    assert made.labels.tolist() == [4, 2, 0]
    assert made.crowd.tolist() == [True, False, False]
    assert made.boxes.tolist() == [boxes[0], boxes[2], boxes[4]]


@pytest.mark.parametrize("mosaic", [1, 4])
def test_boxes_stay_in_the_input_and_are_of_some_size(mosaic: int) -> None:
    wild = AugmentRecipe(scale=(0.3, 3), translate=0.5, rotate=40, shear=20, perspective=0.3)
    rng = np.random.default_rng(9)
    for seed in range(60):
        corners = rng.uniform(0, 1, (12, 2, 2)) * (300, 200)
        boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
        given = replace(sample((200, 300), [[0, 0, 1, 1]] * 12), boxes=boxes)
        made = augment([given] * mosaic, SIZE, "letterbox", wild, np.random.default_rng(seed))
        assert (made.boxes >= 0).all()
        assert (made.boxes <= [320, 256, 320, 256]).all()
        assert ((made.boxes[:, 2:] - made.boxes[:, :2]) > LEAST_SIDE).all()
        assert len(made.boxes) == len(made.labels) == len(made.crowd)
        assert made.picture.shape == (*SIZE, 3)
        assert made.picture.dtype == np.uint8


@pytest.mark.parametrize("count", [1, 4])
def test_pictures_without_boxes_stay_without(count: int) -> None:
    made = augment([sample((50, 60), [])] * count, SIZE, "stretch", AugmentRecipe(), np.random.default_rng(0))
    assert (made.boxes.shape, made.labels.shape, made.crowd.shape) == ((0, 4), (0,), (0,))
    assert (made.labels.dtype, made.crowd.dtype) == (np.int64, np.bool_)


@pytest.mark.parametrize("seed", range(5))
def test_a_mosaic_is_four_pictures_each_in_its_own_quarter(seed: int) -> None:
    values = [40, 90, 160, 220]
    parts = []
    for i, value in enumerate(values):
        shape = (50 + 20 * i, 120 - 20 * i)
        whole = np.array([[0, 0, shape[1], shape[0]]], np.float64)
        picture = np.full((*shape, 3), value, np.uint8)
        parts.append(Sample(picture, whole, np.array([i + 10]), np.array([i == 2])))
    made = augment(parts, SIZE, "stretch", STILL, np.random.default_rng(seed))
    grey = made.picture[..., 0]
    middle_x, middle_y = made.boxes[0, 2:].astype(int)
    assert 0.34 <= middle_x / SIZE[1] <= 0.66
    assert 0.34 <= middle_y / SIZE[0] <= 0.66
    expected = [[0, 0, middle_x, middle_y], [middle_x, 0, 320, middle_y],
                [0, middle_y, middle_x, 256], [middle_x, middle_y, 320, 256]]  # fmt: skip
    np.testing.assert_allclose(made.boxes, expected, atol=1e-9)
    assert made.labels.tolist() == [10, 11, 12, 13]
    assert made.crowd.tolist() == [False, False, True, False]
    for (x1, y1, x2, y2), value in zip(expected, values, strict=True):
        inner = grey[y1 + 2 : y2 - 2, x1 + 2 : x2 - 2]
        assert (np.abs(inner.astype(int) - value) <= 1).all()


@pytest.mark.parametrize("seed", range(6))
def test_in_a_mosaic_too_a_box_lies_on_its_object(seed: int) -> None:
    parts = [sample((64, 80), [[30, 24, 50, 44]], [i]) for i in range(4)]
    made = augment(parts, SIZE, "stretch", replace(ALIGNED, translate=0, scale=(0.7, 1)), np.random.default_rng(seed))
    assert made.labels.tolist() == [0, 1, 2, 3]
    for box in made.boxes:
        np.testing.assert_allclose(edges(made.picture, box), box, atol=0.3)


def painted(values: list[list[int]], recipe: AugmentRecipe, seed: int = 0) -> NDArray[np.int64]:
    picture = np.array(values, np.uint8)[None]
    assert colour(picture, *random_tint(recipe, np.random.default_rng(seed))) is None
    assert picture.dtype == np.uint8
    return picture[0].astype(np.int64)


def test_colour_without_change_is_the_identity() -> None:
    values = np.random.default_rng(0).integers(0, 256, (500, 3)).tolist()
    assert painted(values, STILL).tolist() == values


@pytest.mark.parametrize(
    ("change", "before", "after", "reason"),
    [
        ({"contrast": (0.5, 0.5)}, [100, 200, 0], [50, 100, 0], "a factor from black"),
        ({"contrast": (2, 2)}, [100, 200, 0], [200, 255, 0], "and no more than white"),
        ({"saturation": (0.01, 0.01)}, [0, 0, 255], [75, 75, 78], "little colour left: red's share of grey is .299"),
        ({"saturation": (2, 2)}, [50, 50, 50], [50, 50, 50], "grey has no colour to strengthen"),
        ({"saturation": (2, 2)}, [100, 150, 120], [65, 165, 105], "twice as far from its grey, 135"),
    ],
)
def test_colour_of_a_pixel(
    change: dict[str, tuple[float, float]], before: list[int], after: list[int], reason: str
) -> None:
    np.testing.assert_allclose(painted([before], replace(STILL, **change)), [after], atol=1, err_msg=reason)


def test_brightness_goes_both_ways_and_no_further_than_the_recipe() -> None:
    recipe = replace(STILL, brightness=0.2)
    levels = np.array([painted([[100, 128, 150]], recipe, seed)[0] for seed in range(200)])
    shift = levels - [100, 128, 150]
    assert np.ptp(shift, axis=1).max() == 0, "one shift for all channels"
    assert -51 <= shift.min() < -45
    assert 45 < shift.max() <= 51


def test_colour_never_turns_over_at_the_ends() -> None:
    recipe = replace(STILL, brightness=1, contrast=(0.2, 3))
    values = np.repeat(np.arange(256)[:, None], 3, axis=1).tolist()
    for seed in range(30):
        assert (np.diff(painted(values, recipe, seed), axis=0) >= 0).all()
