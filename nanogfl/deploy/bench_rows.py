"""The rows of a benchmark: each is a model in a runtime in its own process, compared with onnxruntime before timing."""

from __future__ import annotations

import base64
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanogfl.deploy.agreement import add_boxes, add_raw
from nanogfl.deploy.bench_models import BenchModel
from nanogfl.deploy.runtimes import Runtime, files_of
from nanogfl.deploy.verify import LIMITS, Parity
from nanogfl.deploy.worker import LOCAL, Worker, WorkerError
from nanogfl.detections import Detections
from nanogfl.pictures import Picture
from nanogfl.runtime.session import OnnxDetector

log = logging.getLogger(__name__)
SHOWN = 0.3  # score threshold of a typical app, used when frames are timed


@dataclass(frozen=True)
class Place:
    """Where rows run: the command that starts a worker, and the folder on a device with copies of the files, if any."""

    command: list[str]
    folder: str | None = None

    def path(self, file: Path | None) -> str | None:
        """Return the path of a file as the worker sees it."""
        if file is None:
            return None
        return str(file.absolute()) if self.folder is None else f"{self.folder}/{file.name}"


@dataclass(frozen=True)
class Skipped:
    """A model that a runtime cannot run, and the reason."""

    model: str
    runtime: str
    reason: str

    def result(self) -> dict[str, Any]:
        """Return the row for the JSON."""
        return {"model": self.model, "runtime": self.runtime, "skipped": self.reason}


@dataclass
class Row:
    """One row of the table, and the process that measures it; ``taken`` holds milliseconds, one list per round."""

    model: BenchModel
    runtime: Runtime
    threads: int
    file: Path
    worker: Worker
    opened: dict[str, Any] = field(default_factory=dict)
    parity: Parity = field(default_factory=Parity)
    scores: dict[str, float | None] = field(default_factory=dict)
    taken: dict[str, list[list[float]]] = field(default_factory=lambda: {"network": [], "frame": []})

    def job(self, place: Place) -> dict[str, Any]:
        """Return the arguments of the request that opens this row's model in the worker."""
        shared = {"threads": self.threads, "score": SHOWN, "pictures": place.path(self.model.pictures)}
        if self.model.whole_in(self.runtime):
            return shared | {"runtime": None, "model": place.path(self.model.file), "core": place.path(self.model.core)}
        card = self.model.card.to_metadata()
        own = {"runtime": self.runtime.name, "model": place.path(self.file), "card": card}
        return shared | own | {"outputs": self.model.outputs}

    def result(self, first: Row) -> dict[str, Any]:
        """Return the row for the JSON; ``ratio`` is the network's time over the first row's in the same rounds."""
        ratios = {what: _ratio(self.taken[what], first.taken[what]) for what in self.taken}
        size = sum(f.stat().st_size for f in files_of(self.file))
        return {
            "model": self.model.name,
            "precision": self.model.card.precision,
            "runtime": self.runtime.name,
            "threads": self.threads,
            "AP": _rounded(self.scores.get("AP")),
            "AP50": _rounded(self.scores.get("AP50")),
            "mb": round(size / 1e6, 2),
            "load_ms": round(self.opened["load_ms"], 1),
            **{f"{w}_p{p}_ms": _percentile(self.taken[w], p) for w in ("network", "frame") for p in (50, 90)},
            "peak_mb": _rounded(self.opened["peak_mb"], 1),
            "ratio": ratios["frame"] if ratios["network"] is None else ratios["network"],
            "frame_ratio": ratios["frame"],
            "parity": self.parity.to_json(),
        }


class Rows:
    """A context manager that opens rows and closes their processes at the end."""

    def __init__(self, place: Place, folder: Path, frames: Sequence[Picture]) -> None:
        self.place, self.folder, self.frames = place, folder, frames
        self._workers: list[Worker] = []
        self._converted: dict[tuple[str, str], Path | Skipped] = {}
        self._references: dict[str, Reference] = {}

    def __enter__(self) -> Rows:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for worker in self._workers:
            worker.close()

    def open(self, model: BenchModel, runtime: Runtime, threads: int) -> Row | Skipped:
        """Convert a model, load it, and compare it with onnxruntime; return its row, or why it was skipped."""
        key = model.name, runtime.name
        if key not in self._converted:
            self._converted[key] = self._file(model, runtime)
        file = self._converted[key]
        if isinstance(file, Skipped):
            return file
        worker = Worker(self.place.command)
        self._workers.append(worker)
        row = Row(model, runtime, threads, file, worker)
        try:
            row.opened = worker.ask("open", **row.job(self.place))
            self._compare(row)
        except WorkerError as error:
            return self._skip(model, runtime, str(error))
        if not row.parity.holds and model.card.precision == "fp32":
            return self._skip(model, runtime, f"results differ from onnxruntime's: {row.parity.why}")
        return row

    def _skip(self, model: BenchModel, runtime: Runtime, reason: str) -> Skipped:
        log.info("%s in %s: %s", model.name, runtime.name, reason)
        self._converted[model.name, runtime.name] = skipped = Skipped(model.name, runtime.name, reason)
        return skipped

    def _file(self, model: BenchModel, runtime: Runtime) -> Path | Skipped:
        """Return the file that the runtime opens, converted if necessary."""
        reason = self._why_not(model, runtime)
        if reason is not None:
            return self._skip(model, runtime, reason)
        given = model.given_to(runtime)
        assert given is not None
        if runtime.convert is None:
            return given
        out = self.folder / f"{model.pictures.stem}_{runtime.name}{runtime.suffix}"
        try:
            with Worker(LOCAL) as converter:  # own process: a converter needs memory and may crash
                converter.ask("convert", runtime=runtime.name, given=str(given.absolute()), out=str(out))
        except WorkerError as error:
            return self._skip(model, runtime, f"cannot be converted: {error}")
        return out

    def _why_not(self, model: BenchModel, runtime: Runtime) -> str | None:
        if self.place.folder is not None:
            alone = "a device runs only the frame form; re-export it with --form frame"
            return None if model.whole_in(runtime) else alone
        if runtime.missing is not None or model.given_to(runtime) is not None:
            return runtime.missing
        return model.why_not if runtime.takes == "core" else "requires a checkpoint; use that, not its ONNX"

    def _compare(self, row: Row) -> None:
        model = row.model
        if model.name not in self._references:
            self._references[model.name] = Reference(model, self.frames)
        reference = self._references[model.name]
        for i, boxes in enumerate(reference.boxes):
            found = row.worker.ask("boxes", index=i, score=LIMITS.score)
            add_boxes(row.parity, f"frame {i}", boxes, detections(found, model.card.names))
        for i, raw in enumerate(reference.raws):
            add_raw(row.parity, raw, _raw(row.worker, i, raw.shape), len(model.card.names))


class Reference:
    """The boxes and raw outputs of onnxruntime on this machine, computed on first use."""

    def __init__(self, model: BenchModel, frames: Sequence[Picture]) -> None:
        self.model, self.frames = model, frames

    @cached_property
    def boxes(self) -> list[Detections]:
        """The boxes in each frame."""
        detector = self.model.reference() or OnnxDetector(self.model.file)
        return [detector.predict(frame, LIMITS.score) for frame in self.frames]

    @cached_property
    def raws(self) -> list[NDArray[np.float32]]:
        """The raw output [P, C + 4 * (R + 1)] for each frame; an empty list if there is no core."""
        detector = self.model.reference()
        if detector is None:
            return []
        with np.load(self.model.pictures) as pictures:
            return [detector.raw(image[None]) for image in pictures["images"]]


def detections(found: dict[str, Any], names: list[str]) -> Detections:
    """Convert a worker's boxes to Detections."""
    boxes = np.array(found["boxes"], np.float32).reshape(-1, 4)
    return Detections(boxes, np.array(found["scores"], np.float32), np.array(found["labels"], np.int64), names)


def _raw(worker: Worker, index: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    values = np.frombuffer(base64.b64decode(worker.ask("raw", index=index)["raw"]), "<f4")
    return values.reshape(shape) if values.size == np.prod(shape) else values[None]


def _ratio(own: list[list[float]], first: list[list[float]]) -> float | None:
    """Return the median, over the rounds, of the ratio of the two rows' medians."""
    if not own or not first:
        return None
    return round(float(np.median([np.median(a) / np.median(b) for a, b in zip(own, first, strict=True)])), 3)


def _percentile(taken: list[list[float]], percent: int) -> float | None:
    return round(float(np.percentile(np.concatenate(taken), percent)), 2) if taken else None


def _rounded(value: float | None, digits: int = 4) -> float | None:
    return None if value is None else round(value, digits)
