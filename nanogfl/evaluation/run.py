"""Evaluation of any predictor on any set."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from nanogfl.atomic import write_json
from nanogfl.data.outputs import refuse_dataset_files, refuse_dataset_folder
from nanogfl.data.prefetch import map_ordered
from nanogfl.data.readers import read_table
from nanogfl.data.splits import evaluation_split, select
from nanogfl.data.table import Example, Table
from nanogfl.decode import Thresholds
from nanogfl.detections import Detections
from nanogfl.errors import DataError, counted
from nanogfl.evaluation.coco import Scores, score
from nanogfl.machine import cores
from nanogfl.pictures import Picture
from nanogfl.predictor import Predictor, TorchDetector, load
from nanogfl.runtime.outputs import check_outputs
from nanogfl.runtime.session import OnnxDetector
from nanogfl.view import View

log = logging.getLogger(__name__)
CPU_BATCH, GPU_BATCH = 8, 64
AHEAD = 8  # pictures read in advance
Raw = NDArray[np.float32]
EVALUATION = Thresholds(score=0.05, iou=0.6, max_boxes=100)  # as in NanoDet


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
    """Evaluate a model on a set; return pycocotools' twelve numbers and the AP of each class.

    Args:
        model: checkpoint, ONNX file, published name, or what ``nanogfl.load`` returned.
        data: a COCO, VOC or YOLO set.
        split: train, val, test or all; None: test if the set has one, else val, else everything.
        input: another input size, for checkpoints.
        config: a NanoDet ``.yml``.
        score_threshold: candidates must score above this.
        json_file: file to write the numbers to.
        report: folder for a page on errors, uncertainty and suspected labels (nanogfl.evaluation.report).

    Raises:
        DataError: there is nothing to evaluate, or no class in common.
        UsageError: an output would replace the model or a file of the set, would be read as annotations of the set, or
            cannot be written.
    """
    written = {"--json": Path(json_file) if json_file else None}
    written["--report"] = Path(report, "report.json") if report else None
    check_outputs([given for given in (model, data) if isinstance(given, str | Path)], written)
    limits = Thresholds(score_threshold, EVALUATION.iou, EVALUATION.max_boxes)
    table = data if isinstance(data, Table) else read_table(data)
    refuse_dataset_files(table, data, json_file)
    if report:
        refuse_dataset_folder(table, Path(report))
    split = split or evaluation_split(table)
    table = select(table, split)
    predictor = on_gpu(load(model, input=input, config=config)) if isinstance(model, str | Path) else model
    table = in_model_order(table, predictor.names)
    log.info("evaluating on %s (%s)", counted(len(table), "picture"), split)
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


def on_gpu(predictor: Predictor) -> Predictor:
    """Move the network of a checkpoint to the GPU, if there is one; return the predictor."""
    if isinstance(predictor, TorchDetector):
        import torch

        if torch.cuda.is_available():
            predictor.network.cuda()
    return predictor


def in_model_order(table: Table, names: Sequence[str]) -> Table:
    """Return the table in the model's class order; classes are matched by name."""
    common = [name for name in table.names if name in names]
    if not common:
        raise DataError(
            f"no class in common: {table.root} has {', '.join(table.names[:8]) or 'none'}; "
            f"the model has {', '.join(names[:8])}; "
            "evaluate on a dataset with the model's classes"
        )
    unknown = [name for name in table.names if name not in names]
    if unknown:
        log.warning(
            "%d classes of the dataset are unknown to the model and ignored: %s", len(unknown), ", ".join(unknown[:8])
        )
    return table.with_names(names)


def predict_all(predictor: Predictor, examples: Sequence[Example], limits: Thresholds) -> Iterator[Detections]:
    """Yield the detections of each picture, in order; the next pictures are read while the network works."""
    with (
        ThreadPoolExecutor(max(1, cores() // 2)) as pool,
        tqdm(total=len(examples), unit="img", disable=not sys.stderr.isatty()) as bar,
    ):
        pictures = map_ordered(pool, Example.picture, examples, AHEAD)  # lazy: not read by _in_batches
        if isinstance(predictor, TorchDetector):
            found = _in_batches(predictor, examples, limits, pool)
        elif isinstance(predictor, OnnxDetector):
            found = _by_file(predictor, pictures, limits)
        else:
            found = (predictor.predict(p, limits.score, iou=limits.iou, max_boxes=limits.max_boxes) for p in pictures)
        for one in found:
            yield one
            bar.update()


def _by_file(detector: OnnxDetector, pictures: Iterator[Picture], limits: Thresholds) -> Iterator[Detections]:
    """Yield the detections of an ONNX file, which takes as many pictures at once as its batch size."""
    while some := list(islice(pictures, detector.batch)):
        yield from detector.predict_batch(some, limits)


def _in_batches(
    detector: TorchDetector, examples: Sequence[Example], limits: Thresholds, pool: ThreadPoolExecutor
) -> Iterator[Detections]:
    """Return an iterator over a checkpoint's detections; threads read and decode while the network works."""
    gpu = detector.device.type == "cuda"
    size = GPU_BATCH if gpu else CPU_BATCH

    def raws() -> Iterator[tuple[Raw, View]]:
        seen = map_ordered(pool, lambda example: detector.see(example.picture()), examples, 3 * size)
        while batch := list(islice(seen, size)):
            images = np.stack([image for _, image in batch])
            if gpu:  # to a constant batch size: cuDNN plans anew for each size
                images = np.pad(images, ((0, size - len(batch)), (0, 0), (0, 0), (0, 0)))
            yield from zip(detector.raw(images), (view for view, _ in batch), strict=False)

    return map_ordered(pool, lambda made: detector.decode(made[0], made[1], limits), raws(), size)
