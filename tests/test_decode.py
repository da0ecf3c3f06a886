"""nanogfl.decode: against plain loops, by hand, and against NanoDet's own detections."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from oracles import losses as oracle

from nanogfl.decode import Layout, Thresholds, all_priors, decode, nms, side_geometry
from nanogfl.detections import Detections
from nanogfl.errors import UsageError
from nanogfl.view import View

SIZE = (64, 96)
BINS = 8
NAMES = ["a", "b", "c"]
LAYOUT = Layout(SIZE, (8, 16, 32, 64), BINS - 1, False, sigma=True)
SAME = View(SIZE, SIZE, "stretch")
NOTHING = -50.0
Array = NDArray[Any]


def blank() -> Array:
    """A raw output that finds nothing, all side logits 0."""
    count = len(all_priors(SIZE, (8, 16, 32, 64), False))
    raw = np.zeros((count, 3 + 4 * BINS), np.float32)
    raw[:, :3] = NOTHING
    return raw


def put(raw: Array, row: int, label: int, logit: float, sides: tuple[int, int, int, int]) -> None:
    """One class logit, and four sides that are surely so many strides long."""
    raw[row, label] = logit
    raw[row, 3:] = NOTHING
    raw[row, 3 + np.arange(4) * BINS + sides] = -NOTHING


def slow_nms(boxes: Array, scores: Array, labels: Array, limits: Thresholds) -> list[int]:
    kept: list[int] = []
    for i in sorted(range(len(scores)), key=lambda i: -scores[i]):  # stable: the earlier one of two equals first
        rivals = [k for k in kept if labels[k] == labels[i]]
        if all(oracle.iou(boxes[k].tolist(), boxes[i].tolist()) <= limits.iou for k in rivals):
            kept.append(i)
    return kept[: limits.max_boxes]


def slow_decode(
    raw: Array, view: View, limits: Thresholds, temperature: float
) -> list[tuple[float, int, Array, Array]]:
    """(score, label, box, sigma) in picture px, best first, each step as the definitions say it."""
    found = []
    for row, (x, y, stride) in enumerate(all_priors(SIZE, (8, 16, 32, 64), False).tolist()):
        sides, sigma = [], []
        for logits in raw[row, 3:].astype(np.float64).reshape(4, BINS):
            share = [math.exp(v - max(logits)) for v in logits]
            mean = sum(k * p for k, p in enumerate(share)) / sum(share)
            variance = sum((k - mean) ** 2 * p for k, p in enumerate(share)) / sum(share)
            sides.append(mean * stride)
            sigma.append(math.sqrt(variance) * stride * temperature)
        box = [x - sides[0], y - sides[1], x + sides[2], y + sides[3]]
        box = [min(max(v, 0), limit) for v, limit in zip(box, (SIZE[1], SIZE[0]) * 2, strict=True)]
        for label in range(3):
            score = 1 / (1 + math.exp(-raw[row, label]))
            if score > limits.score:
                found.append((score, label, box, sigma))
    columns = [np.array([f[i] for f in found]) for i in range(4)]
    kept = slow_nms(columns[2], columns[0], columns[1], limits)
    (sy, sx), (oy, ox) = view.scale, view.offset
    result = []
    for k in kept:
        corners = (columns[2][k] - [ox, oy, ox, oy]) / [sx, sy, sx, sy]
        corners = np.clip(corners, 0, [view.picture[1], view.picture[0]] * 2)
        result.append((columns[0][k], int(columns[1][k]), corners, columns[3][k] / [sx, sy, sx, sy]))
    return result


@pytest.mark.parametrize(
    ("picture", "rule", "limits", "temperature"),
    [
        pytest.param(SIZE, "stretch", Thresholds(), 1.0, id="the input itself"),
        pytest.param((333, 127), "stretch-antialias", Thresholds(0.3, 0.5), 1.5, id="stretched, sides unlike"),
        pytest.param((333, 127), "letterbox", Thresholds(0.2, 0.4, 20), 1.0, id="bars left and right"),
        pytest.param((40, 300), "letterbox-antialias", Thresholds(0.6, 0.9), 0.5, id="bars above and below"),
        pytest.param((1, 1), "stretch-corner", Thresholds(0.5, 0.0, 7), 1.0, id="one pixel, no overlap allowed"),
    ],
)
def test_decode_is_the_loops(picture: tuple[int, int], rule: str, limits: Thresholds, temperature: float) -> None:
    rng = np.random.default_rng(11)
    raw = rng.normal(0, 2.5, blank().shape).astype(np.float32)
    raw[:, :3] -= 1
    view = View(picture, SIZE, rule)
    made = decode(raw, replace(LAYOUT, temperature=temperature), view, NAMES, limits)
    expected = slow_decode(raw, view, limits, temperature)
    assert len(made) == len(expected) > 5
    score, label, box, sigma = (np.array([e[i] for e in expected]) for i in range(4))
    np.testing.assert_allclose(made.scores, score, atol=1e-6)
    np.testing.assert_array_equal(made.labels, label)
    np.testing.assert_allclose(made.boxes, box, atol=1e-4 * max(picture))
    np.testing.assert_allclose(made.side_sigma, sigma, rtol=1e-3, atol=1e-4)  # type: ignore[arg-type]


@pytest.mark.parametrize("index", [0, 1])
def test_decode_gives_nanodets_own_detections(shared: Path, index: int) -> None:
    golden = np.load(shared / "reference" / "nanodet_plus_m_10cls.npz")
    size = (320, 416)
    layout, view = replace(LAYOUT, input_size=size), View(size, size, "stretch")
    made = decode(golden["raw"][index], layout, view, list("abcdefghij"))
    boxes, labels = golden[f"det{index}_boxes"], golden[f"det{index}_labels"]
    assert len(made) == 100
    np.testing.assert_allclose(made.scores, boxes[:, 4], atol=1e-5)
    np.testing.assert_array_equal(made.labels, labels)
    np.testing.assert_allclose(made.boxes, boxes[:, :4], atol=2e-3)


def test_priors_and_sides_are_nanodets(shared: Path) -> None:
    golden = np.load(shared / "reference" / "nanodet_plus_m_10cls.npz")
    priors = all_priors((320, 416), (8, 16, 32, 64), False)
    np.testing.assert_array_equal(priors, golden["priors_xy_stride"])
    boxes, _ = side_geometry(golden["raw"][0][:, 10:], priors, 7)
    np.testing.assert_allclose(boxes.clip(0, [416, 320, 416, 320]), golden["boxes_xyxy"][0], atol=2e-3)


@pytest.mark.parametrize(
    ("centred", "expected"),
    [
        (False, [[0, 0, 32], [32, 0, 32], [64, 0, 32], [0, 32, 32], [32, 32, 32], [64, 32, 32],
                 [0, 0, 64], [64, 0, 64]]),
        (True, [[16, 16, 32], [48, 16, 32], [80, 16, 32], [16, 48, 32], [48, 48, 32], [80, 48, 32],
                [32, 32, 64], [96, 32, 64]]),
    ],
)  # fmt: skip
def test_priors_come_level_by_level_and_row_by_row_over_the_rounded_up_grid(
    centred: bool, expected: list[list[int]]
) -> None:
    assert all_priors(SIZE, (32, 64), centred).tolist() == expected
    rows = np.array([6, 1])
    assert replace(LAYOUT, strides=(32, 64), centred=centred).priors_at(rows).tolist() == [expected[6], expected[1]]


def test_one_sure_prior_is_one_box() -> None:
    raw = blank()
    put(raw, 12 * 2 + 5, 1, 2.0, (1, 2, 3, 4))  # prior (40, 16), stride 8
    made = decode(raw, LAYOUT, SAME, NAMES)
    np.testing.assert_allclose(made.boxes, [[32, 0, 64, 48]], atol=1e-4)
    np.testing.assert_allclose(made.scores, [1 / (1 + math.exp(-2))], atol=1e-6)
    np.testing.assert_allclose(made.side_sigma, [[0, 0, 0, 0]], atol=1e-3)  # type: ignore[arg-type]
    assert (made.labels.tolist(), made.names) == ([1], NAMES)
    assert (made.boxes.dtype, made.scores.dtype, made.labels.dtype) == (np.float32, np.float32, np.int64)


def test_a_side_between_two_lengths_is_as_unsure_as_they_are_apart() -> None:
    raw = blank()
    put(raw, 5, 0, 3.0, (0, 0, 2, 2))
    raw[5, 3 + 2 * BINS + np.array([2, 4])] = -NOTHING  # right: 2 or 4 strides, so 3 +- 1 strides of 8 px
    picture = (SIZE[0] * 5, SIZE[1] * 3)
    layout = replace(LAYOUT, temperature=1.5)
    made = decode(raw, layout, View(picture, SIZE, "stretch"), NAMES)
    np.testing.assert_allclose(made.side_sigma, [[0, 0, 8 * 1.5 * 3, 0]], atol=1e-2)  # type: ignore[arg-type]
    np.testing.assert_allclose(made.boxes, [[40 * 3, 0, 64 * 3, 16 * 5]], atol=1e-2)
    assert decode(raw, replace(LAYOUT, sigma=False), SAME, NAMES).side_sigma is None, "only where it is asked for"


@pytest.mark.parametrize(
    ("threshold", "found", "reason"),
    [(0.5, 0, "exactly at the threshold is not above it"), (0.4999, 1, "above"), (0.9999, 0, "below"), (1.0, 0, "no")],
)
def test_the_score_threshold_is_exclusive(threshold: float, found: int, reason: str) -> None:
    raw = blank()
    put(raw, 5, 0, 0.0, (0, 0, 2, 2))
    assert len(decode(raw, LAYOUT, SAME, NAMES, Thresholds(threshold))) == found, reason


def test_a_threshold_of_zero_takes_every_prior_and_class() -> None:
    raw = np.random.default_rng(1).normal(0, 10, blank().shape).astype(np.float32)
    made = decode(raw, LAYOUT, SAME, NAMES, Thresholds(0, 1, 10_000))
    assert np.bincount(made.labels).tolist() == [len(raw)] * 3
    assert (np.diff(made.scores) <= 0).all()


def test_very_low_logits_do_not_warn_where_all_is_asked_for() -> None:
    raw = blank()
    put(raw, 5, 0, 200.0, (0, 0, 2, 2))
    raw[5, 1] = -200
    made = decode(raw, LAYOUT, SAME, NAMES, Thresholds(0.0, max_boxes=1))
    assert made.scores.tolist() == [1.0]


def test_sides_of_any_logits_have_a_length_and_a_deviation() -> None:
    """Beyond 88 the exponential of a float32 is infinite; one sure bin has no deviation, and rounding none below it."""
    logits = np.random.default_rng(0).normal(0, 1, (3000, 4 * BINS)).astype(np.float32)
    priors = np.full((3000, 3), 8, np.float32)
    for scale in (10, 30, 1000):
        boxes, deviation = side_geometry(logits * scale, priors, BINS - 1)
        assert (np.abs(boxes - 8) <= 8 * (BINS - 1) + 1e-3).all()
        assert (deviation >= 0).all() and (deviation <= 8 * (BINS - 1) / 2 + 1e-3).all()


def test_an_overlap_of_exactly_the_threshold_stays() -> None:
    boxes = np.array([[0, 0, 5, 1], [0, 0, 3, 1], [0, 0, 4, 1]], np.float32)  # 3/5 and 4/5 of the first
    scores, labels = np.array([0.9, 0.8, 0.7], np.float32), np.zeros(3, np.int64)
    assert nms(boxes, scores, labels, Thresholds(iou=0.6)).tolist() == [0, 1]
    assert nms(boxes, scores, labels, Thresholds(iou=0.59)).tolist() == [0]
    assert nms(boxes, scores, labels, Thresholds(iou=0.8)).tolist() == [0, 1, 2]


def test_classes_do_not_suppress_each_other() -> None:
    raw = blank()
    put(raw, 5, 0, 2.0, (0, 0, 2, 2))
    raw[5, 2] = 3.0
    made = decode(raw, LAYOUT, SAME, NAMES)
    assert made.labels.tolist() == [2, 0]
    np.testing.assert_array_equal(made.boxes[0], made.boxes[1])


def test_boxes_are_cut_to_the_input_before_suppression() -> None:
    raw = blank()
    put(raw, 0, 0, 3.0, (7, 0, 2, 2))  # [-56, 0, 16, 16]: IoU .22 with the next, 1 once it is cut
    put(raw, 1, 0, 2.0, (1, 0, 1, 2))
    made = decode(raw, LAYOUT, SAME, NAMES)
    np.testing.assert_allclose(made.boxes, [[0, 0, 16, 16]], atol=1e-4)
    np.testing.assert_allclose(made.scores, [1 / (1 + math.exp(-3))], atol=1e-6)


def test_a_suppressed_box_suppresses_nothing() -> None:
    boxes = np.array([[0, 0, 10, 1], [3, 0, 13, 1], [6, 0, 16, 1]], np.float32)  # neighbours .54, ends .25
    scores, labels = np.array([0.9, 0.8, 0.7], np.float32), np.zeros(3, np.int64)
    assert nms(boxes, scores, labels, Thresholds(iou=0.5)).tolist() == [0, 2]


@pytest.mark.parametrize("seed", range(5))
def test_nms_is_the_loops_ties_included(seed: int) -> None:
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 20, (120, 2))
    boxes = np.concatenate([low, low + rng.integers(1, 20, (120, 2))], axis=1).astype(np.float32)
    scores, labels = (rng.integers(1, 9, 120) / 9).astype(np.float32), rng.integers(0, 3, 120)
    limits = Thresholds(iou=0.3, max_boxes=25)
    assert nms(boxes, scores, labels, limits).tolist() == slow_nms(boxes, scores, labels, limits)


def test_of_equal_scores_the_earlier_prior_and_class_comes_first() -> None:
    raw = blank()
    for row, label in ((40, 1), (10, 2), (10, 0)):
        raw[row, label] = 1.0
        put(raw, row, label, 1.0, (0, 0, 1, 1))
    made = decode(raw, LAYOUT, SAME, NAMES)
    assert made.labels.tolist() == [0, 2, 1]


@pytest.mark.parametrize("most", [0, 1, 3, 100])
def test_at_most_so_many_and_the_best_of_them(most: int) -> None:
    raw = blank()
    for i, row in enumerate(range(0, 12, 2)):
        put(raw, row, 0, float(i), (0, 0, 1, 1))
    made = decode(raw, LAYOUT, SAME, NAMES, Thresholds(max_boxes=most))
    best = [1 / (1 + math.exp(-i)) for i in (5, 4, 3, 2, 1, 0)][:most]
    np.testing.assert_allclose(made.scores, best, atol=1e-6)


def test_nothing_found_is_empty_and_whole() -> None:
    made = decode(blank(), LAYOUT, SAME, NAMES)
    assert isinstance(made, Detections)
    assert (made.boxes.shape, made.scores.shape, made.labels.shape) == ((0, 4), (0,), (0,))
    assert made.side_sigma is not None
    assert made.side_sigma.shape == (0, 4)
    assert (made.boxes.dtype, made.scores.dtype, made.labels.dtype) == (np.float32, np.float32, np.int64)
    assert list(made.records()) == []


@pytest.mark.parametrize("most", [-1, 10.5, 10.0, float("nan"), float("inf"), 2**63])
def test_a_number_of_boxes_is_whole_and_fits_the_graph(most: Any) -> None:
    with pytest.raises(UsageError, match=r"max_boxes .*: must be an integer from 0 to 2\^63 - 1"):
        Thresholds(max_boxes=most)
    assert Thresholds(max_boxes=2**63 - 1).max_boxes == 2**63 - 1 and Thresholds(max_boxes=np.int32(0)).max_boxes == 0
