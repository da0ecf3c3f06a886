"""nanogfl.view: each resize rule against loops and against torch, and boxes there and back."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from nanogfl import boxes as box_math
from nanogfl.view import GREY, MEAN, RULES, STD, View, is_side, normalise, resize

SHAPES = [
    pytest.param((48, 64), (32, 96), id="down one way, up the other"),
    pytest.param((37, 53), (64, 64), id="up, odd sides"),
    pytest.param((101, 211), (32, 64), id="down by more than three"),
    pytest.param((1, 1), (64, 32), id="one pixel"),
    pytest.param((1, 40), (32, 32), id="one row"),
    pytest.param((32, 32), (32, 32), id="the same size"),
]
EXTREME = [(901, 37), (37, 901), (1, 1), (1, 1000), (480, 640), (640, 480), (321, 320), (3, 7)]


def picture(shape: tuple[int, int], seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def random_boxes(shape: tuple[int, int]) -> NDArray[Any]:
    corners = np.random.default_rng(7).uniform(0, 1, (20, 2, 2)) * (shape[1], shape[0])
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)


def slow_lines(source: int, target: int, rule: str) -> list[dict[int, float]]:
    """For each target line the source lines and their weights, from the definition of each rule."""
    ratio, lines = source / target, []
    for i in range(target):
        centre = i * ratio if rule == "stretch-corner" else (i + 0.5) * ratio - 0.5
        taps: dict[int, float] = {}
        if rule.endswith("antialias") and ratio > 1:
            weights = {j: 1 - abs(j - centre) / ratio for j in range(source) if abs(j - centre) < ratio}
            taps = {j: w / sum(weights.values()) for j, w in weights.items()}
        else:
            low = math.floor(centre)
            for j, w in ((low, 1 - (centre - low)), (low + 1, centre - low)):
                inside = min(max(j, 0), source - 1)
                taps[inside] = taps.get(inside, 0) + w
        lines.append(taps)
    return lines


def slow_resize(image: NDArray[np.uint8], size: tuple[int, int], rule: str) -> NDArray[np.float64]:
    rows, columns = slow_lines(image.shape[0], size[0], rule), slow_lines(image.shape[1], size[1], rule)
    result = np.zeros((*size, 3))
    for y, row in enumerate(rows):
        for x, column in enumerate(columns):
            for j, a in row.items():
                for i, b in column.items():
                    result[y, x] += a * b * image[j, i]
    return result


@pytest.mark.parametrize("rule", ["stretch", "stretch-antialias", "stretch-corner"])
@pytest.mark.parametrize(("shape", "size"), SHAPES[:4] + SHAPES[5:])
def test_resize_is_the_loops(shape: tuple[int, int], size: tuple[int, int], rule: str) -> None:
    image = picture(shape)
    np.testing.assert_allclose(resize(image, size, rule), slow_resize(image, size, rule), atol=1e-3)


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize(("shape", "size"), SHAPES)
def test_resize_is_torchs(shape: tuple[int, int], size: tuple[int, int], antialias: bool) -> None:
    image = picture(shape)
    batch = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    expected = F.interpolate(batch, size, mode="bilinear", align_corners=False, antialias=antialias)
    made = resize(image, size, "stretch-antialias" if antialias else "stretch")
    np.testing.assert_allclose(made, expected[0].permute(1, 2, 0).numpy(), atol=1e-3)


@pytest.mark.parametrize(
    ("rule", "expected", "reason"),
    [
        ("stretch", [20, 80], "half-pixel: the middle of each four lines, (10 + 30) / 2"),
        ("stretch-corner", [0, 60], "each fourth line itself, from the first"),
        ("stretch-antialias", [91.25 / 3.5, 100 - 91.25 / 3.5], "a triangle 8 lines wide, cut and rescaled"),
    ],
)
def test_eight_lines_to_two(rule: str, expected: list[float], reason: str) -> None:
    lines = np.array([0, 10, 30, 40, 60, 70, 90, 100], np.uint8)
    image = np.repeat(lines[:, None, None], 3, axis=2)
    made = resize(image, (2, 1), rule)[:, 0, 0]
    np.testing.assert_allclose(made, expected, atol=1e-4, err_msg=reason)
    assert made.dtype == np.float32


@pytest.mark.parametrize("rule", RULES)
def test_a_plain_picture_stays_plain(rule: str) -> None:
    view = View((101, 47), (64, 96), rule)
    seen = view.apply(np.full((101, 47, 3), 114, np.uint8))
    assert seen.shape == (64, 96, 3)
    np.testing.assert_allclose(seen, 114, atol=1e-3)


@pytest.mark.parametrize("rule", RULES)
def test_the_size_itself_changes_nothing(rule: str) -> None:
    image = picture((64, 96))
    np.testing.assert_array_equal(View((64, 96), (64, 96), rule).apply(image), image.astype(np.float32))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("shape", EXTREME)
def test_height_and_width_are_never_swapped(shape: tuple[int, int], rule: str) -> None:
    image = picture(shape)
    seen = View(shape, (64, 128), rule).apply(image)
    turned = View((shape[1], shape[0]), (128, 64), rule).apply(image.transpose(1, 0, 2))
    np.testing.assert_allclose(turned.transpose(1, 0, 2), seen, atol=1e-3)


@pytest.mark.parametrize(
    ("shape", "size", "content", "offset", "reason"),
    [
        ((480, 640), (320, 320), (240, 320), (40, 0), "bars above and below"),
        ((640, 480), (320, 320), (320, 240), (0, 40), "bars left and right"),
        ((480, 640), (320, 416), (312, 416), (4, 0), "the input's own aspect counts"),
        ((320, 320), (320, 320), (320, 320), (0, 0), "no bars"),
        ((901, 37), (320, 320), (320, 13), (0, 153), "13.14 rounds down"),
        ((37, 901), (320, 320), (13, 320), (153, 0), "13.14 rounds down"),
        ((5, 128), (64, 64), (3, 64), (30, 0), "2.5 rounds up, and the odd pixel goes below"),
        ((1, 1000), (64, 64), (1, 64), (31, 0), "never less than a pixel"),
        ((1, 1), (64, 96), (64, 64), (0, 16), "one pixel fills the shorter side"),
    ],
)
def test_letterbox_places_its_content(
    shape: tuple[int, int], size: tuple[int, int], content: tuple[int, int], offset: tuple[int, int], reason: str
) -> None:
    for rule in ("letterbox", "letterbox-antialias"):
        view = View(shape, size, rule)
        assert (view.content, view.offset) == (content, offset), reason


def test_letterbox_content_is_rounded_half_up_from_the_exact_ratio() -> None:
    rng = np.random.default_rng(8)
    for height, width in rng.integers(1, 5000, (300, 2)).tolist():
        view = View((height, width), (320, 416), "letterbox")
        ratio = min(Fraction(320, height), Fraction(416, width))
        exact = tuple(max(1, math.floor(ratio * side + Fraction(1, 2))) for side in (height, width))
        assert view.content == exact
        before, after = view.offset, [s - c - o for s, c, o in zip(view.input, exact, view.offset, strict=True)]
        assert all(0 <= b - a <= 1 for a, b in zip(before, after, strict=True)), "centred"


@pytest.mark.parametrize("rule", ["letterbox", "letterbox-antialias"])
@pytest.mark.parametrize("shape", EXTREME)
def test_letterbox_is_the_resized_content_on_grey(shape: tuple[int, int], rule: str) -> None:
    image, view = picture(shape), View(shape, (96, 64), rule)
    (height, width), (y, x) = view.content, view.offset
    expected = np.full((96, 64, 3), 114.0)
    expected[y : y + height, x : x + width] = resize(image, view.content, rule.replace("letterbox", "stretch"))
    np.testing.assert_array_equal(view.apply(image), expected)
    assert GREY == 114


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("shape", EXTREME)
def test_boxes_come_back(shape: tuple[int, int], rule: str) -> None:
    view, boxes = View(shape, (320, 416), rule), random_boxes(shape)
    seen = box_math.transform(boxes, view.matrix)
    np.testing.assert_allclose(view.back(seen), boxes, rtol=1e-9, atol=1e-9)
    single = view.back(seen.astype(np.float32))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, boxes, rtol=1e-4, atol=1e-3 * max(shape))


@pytest.mark.parametrize("rule", RULES)
def test_the_whole_picture_is_the_whole_content(rule: str) -> None:
    view = View((901, 37), (320, 416), rule)
    (height, width), (y, x) = view.content, view.offset
    whole = np.array([[0.0, 0, 37, 901]])
    np.testing.assert_allclose(box_math.transform(whole, view.matrix), [[x, y, x + width, y + height]], rtol=1e-12)
    np.testing.assert_allclose(view.back(np.array([[-9.0, -9, 999, 999]])), whole, err_msg="clipped to the picture")


@pytest.mark.parametrize("rule", RULES)
def test_lengths_scale_as_boxes_do(rule: str) -> None:
    view = View((200, 100), (64, 96), rule)
    boxes = np.array([[10.0, 20, 30, 60]])
    moved = box_math.transform(boxes, view.matrix)
    sides = np.array([[moved[0, 2] - moved[0, 0], moved[0, 3] - moved[0, 1]] * 2])
    np.testing.assert_allclose(view.back_lengths(sides), [[20, 40, 20, 40]], rtol=1e-12)


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "stretch-corner"])
@pytest.mark.parametrize("shape", [(60, 80), (300, 500)])
def test_a_rectangle_lies_where_the_matrix_says(shape: tuple[int, int], rule: str) -> None:
    height, width = shape
    x1, y1, x2, y2 = width // 5, height // 4, width // 2, height // 4 * 3
    image = np.zeros((*shape, 3), np.uint8)
    image[y1:y2, x1:x2] = 200
    view = View(shape, (160, 192), rule)
    seen = view.apply(image)[..., 0]
    (box,) = box_math.transform(np.array([[x1, y1, x2, y2]], np.float32), view.matrix)
    y, x = int(box[1::2].mean()), int(box[::2].mean())
    seen[: view.offset[0]] = seen[view.offset[0] + view.content[0] :] = 0
    seen[:, : view.offset[1]] = seen[:, view.offset[1] + view.content[1] :] = 0
    # the light along a line through the middle is the rectangle's side
    np.testing.assert_allclose([seen[y].sum() / 200, seen[:, x].sum() / 200], box[2:] - box[:2], atol=0.6)
    for line, low, high in ((seen[y], box[0], box[2]), (seen[:, x], box[1], box[3])):
        lit = np.flatnonzero(line > 100)
        assert abs(lit[0] - low) <= 0.51
        assert abs(lit[-1] + 1 - high) <= 0.51


def test_normalise_takes_the_mean_of_each_channel_and_puts_channels_first() -> None:
    image = np.stack([np.full((2, 3), m + k * s) for k, (m, s) in enumerate(zip(MEAN, STD, strict=True))], axis=2)
    made = normalise(image.astype(np.float32))
    assert made.shape == (3, 2, 3)
    assert made.dtype == np.float32
    assert made.flags.c_contiguous
    np.testing.assert_allclose(made.reshape(3, -1), np.repeat([[0.0], [1], [2]], 6, axis=1), atol=1e-5)


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown resize rule 'cubic'; known: stretch"):
        View((1, 1), (64, 64), "cubic")


def test_sides_are_multiples_of_32_from_64_to_4096() -> None:
    assert [side for side in range(-64, 200) if is_side(side)] == [64, 96, 128, 160, 192]
    assert [side for side in range(4000, 5000) if is_side(side)] == [4000, 4032, 4064, 4096]
