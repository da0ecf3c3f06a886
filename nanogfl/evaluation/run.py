"""Evaluate any predictor on any set: pictures in, twelve numbers out."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from nanogfl.data.outputs import spare_the_set
from nanogfl.data.readers import read_table
from nanogfl.data.splits import evaluation_split, select
from nanogfl.data.table import Example, Table
from nanogfl.decode import Thresholds
from nanogfl.detections import Detections
from nanogfl.errors import DataError
from nanogfl.evaluation.coco import Scores, score
from nanogfl.pictures import Picture, read_picture
from nanogfl.predictor import Predictor, TorchDetector, load
from nanogfl.wholefile import write_json

log = logging.getLogger(__name__)
EVALUATION = Thresholds(score=0.05, iou=0.6, max_boxes=100)  # NanoDet's own


def evaluate(
    model: str | Path | Predictor,
    data: str | Path | Table,
    *,
    split: str | None = None,
    input: str | int | tuple[int, int] | None = None,  # noqa: A002  (the option's name everywhere)
    config: str | Path | None = None,
    score_threshold: float = EVALUATION.score,
    json_file: str | Path | None = None,
    report: str | Path | None = None,
) -> Scores:
    """Pycocotools' twelve numbers and AP a class.

    Args:
        model: checkpoint, ONNX file, published name, or what ``nanogfl.load`` returned.
        data: a COCO, VOC or YOLO set.
        split: train, val, test or all; None: test where the set has one, else val, else everything.
        input: another input size, for checkpoints.
        config: a NanoDet ``.yml``.
        score_threshold: candidates above this score.
        json_file: where to write the numbers.
        report: folder for a page on errors, uncertainty and suspected labels (nanogfl.evaluation.report).

    Raises:
        DataError: nothing to evaluate, or no class in common.
        UsageError: the numbers would be written over a file of the set, or be read as its annotations.
    """
    limits = Thresholds(score_threshold, EVALUATION.iou, EVALUATION.max_boxes)
    table = data if isinstance(data, Table) else read_table(data)
    spare_the_set(table, data, json_file)
    split = split or evaluation_split(table)
    table = select(table, split)
    predictor = load(model, input=input, config=config) if isinstance(model, str | Path) else model
    table = in_model_order(table, predictor.names)
    if report:
        Path(report).mkdir(parents=True, exist_ok=True)  # said before the work, not after it
    log.info("evaluating on %d pictures (%s)", len(table), split)
    detections = list(predict_all(predictor, table.examples, limits))
    scores = score(table, detections)
    if json_file:
        write_json(Path(json_file), scores.to_json())
    if report:
        from nanogfl.evaluation.report import write_report  # matplotlib takes a second to load
        from nanogfl.evaluation.study import Study

        title = (
            f"{predictor.describe()['file']} on {table.root}, {split}, input {'x'.join(map(str, predictor.input_size))}"
        )
        write_report(Path(report), Study(title, table, detections, scores))
    return scores


def in_model_order(table: Table, names: Sequence[str]) -> Table:
    """The table in the model's class order; classes are matched by name."""
    common = [name for name in table.names if name in names]
    if not common:
        raise DataError(
            f"no class in common: {table.root} has {', '.join(table.names[:8])}; the model has {', '.join(names[:8])}; "
            "evaluate on a set with the model's classes"
        )
    unknown = [name for name in table.names if name not in names]
    if unknown:
        log.warning(
            "%d classes of the set are unknown to the model and left out: %s", len(unknown), ", ".join(unknown[:8])
        )
    return table.with_names(names)


def predict_all(predictor: Predictor, examples: Sequence[Example], limits: Thresholds) -> Iterator[Detections]:
    """Detections of each picture, in order; the next pictures are read while the network works."""
    batch = 8 if isinstance(predictor, TorchDetector) else 1
    with (
        ThreadPoolExecutor(1) as reader,
        tqdm(total=len(examples), unit="img", disable=not sys.stderr.isatty()) as bar,
    ):
        pending = [
            reader.submit(_read, examples[i : i + batch]) for i in range(0, min(3 * batch, len(examples)), batch)
        ]
        for start in range(0, len(examples), batch):
            pictures = pending.pop(0).result()
            ahead = start + 3 * batch
            if ahead < len(examples):
                pending.append(reader.submit(_read, examples[ahead : ahead + batch]))
            if isinstance(predictor, TorchDetector):
                yield from predictor.predict_batch(pictures, limits)
            else:
                for picture in pictures:
                    yield predictor.predict(picture, limits.score, iou=limits.iou, max_boxes=limits.max_boxes)
            bar.update(len(pictures))


def _read(examples: Sequence[Example]) -> list[Picture]:
    return [read_picture(example.path) for example in examples]
