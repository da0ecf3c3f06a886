"""nanogfl.evaluation.coco: pycocotools' numbers, by hand values, laws, and pycocotools itself."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import nanogfl
from nanogfl.data.table import Example, Table
from nanogfl.detections import Detections
from nanogfl.errors import ModelError
from nanogfl.evaluation.coco import MEANINGS, ClassScore, Scores, score

TWELVE = ["AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L", "AR1", "AR10", "AR100", "AR_S", "AR_M", "AR_L"]
A, B = [0, 0, 100, 100], [200, 0, 300, 100]  # two large boxes far apart
NOWHERE = [400, 400, 500, 500]


def example(
    boxes: ArrayLike,
    labels: ArrayLike | None = None,
    crowd: ArrayLike | None = None,
    areas: ArrayLike | None = None,
    name: str = "a.jpg",
) -> Example:
    corners = np.asarray(boxes, np.float64).reshape(-1, 4)
    return Example(
        path=Path(name),
        name=name,
        width=640,
        height=640,
        boxes=corners,
        labels=np.asarray([0] * len(corners) if labels is None else labels, np.int64),
        crowd=np.asarray([False] * len(corners) if crowd is None else crowd, bool),
        areas=(corners[:, 2:] - corners[:, :2]).prod(1) if areas is None else np.asarray(areas, np.float64),
    )


def table(*examples: Example, names: Sequence[str] = ("thing",)) -> Table:
    return Table(Path(), "coco", tuple(names), examples)


def found(
    boxes: ArrayLike,
    scores: ArrayLike | None = None,
    labels: Sequence[int] | None = None,
    names: Sequence[str] = ("thing",),
) -> Detections:
    corners = np.asarray(boxes, np.float32).reshape(-1, 4)
    given = np.linspace(0.9, 0.1, len(corners)) if scores is None else np.asarray(scores)
    classes = np.asarray([0] * len(corners) if labels is None else labels, np.int64)
    return Detections(corners, given.astype(np.float32), classes, list(names))


def random_set(pictures: int, seed: int) -> tuple[Table, list[Detections]]:
    """Crowds, ties in the scores, a class without boxes, one that is never found, 150 detections of one class."""
    rng = np.random.default_rng(seed)
    names = ("cat", "dog", "never", "absent", "cow")
    examples, detections = [], []
    for i in range(pictures):
        count = int(rng.integers(0, 12))
        corner, side = rng.uniform(0, 400, (count, 2)), rng.uniform(8, 200, (count, 2))
        boxes = np.concatenate([corner, corner + side], axis=1)
        labels = rng.choice([0, 1, 2, 4], count)
        areas = side.prod(1) * rng.uniform(0.4, 1, count)
        examples.append(example(boxes, labels, rng.random(count) < 0.15, areas, name=f"{i}.jpg"))
        source = rng.integers(0, count, 150) if count else np.zeros(150, int)
        near = boxes[source] if count else rng.uniform([0, 0, 300, 300], [200, 200, 500, 500], (150, 4))
        guessed = np.where(rng.random(150) < 0.8, labels[source] if count else 0, rng.choice([0, 1, 3, 4], 150))
        guessed = np.full(150, 1) if i == 0 else np.where(guessed == 2, 0, guessed)
        ordered = np.sort(rng.random(150).round(2))[::-1]
        detections.append(found(near + rng.normal(0, 6, (150, 4)), ordered, guessed.tolist(), names))
    return table(*examples, names=names), detections


def as_coco(boxes: NDArray[Any]) -> list[list[float]]:
    corners = boxes.astype(np.float64)
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).tolist()


def by_hand(folder: Path, data: Table, detections: Sequence[Detections]) -> COCOeval:
    """pycocotools on files, with ids that are neither small nor without gaps."""
    annotations, results = [], []
    for i, (truth, given) in enumerate(zip(data.examples, detections, strict=True)):
        image = 1000 + 7 * i
        columns = (as_coco(truth.boxes), truth.labels.tolist(), truth.areas.tolist(), truth.crowd.tolist())
        for box, label, area, crowd in zip(*columns, strict=True):
            record = {"image_id": image, "category_id": 90 + 3 * label, "bbox": box, "area": area}
            annotations.append({**record, "iscrowd": int(crowd), "id": 5000 - len(annotations)})
        for box, label, value in zip(as_coco(given.boxes), given.labels.tolist(), given.scores.tolist(), strict=True):
            results.append({"image_id": image, "category_id": 90 + 3 * label, "bbox": box, "score": value})
    truths = {
        "images": [{"id": 1000 + 7 * i} for i in range(len(data))],
        "categories": [{"id": 90 + 3 * k, "name": name} for k, name in enumerate(data.names)],
        "annotations": annotations,
    }
    (folder / "truths.json").write_text(json.dumps(truths))
    (folder / "results.json").write_text(json.dumps(results))
    truth = COCO(str(folder / "truths.json"))
    evaluator = COCOeval(truth, truth.loadRes(str(folder / "results.json")), "bbox")
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    return evaluator


def test_nanodets_own_detections_reach_their_published_numbers(shared: Path) -> None:
    truths = json.loads((shared / "data" / "coco_val" / "instances.json").read_text())
    categories = sorted(truths["categories"], key=lambda c: c["id"])
    names, label = [c["name"] for c in categories], {c["id"]: k for k, c in enumerate(categories)}
    boxes, results = defaultdict(list), defaultdict(list)
    for record in truths["annotations"]:
        boxes[record["image_id"]].append(record)
    for record in json.loads((shared / "reference" / "coco_eval" / "detections.json").read_text()):
        results[record["image_id"]].append(record)

    def corners(records: list[dict[str, Any]]) -> NDArray[np.float64]:
        box = np.array([r["bbox"] for r in records], np.float64).reshape(-1, 4)
        return np.concatenate([box[:, :2], box[:, :2] + box[:, 2:]], axis=1)

    examples, detections = [], []
    for picture in truths["images"]:
        real, given = boxes[picture["id"]], sorted(results[picture["id"]], key=lambda r: -r["score"])
        labels = [label[r["category_id"]] for r in real]
        crowd, areas = [bool(r["iscrowd"]) for r in real], [r["area"] for r in real]
        examples.append(example(corners(real), labels, crowd, areas, picture["file_name"]))
        guessed = [label[r["category_id"]] for r in given]
        detections.append(found(corners(given), [r["score"] for r in given], guessed, names))

    scores = score(table(*examples, names=names), detections)

    expected = [0.3455, 0.5106, 0.3618, 0.1400, 0.3563, 0.5826, 0.3222, 0.4728, 0.4932, 0.1919, 0.5113, 0.7413]
    assert {key: round(value or 0, 4) for key, value in scores.numbers.items()} == dict(
        zip(TWELVE, expected, strict=True)
    )
    assert scores.images == 252
    assert sum(c.boxes for c in scores.per_class.values()) == 1868 - 18  # all annotations but the crowds
    per_class = [c.AP for c in scores.per_class.values() if c.AP is not None]
    assert np.mean(per_class) == pytest.approx(scores.numbers["AP"], abs=1e-12)


@pytest.mark.parametrize("seed", [1, 2])
def test_equals_pycocotools_run_by_hand(tmp_path: Path, seed: int) -> None:
    data, detections = random_set(pictures=15, seed=seed)
    scores, truth = score(data, detections), by_hand(tmp_path, data, detections)
    assert [scores.numbers[key] for key in TWELVE] == pytest.approx(truth.stats.tolist(), abs=1e-12)
    precision = truth.eval["precision"][:, :, :, 0, -1]
    for k, name in enumerate(data.names):
        ours, theirs = scores.per_class[name], precision[:, :, k]
        if name == "absent":
            assert ours == ClassScore(None, None, 0)
            assert (theirs == -1).all()
        else:
            expected = ClassScore(theirs.mean(), theirs[0].mean(), ours.boxes)
            assert astuple(ours) == pytest.approx(astuple(expected), abs=1e-12)
    assert scores.per_class["never"].AP == 0
    assert 0.05 < (scores.numbers["AP"] or 0) < 0.95  # neither trivial end


@pytest.mark.parametrize(
    ("boxes", "ap", "ap50", "ap75", "why"),
    [
        ([A, B], 1, 1, 1, "both found"),
        (
            [A, NOWHERE, B],
            (51 + 50 * 2 / 3) / 101,
            (51 + 50 * 2 / 3) / 101,
            (51 + 50 * 2 / 3) / 101,
            "miss between",
        ),
        ([NOWHERE, A, B], 2 / 3, 2 / 3, 2 / 3, "a miss first lowers every recall"),
        ([A, B, NOWHERE], 1, 1, 1, "a miss last costs nothing"),
        ([A], 51 / 101, 51 / 101, 51 / 101, "half the boxes: recalls 0 to .50 of 101"),
        (
            [A, A, B],
            (51 + 50 * 2 / 3) / 101,
            (51 + 50 * 2 / 3) / 101,
            (51 + 50 * 2 / 3) / 101,
            "a double is a miss",
        ),
        ([[0, 0, 100, 72], [200, 0, 300, 72]], 0.5, 1, 0, "IoU .72 passes 5 of the 10 thresholds"),
        ([NOWHERE], 0, 0, 0, "nothing hit"),
    ],
)
def test_hand_values_of_one_picture_with_two_boxes(
    boxes: list[list[int]], ap: float, ap50: float, ap75: float, why: str
) -> None:
    numbers = score(table(example([A, B])), [found(boxes)]).numbers
    assert [numbers["AP"], numbers["AP50"], numbers["AP75"]] == pytest.approx([ap, ap50, ap75], abs=1e-9), why


def test_recall_is_counted_for_1_10_and_100_detections() -> None:
    boxes = np.array([[20 * i, 0, 20 * i + 10, 10] for i in range(20)])
    numbers = score(table(example(boxes)), [found(boxes)]).numbers
    assert [numbers["AR1"], numbers["AR10"], numbers["AR100"]] == pytest.approx([1 / 20, 10 / 20, 1])


def test_perfect_detections_reach_one_everywhere() -> None:
    data, _ = random_set(pictures=10, seed=3)
    perfect = [
        found(e.boxes[~e.crowd], np.ones((~e.crowd).sum()), e.labels[~e.crowd].tolist(), data.names)
        for e in data.examples
    ]
    scores = score(data, perfect)
    assert {key: scores.numbers[key] for key in ("AP", "AP50", "AP75", "AR100")} == pytest.approx(
        dict.fromkeys(("AP", "AP50", "AP75", "AR100"), 1.0)
    )
    assert [name for name, c in scores.per_class.items() if c.AP is None] == ["absent"]


@pytest.mark.parametrize(
    ("extra", "is_crowd", "ap", "why"),
    [
        ([], True, 1, "a crowd that nobody finds is no miss"),
        ([[200, 0, 240, 40], [240, 40, 280, 80]], True, 1, "detections inside a crowd are no misses"),
        ([[200, 0, 240, 40], [240, 40, 280, 80]], False, 1 / 3 * 51 / 101, "without the crowd they are"),
    ],
)
def test_crowds_neither_help_nor_hurt(extra: list[list[int]], is_crowd: bool, ap: float, why: str) -> None:
    data = table(example([A, B], crowd=[False, is_crowd]))
    scores = score(data, [found([*extra, A])])
    assert scores.numbers["AP"] == pytest.approx(ap, abs=1e-9), why
    assert scores.per_class["thing"].boxes == (1 if is_crowd else 2)


def test_a_class_without_boxes_is_none_and_enters_no_mean() -> None:
    names = ("cat", "ghost", "crowd only")
    data = table(example([A, B], labels=[0, 2], crowd=[False, True]), names=names)
    scores = score(data, [found([NOWHERE, A, B], labels=[1, 0, 2], names=names)])
    assert scores.numbers["AP"] == scores.per_class["cat"].AP == pytest.approx(1)
    assert scores.per_class["ghost"] == scores.per_class["crowd only"] == ClassScore(None, None, 0)


def test_the_mean_is_over_classes_not_over_boxes() -> None:
    names = ("many", "one")
    boxes = [[100 * i, 0, 100 * i + 90, 90] for i in range(5)]
    data = table(example([*boxes, NOWHERE], labels=[0] * 5 + [1]), names=names)
    scores = score(data, [found(boxes, names=names)])
    assert astuple(scores.per_class["many"]) == pytest.approx((1, 1, 5))
    assert astuple(scores.per_class["one"]) == (0, 0, 1)
    assert scores.numbers["AP"] == pytest.approx(0.5)


def test_the_annotated_area_decides_the_size() -> None:
    data = table(example([[0, 0, 50, 50]], areas=[900]))  # a mask of 900 px² in a box of 2500
    numbers = score(data, [found([[0, 0, 50, 50]])]).numbers
    assert [numbers["AP_S"], numbers["AR_S"]] == pytest.approx([1, 1])
    assert [numbers[key] for key in ("AP_M", "AP_L", "AR_M", "AR_L")] == [None] * 4


def test_only_the_order_of_the_scores_counts() -> None:
    data, detections = random_set(pictures=8, seed=4)
    squeezed = [replace(d, scores=(d.scores / 4 + 0.5).astype(np.float32)) for d in detections]
    reversed_ = [replace(d, scores=1 - d.scores) for d in detections]
    assert score(data, squeezed) == score(data, detections)
    assert score(data, reversed_) != score(data, detections)


@pytest.mark.parametrize(("ids", "expected"), [((10, 2), 0.5), ((2, 10), 1.0), (("10", "2"), 1.0)])
def test_of_equal_scores_the_picture_of_the_lower_id_counts_first(ids: tuple[Any, Any], expected: float) -> None:
    """As pycocotools sorts them, wherever a json lists its pictures."""
    first, second = (replace(example(boxes), source_id=key) for boxes, key in zip(([A], []), ids, strict=True))
    data, detections = table(first, second), [found([A], [0.5]), found([B], [0.5])]
    assert score(data, detections).numbers["AP50"] == pytest.approx(expected)


def test_the_order_of_pictures_and_annotations_does_not_matter() -> None:
    data, detections = random_set(pictures=8, seed=5)
    rng = np.random.default_rng(0)
    distinct = rng.permutation(8 * 150).reshape(8, 150) / 1200  # ties are broken by the order of the pictures
    detections = [replace(d, scores=s.astype(np.float32)) for d, s in zip(detections, distinct, strict=True)]

    def shuffled(e: Example) -> Example:
        turn = rng.permutation(len(e.labels))
        return replace(e, boxes=e.boxes[turn], labels=e.labels[turn], crowd=e.crowd[turn], areas=e.areas[turn])

    turn = rng.permutation(8)
    other = replace(data, examples=tuple(shuffled(data.examples[i]) for i in turn))
    assert score(other, [detections[i] for i in turn]) == score(data, detections)


@pytest.mark.parametrize(
    ("data", "detections", "numbers", "why"),
    [
        (table(names=()), [], {}, "no classes, no pictures"),
        (table(), [], {}, "no pictures"),
        (table(example([])), [found([])], {}, "no boxes, no detections"),
        (table(example([])), [found([A])], {}, "detections, but no box anywhere"),
        (
            table(example([A])),
            [found([])],
            dict.fromkeys(["AP", "AP50", "AP75", "AP_L", "AR1", "AR10", "AR100", "AR_L"], 0.0),
            "a box, but no detections",
        ),
    ],
)
def test_nothing_to_find_is_none_and_nothing_found_is_zero(
    data: Table, detections: list[Detections], numbers: dict[str, float], why: str
) -> None:
    scores = score(data, detections)
    assert scores.numbers == {**dict.fromkeys(TWELVE), **numbers}, why
    assert scores.images == len(data)
    assert list(scores.per_class) == list(data.names)


def test_scoring_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    score(table(example([A])), [found([A])])
    assert capfd.readouterr() == ("", "")


def test_json_has_exactly_the_contracts_keys() -> None:
    names = ("cat", "dog")
    record = json.loads(json.dumps(score(table(example([A]), names=names), [found([A], names=names)]).to_json()))
    assert list(record) == ["images", *TWELVE, "per_class"]
    assert record["images"] == 1
    assert [record["AP"], record["AP_L"], record["AR1"]] == pytest.approx([1, 1, 1])
    assert record["AP_S"] is record["AR_M"] is None
    assert list(record["per_class"]) == ["cat", "dog"]
    assert record["per_class"]["cat"] == pytest.approx({"AP": 1.0, "AP50": 1.0, "boxes": 1})
    assert record["per_class"]["dog"] == {"AP": None, "AP50": None, "boxes": 0}


def test_table_is_aligned_and_stops_after_thirty_classes() -> None:
    per_class = {"dog": ClassScore(0.5, 0.75, 12), "polar bear": ClassScore(None, None, 0)}
    per_class |= {f"c{i}": ClassScore(1.0, 1.0, 1) for i in range(30)}
    lines = Scores(5, {**dict.fromkeys(MEANINGS, 0.25), "AP_S": None}, per_class).to_table().splitlines()
    assert lines[0] == "5 pictures"
    assert lines[2] == "AP     0.250  precision, mean over IoU 0.50 to 0.95"
    assert lines[5] == "AP_S       -  AP of small boxes, up to 32 x 32 px"
    assert lines[15:18] == [
        "class     AP   AP50    boxes",
        "dog    0.500  0.750       12",
        "c0     1.000  1.000        1",
    ]
    assert lines[-3:] == ["c28    1.000  1.000        1", "... and 1 more class", "... and 1 class without boxes"]
    assert len(lines) == 2 + 12 + 2 + 30 + 2


@pytest.mark.parametrize(
    ("detections", "error", "words"),
    [
        ([], ValueError, "0 detections for 1 pictures"),
        ([found([A], names=("other",))], ValueError, r"a\.jpg.*class order"),
        ([found([[0, 0, np.nan, 9]])], ModelError, r"a\.jpg.*not finite"),
        ([found([A], scores=[np.nan])], ModelError, r"a\.jpg.*not finite"),
    ],
)
def test_what_cannot_be_scored_is_refused(detections: list[Detections], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        score(table(example([A])), detections)


PUBLISHED = [  # AP, AP50, AP75 of NanoDet's own code and weights
    ("nanodet-plus-m_416", 416, (0.3455, 0.5106, 0.3618)),
    ("nanodet-plus-m_416", 320, (0.3164, 0.4775, 0.3432)),
    ("nanodet-plus-m_320", 320, (0.3095, 0.4715, 0.3289)),
    ("nanodet-m_320", 320, (0.2578, None, None)),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "side", "expected"), PUBLISHED)
def test_published_weights_reach_what_nanodet_reaches(
    name: str, side: int, expected: tuple[float | None, ...], shared: Path, tmp_path: Path
) -> None:
    checkpoint = shared / "weights" / f"{name}.ckpt"
    onnx = tmp_path / "m.onnx"
    nanogfl.export(checkpoint, out=onnx, input=side)
    data = shared / "data" / "coco_val"
    for scores in (nanogfl.evaluate(checkpoint, data, input=side), nanogfl.evaluate(onnx, data)):
        for key, value in zip(("AP", "AP50", "AP75"), expected, strict=True):
            assert value is None or scores.numbers[key] == pytest.approx(value, abs=0.003)
