"""Average precision and recall of detections against a table: the twelve numbers of pycocotools, computed with it."""

from __future__ import annotations

import contextlib
import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from nanogfl.data.table import Example, Table
from nanogfl.detections import Detections
from nanogfl.errors import ModelError, counted

# In the order of pycocotools' `COCOeval.stats`.
MEANINGS = {
    "AP": "precision, mean over IoU 0.50 to 0.95",
    "AP50": "precision at IoU 0.50",
    "AP75": "precision at IoU 0.75",
    "AP_S": "AP of small boxes, up to 32 x 32 px",
    "AP_M": "AP of medium boxes",
    "AP_L": "AP of large boxes, from 96 x 96 px",
    "AR1": "recall with 1 detection per picture and class",
    "AR10": "recall with 10 detections per picture and class",
    "AR100": "recall with 100 detections per picture and class",
    "AR_S": "AR100 of small boxes",
    "AR_M": "AR100 of medium boxes",
    "AR_L": "AR100 of large boxes",
}
LISTED_CLASSES = 30

Record = dict[str, Any]
Records = defaultdict[int, list[Record]]  # COCO annotations by label


@dataclass(frozen=True)
class ClassScore:
    """The scores of one class: AP over all IoUs and at 0.50, None without boxes; number of its boxes except crowds."""

    AP: float | None
    AP50: float | None
    boxes: int


@dataclass(frozen=True)
class Scores:
    """The scores of a model on a set.

    Attributes:
        images: number of pictures scored.
        numbers: the twelve of MEANINGS, 0 to 1; None if the set has no such box.
        per_class: by class name, in the order of the table.
    """

    images: int
    numbers: dict[str, float | None]
    per_class: dict[str, ClassScore]

    def to_json(self) -> dict[str, Any]:
        """Return JSON-ready ``images``, the twelve numbers, and ``per_class: {name: {AP, AP50, boxes}}``."""
        classes = {name: asdict(score) for name, score in self.per_class.items()}
        return {"images": self.images, **self.numbers, "per_class": classes}

    @classmethod
    def from_json(cls, said: dict[str, Any]) -> Scores:
        """Restore scores from what :meth:`to_json` returned."""
        classes = {name: ClassScore(**score) for name, score in said["per_class"].items()}
        return cls(said["images"], {key: said[key] for key in MEANINGS}, classes)

    def to_table(self) -> str:
        """Return aligned plain text for a terminal: the twelve numbers, then the first 30 classes that have boxes."""
        lines = [counted(self.images, "picture"), ""]
        lines += [f"{key:<5}  {_decimals(self.numbers[key])}  {meaning}" for key, meaning in MEANINGS.items()]
        listed = [(name, score) for name, score in self.per_class.items() if score.boxes][:LISTED_CLASSES]
        if not listed:
            return "\n".join(lines)
        width = max(len("class"), *(len(name) for name, _ in listed))
        lines += ["", f"{'class':<{width}}  {'AP':>5}  {'AP50':>5}  {'boxes':>7}"]
        lines += [
            f"{name:<{width}}  {_decimals(score.AP)}  {_decimals(score.AP50)}  {score.boxes:>7}"
            for name, score in listed
        ]
        without = sum(not score.boxes for score in self.per_class.values())
        more = len(self.per_class) - len(listed) - without
        for count, noun, behind in ((more, "more class", ""), (without, "class", " without boxes")):
            if count:
                lines.append(f"... and {counted(count, noun)}{behind}")
        return "\n".join(lines)


def score(table: Table, detections: Sequence[Detections]) -> Scores:
    """Score one ``Detections`` per picture of the table, in the table's order of pictures and classes.

    Raises ModelError if the model's numbers are not finite, ValueError if the two lists do not match.
    """
    _check(table, detections)
    pictures = _numbers(table)
    truths, results = _truths(table, pictures), _results(detections, pictures)
    boxes = [sum(not record["iscrowd"] for record in truths[label]) for label in range(len(table.names))]
    # pycocotools leaves classes without boxes out of every mean, so they need no work.
    scored = [label for label, count in enumerate(boxes) if count]
    numbers, found = _evaluate([(truths[label], results[label]) for label in scored])
    precisions = dict(zip(scored, found, strict=True))
    return Scores(
        images=len(table),
        numbers=numbers,
        per_class={
            name: ClassScore(*precisions.get(label, (None, None)), boxes=boxes[label])
            for label, name in enumerate(table.names)
        },
    )


def _check(table: Table, detections: Sequence[Detections]) -> None:
    if len(detections) != len(table):
        raise ValueError(f"{len(detections)} detections for {len(table)} pictures: expected one for each")
    for example, found in zip(table.examples, detections, strict=True):
        if not len(found):
            continue
        if tuple(found.names) != table.names:
            raise ValueError(f"{example.name}: the table is not in the model's class order (Table.with_names)")
        # pycocotools counts a box of NaN as a perfect match: a diverged model would look like a good one.
        if not (np.isfinite(found.boxes).all() and np.isfinite(found.scores).all()):
            raise ModelError(f"{example.name}: the model returns boxes or scores that are not finite; re-train it")


def _numbers(table: Table) -> list[int]:
    """Number the pictures in the order of their ids, because pycocotools takes the lower id first on equal scores."""
    ids = [example.source_id for example in table.examples]
    order = sorted(range(len(ids)), key=lambda i: (isinstance(ids[i], str), ids[i], i))
    return [rank + 1 for rank in np.argsort(order).tolist()]


def _truths(table: Table, numbers: Sequence[int]) -> Records:
    records: Records = defaultdict(list)
    for image, example in zip(numbers, table.examples, strict=True):
        _add(records, image, example, areas=example.areas, crowd=example.crowd, scores=np.ones(len(example.labels)))
    return records


def _results(detections: Sequence[Detections], numbers: Sequence[int]) -> Records:
    records: Records = defaultdict(list)
    for image, found in zip(numbers, detections, strict=True):
        _add(records, image, found, areas=None, crowd=np.zeros(len(found), bool), scores=found.scores)
    return records


def _add(
    records: Records,
    image: int,
    source: Example | Detections,
    *,
    areas: NDArray[np.float64] | None,
    crowd: NDArray[np.bool_],
    scores: NDArray[np.floating],
) -> None:
    """Append one picture's boxes as COCO annotations to those of their class; areas are width x height if None."""
    corners = source.boxes.astype(np.float64).reshape(-1, 4)
    sides = corners[:, 2:] - corners[:, :2]
    columns = (
        np.concatenate([corners[:, :2], sides], axis=1).tolist(),
        (sides.prod(axis=1) if areas is None else areas).tolist(),
        crowd.astype(int).tolist(),
        scores.tolist(),
    )
    for label, box, area, is_crowd, value in zip(source.labels.tolist(), *columns, strict=True):
        of_class = records[label]
        of_class.append(
            {
                "id": len(of_class) + 1,  # pycocotools reads an id of 0 as "not matched"
                "image_id": image,
                "category_id": 1,
                "bbox": box,
                "area": area,
                "iscrowd": is_crowd,
                "score": value,
            }
        )


def _evaluate(
    classes: Sequence[tuple[list[Record], list[Record]]],
) -> tuple[dict[str, float | None], list[tuple[float | None, float | None]]]:
    """Return the twelve numbers, and (AP, AP50) of each class, from each class's truths and results.

    pycocotools matches within one class and one picture, so it is called once per class, with the pictures that contain
    this class. That gives the same arrays as one call, without visiting all pairs of class and picture, nearly all of
    them empty. Only this function and `_index` use pycocotools, so that another scorer can replace it.
    """
    if not classes:
        return dict.fromkeys(MEANINGS), []
    precisions, recalls = [], []
    with contextlib.redirect_stdout(io.StringIO()):
        for truths, results in classes:
            images = sorted({record["image_id"] for record in truths + results})
            evaluator = COCOeval(_index(truths, images), _index(results, images), "bbox")
            evaluator.evaluate()
            evaluator.accumulate()
            precisions.append(evaluator.eval["precision"])  # [IoU, recall, 1, area, detections]
            recalls.append(evaluator.eval["recall"])  # [IoU, 1, area, detections]
        evaluator = COCOeval(iouType="bbox")
        evaluator.eval["precision"] = np.concatenate(precisions, axis=2)
        evaluator.eval["recall"] = np.concatenate(recalls, axis=1)
        evaluator.summarize()
    stats = [None if value < 0 else float(value) for value in evaluator.stats]
    # First area range: all areas; last limit of detections: 100; first IoU: 0.50.
    per_class = [(_mean(p[..., 0, -1]), _mean(p[0, ..., 0, -1])) for p in precisions]
    return dict(zip(MEANINGS, stats, strict=True)), per_class


def _index(records: list[Record], images: list[int]) -> COCO:
    """Return pycocotools' own index of the annotations of one class."""
    dataset: Any = {
        "images": [{"id": image} for image in images],
        "categories": [{"id": 1}],
        "annotations": records,
    }
    coco = COCO()
    coco.dataset = dataset
    coco.createIndex()
    return coco


def _mean(precision: NDArray[np.float64]) -> float | None:
    """Return the mean of the values that exist; pycocotools marks the others by -1."""
    there = precision[precision > -1]
    return float(there.mean()) if there.size else None


def _decimals(value: float | None) -> str:
    return f"{'-':>5}" if value is None else f"{value:.3f}"
