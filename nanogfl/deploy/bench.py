"""``nanogfl bench``: latency of each model, runtime and thread count, measured in one interleaved run, and AP."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np

from nanogfl.data.splits import evaluation_split, select
from nanogfl.data.table import Table
from nanogfl.deploy.bench_card import BenchCard
from nanogfl.deploy.bench_models import BenchModel, prepare
from nanogfl.deploy.bench_rows import Place, Row, Rows, Skipped, detections
from nanogfl.deploy.device_runner import describe_machine
from nanogfl.deploy.pictures import synthetic_pictures
from nanogfl.deploy.runtimes import RUNTIMES, runtime
from nanogfl.deploy.targets import Target, parse_target
from nanogfl.deploy.worker import LOCAL, Worker
from nanogfl.errors import ExportError, UsageError, counted
from nanogfl.evaluation.coco import score
from nanogfl.evaluation.run import EVALUATION, in_model_order
from nanogfl.pictures import Picture

log = logging.getLogger(__name__)
FRAME = (480, 640)  # H, W of the timed frames
FRAMES = 6
ROUNDS, NETWORK_RUNS, FRAME_RUNS = 10, 6, 4  # a round visits every row once


def bench(
    models: Sequence[str],
    *,
    data: Table | None = None,
    split: str | None = None,
    runtimes: Sequence[str] = (),
    threads: Sequence[int] = (1,),
    target: str | None = None,
    python: str = "python3",
    config: str | Path | None = None,
) -> BenchCard:
    """Measure models in runtimes.

    Args:
        models: our ONNX files, checkpoints, or published names.
        data: data set for AP and for the timed frames; if None, no AP is measured and synthetic frames are timed.
        split: split of the data set; if None, test if there is one, else val, else everything.
        runtimes: names of runtimes; if empty, all known ones.
        threads: thread counts to measure in each runtime.
        target: ``ssh://user@host[:port]``, ``adb`` or ``adb:SERIAL``; this machine if None.
        python: Python command on the target.
        config: a NanoDet ``.yml`` for the NanoDet checkpoints among the models.

    Raises:
        ExportError: nothing could be measured, or the target does not respond.
        ModelError: a model is not one of nanogfl's.
    """
    load = describe_machine()["load"]  # read first, so that it does not include this benchmark
    chosen = [runtime(name) for name in runtimes]
    device = parse_target(target, python) if target else None
    if device and any(r.name != "onnxruntime" for r in chosen):
        raise UsageError("--target measures onnxruntime only; omit --runtime")
    chosen = chosen or list(RUNTIMES[:1] if device else RUNTIMES)
    table = None if data is None else select(data, split or evaluation_split(data))
    frames = camera_frames(table)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="nanogfl-bench-")))
        ready = [
            prepare(source, name, folder / f"m{i}", frames, config)
            for i, (source, name) in enumerate(zip(models, _names(models), strict=True))
        ]
        place = stack.enter_context(_place(device, ready))
        rows = stack.enter_context(Rows(place, folder, frames))
        lines = [rows.open(m, r, t) for m in ready for r in chosen for t in threads]
        measured = [line for line in lines if isinstance(line, Row)]
        if not measured:
            raise ExportError(f"nothing could be measured: {lines[0].reason}" if lines else "no model specified")  # type: ignore[union-attr]
        machine = measured[0].worker.ask("machine") | ({} if device else {"load": load})
        used = {row.runtime.name for row in measured}
        machine["versions"] = {name: number for name, number in machine["versions"].items() if name in used}
        if table is not None:
            _score_all(measured, table, device is not None)
        _time(measured)
        skipped = dict.fromkeys(line for line in lines if isinstance(line, Skipped))  # one line for all thread counts
        results = [row.result(measured[0]) for row in measured] + [line.result() for line in skipped]
        return BenchCard(machine | {"target": target or "this machine"}, results)


def camera_frames(table: Table | None = None) -> list[Picture]:
    """Return pictures of the data set, or synthetic ones, resized to a camera's 640 x 480."""
    if table is None:
        pictures = [picture for _, picture in synthetic_pictures(FRAMES)][:FRAMES]
    else:
        step = max(1, len(table) // FRAMES)
        pictures = [e.picture() for e in table.examples[::step][:FRAMES]]
    return [np.asarray(cv2.resize(p, FRAME[::-1], interpolation=cv2.INTER_AREA), np.uint8) for p in pictures]


def _names(models: Sequence[str]) -> list[str]:
    """Return each model's file name, or the string that was given if two file names are equal."""
    short = [Path(m).name for m in models]
    return [name if short.count(name) == 1 else given for name, given in zip(short, models, strict=True)]


@contextmanager
def _place(device: Target | None, models: Sequence[BenchModel]) -> Iterator[Place]:
    if device is None:
        yield Place(LOCAL)
        return
    files = [f for m in models for f in (m.file, m.core, m.pictures) if f is not None]
    with device.folder(files) as folder:
        yield Place(device.worker(folder), folder)


def _score_all(rows: Sequence[Row], table: Table, remote: bool) -> None:
    """Measure AP of each model in each runtime; for rows on a device, run the same file on this machine."""
    done: dict[tuple[str, str], dict[str, float | None]] = {}
    for row in rows:
        key = row.model.name, row.runtime.name
        if key not in done:
            log.info("AP of %s in %s: %s", *key, counted(len(table), "picture"))
            if remote:
                with Worker(LOCAL) as here:
                    here.ask("open", **row.job(Place(LOCAL)))
                    done[key] = _average_precision(here, row.model, table)
            else:
                done[key] = _average_precision(row.worker, row.model, table)
        row.scores = done[key]


def _average_precision(worker: Worker, model: BenchModel, table: Table) -> dict[str, float | None]:
    names = model.card.names
    ordered = in_model_order(table, names)
    found = [
        detections(worker.ask("detect", path=str(e.path.absolute()), score=EVALUATION.score), names)
        for e in ordered.examples
    ]
    return score(ordered, found).numbers


def _time(rows: Sequence[Row]) -> None:
    """Measure latencies in rounds of a few runs per row, so that a temporary load affects all rows alike."""
    log.info("timing %s in %d rounds", counted(len(rows), "row"), ROUNDS)
    for i in range(-1, ROUNDS):  # the first round warms up
        for what, count in (("network", NETWORK_RUNS), ("frame", FRAME_RUNS)):
            for row in rows:
                if what == "network" and row.model.core is None:
                    continue
                taken = row.worker.ask("time", what=what, count=count)["ms"]
                if i >= 0:
                    row.taken[what].append(taken)
