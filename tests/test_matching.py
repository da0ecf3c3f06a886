"""nanogfl.evaluation.matching and errors: kinds by hand, laws, and pycocotools' own AP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import ArrayLike

from nanogfl.data.table import Example, Table
from nanogfl.detections import Detections
from nanogfl.evaluation import mistakes
from nanogfl.evaluation.coco import score
from nanogfl.evaluation.matching import (
    BACKGROUND,
    BOTH,
    CLASS,
    CORRECT,
    DUPLICATE,
    IGNORED,
    KINDS,
    LOCALIZATION,
    crowd_cover,
    match,
    pool,
)
from nanogfl.evaluation.suspects import MISNAMED, UNFOUND, UNLABELLED, suspects

NAMES = ("cat", "dog")
A, B = [0, 0, 100, 100], [200, 0, 300, 100]
HALF_A = [0, 0, 100, 40]  # IoU 0.4 with A
BEYOND_A = [0, 0, 100, 90]  # IoU 0.9
NOWHERE = [400, 400, 500, 500]


def example(boxes: ArrayLike, labels: ArrayLike, crowd: ArrayLike | None = None, name: str = "a.jpg") -> Example:
    corners = np.asarray(boxes, np.float64).reshape(-1, 4)
    return Example(
        Path(name), name, 640, 640, corners, np.asarray(labels, np.int64),
        np.zeros(len(corners), bool) if crowd is None else np.asarray(crowd, bool),
        (corners[:, 2:] - corners[:, :2]).prod(1),
    )  # fmt: skip


def found(boxes: ArrayLike, labels: Sequence[int], scores: Sequence[float] | None = None) -> Detections:
    corners = np.asarray(boxes, np.float32).reshape(-1, 4)
    given = np.linspace(0.9, 0.5, len(corners)) if scores is None else np.asarray(scores)
    return Detections(corners, given.astype(np.float32), np.asarray(labels, np.int64), list(NAMES))


def table(*examples: Example) -> Table:
    return Table(Path(), "coco", NAMES, examples)


def random_set(pictures: int, seed: int) -> tuple[Table, list[Detections]]:
    """Crowds, ties of score, boxes near labels of the right and of the wrong class, and far from all."""
    rng = np.random.default_rng(seed)
    examples, detections = [], []
    for i in range(pictures):
        count = int(rng.integers(0, 9))
        corner = rng.uniform(0, 300, (count, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(20, 150, (count, 2))], axis=1)
        examples.append(example(boxes, rng.integers(0, 2, count), rng.random(count) < 0.2, f"{i}.jpg"))
        anywhere = rng.uniform([0, 0, 300, 300], [200, 200, 500, 500], (30, 4))
        near = boxes[rng.integers(0, count, 30)] if count else anywhere
        shaken = np.sort((near + rng.normal(0, 12, (30, 4))).reshape(30, 2, 2), axis=1).reshape(30, 4)
        scores = np.sort(rng.random(30).round(2))[::-1]
        detections.append(found(shaken, rng.integers(0, 2, 30).tolist(), scores.tolist()))
    return table(*examples), detections


@pytest.mark.parametrize(
    ("box", "label", "kind", "why"),
    [
        (A, 0, CORRECT, "its own box"),
        (A, 1, CLASS, "the other class, same place"),
        (HALF_A, 0, LOCALIZATION, "its class, IoU 0.4"),
        (HALF_A, 1, BOTH, "the other class, IoU 0.4"),
        (NOWHERE, 0, BACKGROUND, "nothing there"),
        ([0, 0, 100, 50], 0, CORRECT, "IoU of exactly 0.5 is a match"),
        ([0, 0, 100, 50], 1, CLASS, "and of the other class, of its place"),
        ([0, 0, 100, 25], 0, LOCALIZATION, "IoU 0.25"),
        ([0, 0, 100, 25], 1, BOTH, "the same of the other class"),
        ([0, 0, 100, 9.9], 0, BACKGROUND, "IoU below 0.1 has nothing to do with the label"),
        ([0, 0, 0, 0], 0, BACKGROUND, "a box of no area"),
    ],
)
def test_one_detection_is_named_by_what_it_overlaps(box: list[float], label: int, kind: int, why: str) -> None:
    matched = match(example([A], [0]), found([box], [label]))
    assert matched.kinds.tolist() == [kind], why
    assert matched.truths.tolist() == [-1 if kind == BACKGROUND else 0]
    assert matched.found_by.tolist() == [0 if kind == CORRECT else -1]


def test_the_second_on_a_found_label_is_a_duplicate_and_the_better_score_finds_it() -> None:
    matched = match(example([A], [0]), found([BEYOND_A, A], [0, 0]))
    assert matched.kinds.tolist() == [CORRECT, DUPLICATE]
    assert matched.found_by.tolist() == [0]


@pytest.mark.parametrize(
    ("box", "kinds", "why"),
    [(BEYOND_A, [CORRECT, DUPLICATE], "one label too many"), (HALF_A, [CORRECT, LOCALIZATION], "its own class")],
)
def test_the_own_class_counts_before_the_other(box: list[float], kinds: list[int], why: str) -> None:
    matched = match(example([A, A], [0, 1]), found([A, box], [0, 0]))
    assert (matched.kinds.tolist(), matched.truths.tolist()) == (kinds, [0, 0]), why


def test_of_labels_that_overlap_alike_the_last_is_taken() -> None:
    """As pycocotools takes it; the first is left for a worse detection."""
    labels = [[0, 0, 100, 120], [0, 0, 120, 100]]
    matched = match(example(labels, [0, 0]), found([A, [0, 0, 100, 160]], [0, 0]))
    assert (matched.truths.tolist(), matched.found_by.tolist()) == ([1, 0], [1, 0])


def test_a_box_that_is_half_in_a_crowd_is_ignored() -> None:
    crowd = example([A], [0], [True])
    inside = match(crowd, found([[50, 0, 150, 100], [51, 0, 151, 100]], [0, 0]))
    assert inside.kinds.tolist() == [IGNORED, BACKGROUND]


def test_crowds_take_any_number_and_are_never_missed() -> None:
    crowd = example([A], [0], [True])
    matched = match(crowd, found([A, HALF_A, NOWHERE, A], [0, 0, 0, 1]))
    assert matched.kinds.tolist() == [IGNORED, IGNORED, BACKGROUND, BACKGROUND]
    data = pool(table(crowd), [found([A], [0])])
    assert len(data.truth_labels) == 0
    assert crowd_cover(crowd, np.array([HALF_A, [50, 0, 150, 100]], float)).tolist() == [[1.0], [0.5]]


@pytest.mark.parametrize("seed", range(4))
def test_lower_scores_change_nothing_above_them(seed: int) -> None:
    data, detections = random_set(1, seed)
    whole = match(data.examples[0], detections[0])
    for count in (0, 1, 7, 20):
        part = match(data.examples[0], detections[0].select(np.arange(count)))
        assert part.kinds.tolist() == whole.kinds[:count].tolist()


@pytest.mark.parametrize("seed", range(3))
def test_ap_of_the_pool_is_pycocotools(seed: int) -> None:
    data, detections = random_set(12, seed)
    scores = score(data, detections)
    for iou, key in ((0.5, "AP50"), (0.75, "AP75")):
        pooled = pool(data, detections, iou)
        counted = pooled.kinds != IGNORED
        hits = pooled.kinds[counted] == CORRECT
        ap = mistakes.average_precision(pooled.labels[counted], pooled.scores[counted], hits, pooled.counts())
        assert ap == pytest.approx(scores.numbers[key], abs=1e-12)
    curves = mistakes.class_curves(pool(data, detections))
    for label, curve in curves.items():
        assert curve.at_recalls().mean() == pytest.approx(scores.per_class[NAMES[label]].AP50, abs=1e-12)


def test_threshold_is_where_f1_is_best() -> None:
    data = table(example([A, B], [0, 0]))
    curve = mistakes.total_curve(pool(data, [found([A, NOWHERE, B, NOWHERE], [0] * 4, [0.9, 0.8, 0.7, 0.6])]))
    assert curve.precision == pytest.approx([1, 1 / 2, 2 / 3, 1 / 2])
    assert curve.recall == pytest.approx([0.5, 0.5, 1, 1])
    assert curve.best_score == pytest.approx(0.7)
    assert curve.f1.max() == pytest.approx(0.8)


def test_where_nothing_is_right_f1_is_none() -> None:
    curve = mistakes.total_curve(pool(table(example([A], [0])), [found([NOWHERE, A], [0, 0])]))
    assert curve.f1.tolist() == pytest.approx([0, 2 / 3])
    assert curve.best_score == pytest.approx(0.5)


def test_what_errors_cost() -> None:
    data = table(example([A, B], [0, 0]), example([A], [1], name="b.jpg"))
    detections = [found([NOWHERE, A], [0, 0], [0.9, 0.8]), found([A, HALF_A], [0, 1], [0.7, 0.6])]
    kinds = mistakes.error_kinds(pool(data, detections), 0.5)
    counts = {name: kind.count for name, kind in kinds.items()}
    assert counts == {
        "duplicate": 0, "class": 1, "localization": 1, "class and localization": 0, "background": 1, "missed": 2,
    }  # fmt: skip
    before = score(data, detections).numbers["AP50"]
    assert before is not None
    # without the false box the cats are found at precision 1 up to recall 0.5
    assert kinds["background"].gain == pytest.approx((51 / 101 * 1) / 2 - before)
    # the dog that was drawn too low would be found: AP 1 of dogs
    assert kinds["localization"].gain == pytest.approx((1 + 51 / 101 / 2) / 2 - before)
    assert kinds["duplicate"].gain == 0
    assert all(kind.gain >= 0 for kind in kinds.values())


@pytest.mark.parametrize("seed", range(3))
def test_gains_are_pycocotools_where_errors_are_put_right(seed: int) -> None:
    """Boxes and names are mended, or detections and labels taken away, and all is scored again."""
    data, detections = random_set(12, seed)
    pooled = pool(data, detections)
    before = score(data, detections).numbers["AP50"]
    assert before is not None
    gains = {name: before + kind.gain for name, kind in mistakes.error_kinds(pooled, 0.5).items()}
    for kind, name in KINDS.items():
        right = [(d.boxes.copy(), d.labels.copy(), np.ones(len(d), bool)) for d in detections]
        mended = set()
        for n in np.flatnonzero(pooled.kinds == kind):
            (boxes, labels, keep), row, truth = right[pooled.pictures[n]], pooled.rows[n], int(pooled.truths[n])
            if kind in (CLASS, LOCALIZATION) and pooled.found_by[truth] < 0 and truth not in mended:
                mended.add(truth)
                own, at = data.examples[pooled.pictures[n]], pooled.truth_rows[truth]
                boxes[row], labels[row] = own.boxes[at], own.labels[at]
            else:
                keep[row] = False
        made = [replace(d, boxes=b, labels=c).select(k) for d, (b, c, k) in zip(detections, right, strict=True)]
        assert score(data, made).numbers["AP50"] == pytest.approx(gains[name], abs=1e-9), name
        assert bool(mended) == (kind in (CLASS, LOCALIZATION))
    known = pooled.truths[np.isin(pooled.kinds, (CORRECT, CLASS, LOCALIZATION))]
    seen = [e.crowd.copy() for e in data.examples]
    for truth in known:
        seen[pooled.truth_pictures[truth]][pooled.truth_rows[truth]] = True
    fewer = table(*(e.keeping(rows) for e, rows in zip(data.examples, seen, strict=True)))
    assert score(fewer, detections).numbers["AP50"] == pytest.approx(gains["missed"], abs=1e-9)
    assert sum(map(np.count_nonzero, seen)) < sum(map(len, seen))


def test_what_lies_in_a_crowd_does_not_move_the_threshold() -> None:
    data = table(example([A, B], [0, 0], [False, True]))
    curve = mistakes.total_curve(pool(data, [found([B, A], [0, 0])]))
    assert (curve.precision.tolist(), curve.recall.tolist()) == ([1], [1])


@pytest.mark.parametrize("seed", range(3))
def test_laws_of_counts(seed: int) -> None:
    data, detections = random_set(10, seed)
    pooled = pool(data, detections)
    for threshold in (0.0, 0.4, 0.95, 2.0, float(pooled.scores[pooled.kinds == CORRECT][3])):
        matrix = mistakes.confusion(pooled, threshold)
        labels = matrix[:-1].sum(axis=1)
        assert labels.tolist() == pooled.counts().tolist()  # every label stands once
        shown = (pooled.scores >= threshold) & (pooled.kinds != IGNORED)
        assert matrix[:, :-1].sum() == shown.sum()  # and so does every detection
        seen = mistakes.by_picture(pooled, len(data), threshold)
        kinds = mistakes.error_kinds(pooled, threshold)
        assert seen.hits.sum() == np.trace(matrix[:-1, :-1])
        assert seen.missed.sum() == kinds["missed"].count == len(pooled.truth_labels) - seen.hits.sum()
        assert seen.wrong.sum() == sum(kind.count for name, kind in kinds.items() if name != "missed")
        assert ((seen.f1 >= 0) & (seen.f1 <= 1)).all()


def test_suspects_are_found_and_nothing_else() -> None:
    data = table(
        example([A, B], [0, 0]),
        example([A, B, [300, 300, 600, 600]], [0, 1, 1], [False, False, True], "b.jpg"),
        example([], [], name="c.jpg"),
    )
    detections = [
        found([A, NOWHERE], [0, 1], [0.9, 0.8]),
        found([BEYOND_A, [310, 310, 500, 500]], [1, 0], [0.7, 0.6]),
        found([NOWHERE], [0], [0.2]),
    ]
    listed = suspects(data, detections, pool(data, detections), 0.5)
    assert [(s.kind, s.picture, s.labelled, s.found) for s in listed] == [
        (UNLABELLED, 0, None, "dog"),  # the one in the crowd region and the one below the threshold are not
        (MISNAMED, 1, "cat", "dog"),
        (UNFOUND, 0, "cat", None),
        (UNFOUND, 1, "dog", None),
    ]
    record = listed[0].to_json(data)
    assert record == {
        "kind": UNLABELLED, "file": "a.jpg", "box": NOWHERE, "labelled": None, "found": "dog", "score": 0.8
    }  # fmt: skip


def test_a_label_found_as_its_class_is_not_misnamed() -> None:
    data = table(example([A], [0]))
    detections = [found([A, BEYOND_A], [0, 1], [0.6, 0.9])]
    detections = [detections[0].select(np.array([1, 0]))]
    assert suspects(data, detections, pool(data, detections), 0.5) == []


def test_nothing_at_all() -> None:
    data, nothing = table(example([], [])), [found(np.zeros((0, 4)), [])]
    pooled = pool(data, nothing)
    assert mistakes.total_curve(pooled).best_score == 1.0
    assert mistakes.class_curves(pooled) == {}
    assert mistakes.confusion(pooled, 0.5).tolist() == np.zeros((3, 3)).tolist()
    assert mistakes.by_picture(pooled, 1, 0.5).f1.tolist() == [1.0]
    assert suspects(data, nothing, pooled, 0.5) == []
    empty = pool(replace(data, examples=()), [])
    assert empty.counts().tolist() == [0, 0]
    assert all(kind.count == 0 for kind in mistakes.error_kinds(pooled, 0.5).values())
