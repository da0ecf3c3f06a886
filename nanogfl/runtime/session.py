"""A predictor for exported files, with numpy and onnxruntime, without torch."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from nanogfl.decode import Thresholds, decode, sigmoid
from nanogfl.detections import Detections
from nanogfl.errors import ModelError, UsageError
from nanogfl.machine import cores, limited_by_quota
from nanogfl.pictures import Picture, as_picture
from nanogfl.runtime.card import FileCard, read_card
from nanogfl.view import View

log = logging.getLogger(__name__)
ort.set_default_logger_severity(3)  # log errors only; failures raise exceptions
ort.disable_telemetry_events()  # in case onnxruntime was imported before nanogfl set the variable
Arrays = dict[str, NDArray[Any]]
ELSEWHERE = b"\x0a\x08location\x12"  # ONNX: first bytes of the entry with the path of a weight's separate file


def open_session(model: Path | bytes, threads: int | None = None) -> ort.InferenceSession:
    """Open an onnxruntime CPU session for a file or its bytes.

    Raises:
        ModelError: the file is missing, damaged, not supported by this onnxruntime, or has weights in separate files,
            which onnxruntime before 1.24 reads from any path.
        UsageError: ``threads`` is invalid.
    """
    if isinstance(model, Path) and not model.is_file():
        raise ModelError(f"{model}: no such file; check the path")
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= 1024):
        raise UsageError(f"threads {threads}: must be an integer from 1 to 1024")
    name = model if isinstance(model, Path) else "the model"
    options = ort.SessionOptions()
    if threads or limited_by_quota():
        options.intra_op_num_threads = threads or cores()
    try:
        content = model.read_bytes() if isinstance(model, Path) else model
        if ELSEWHERE not in content:
            return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except PermissionError as error:
        raise ModelError(f"cannot read {model}: {error.strerror}; check its permissions") from error
    except Exception as error:  # onnxruntime's errors have no common base class
        raise ModelError(
            f"{name} is not an ONNX model that onnxruntime {ort.__version__} can run ({type(error).__name__}); "
            "re-export it"
        ) from error
    raise ModelError(f"{name} stores weights in a separate file, which is unsupported; re-export it")


class OnnxDetector:
    """A predictor that runs an exported ONNX file of any form.

    Attributes:
        batch: number of pictures that the file takes at once.
        rounds: whether the file takes resized pictures as uint8, for which resized values are rounded.
        fixed: whether the file's thresholds are constants.
    """

    def __init__(
        self,
        path: Path,
        input_size: tuple[int, int] | None = None,
        threads: int | None = None,
        session: ort.InferenceSession | None = None,
    ) -> None:
        self.path, self.network, self._threads = path, None, threads
        self.session = session or open_session(path, threads)
        self.card: FileCard = read_card(self.session.get_modelmeta().custom_metadata_map, path)
        self.names, self.input_size = self.card.names, self.card.input_size
        if input_size is not None and input_size != self.input_size:
            asked, own = ("x".join(map(str, size)) for size in (input_size, self.input_size))
            raise UsageError(f"--input {asked}: {path} requires {own}; export the checkpoint with this --input")
        self._optional = {i.name for i in self.session.get_overridable_initializers()}
        self._outputs = [o.name for o in self.session.get_outputs()]
        self.batch, self.rounds = self._check()
        self.fixed = self.card.form != "core" and "score_threshold" not in self._optional
        self._warned = False

    def predict(
        self, source: str | Path | NDArray[np.uint8], score: float = 0.3, *, iou: float = 0.6, max_boxes: int = 100
    ) -> Detections:
        """Detect objects in one picture: a path, or uint8 BGR [H, W, 3]."""
        return self.predict_batch([as_picture(source)], Thresholds(score, iou, max_boxes))[0]

    def predict_batch(self, pictures: Sequence[Picture], limits: Thresholds) -> list[Detections]:
        """Detect objects in several pictures, in batches of the size that the file takes."""
        found: list[Detections] = []
        for start in range(0, len(pictures), self.batch):
            some = pictures[start : start + self.batch]
            found += self.read(self.run(self.prepare(some), limits), some, limits)
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        """Support pickling by path: another process opens the file again, because a session cannot be pickled."""
        return OnnxDetector, (self.path.resolve(), None, self._threads)

    def prepare(self, pictures: Sequence[Picture]) -> NDArray[Any]:
        """Convert pictures, at most ``batch`` of them, to the file's input."""
        if self.card.form == "frame":
            return pictures[0]
        images = np.zeros((self.batch, 3, *self.input_size), np.uint8 if self.rounds else np.float32)
        for i, picture in enumerate(pictures):
            image = self._view(picture).apply(picture).transpose(2, 0, 1)
            images[i] = np.rint(image) if self.rounds else image
        return images

    def run(self, image: NDArray[Any], limits: Thresholds) -> Arrays:
        """Run the session on the input from ``prepare``; return all outputs by name."""
        feeds: dict[str, Any] = {"image": image}
        asked = {
            "score_threshold": np.array(limits.score, np.float32),
            "iou_threshold": np.array(limits.iou, np.float32),
            "max_boxes": np.array(limits.max_boxes, np.int64),
        }
        feeds |= {name: value for name, value in asked.items() if name in self._optional}
        outputs = self.session.run(self._outputs, feeds)
        return {name: np.asarray(value) for name, value in zip(self._outputs, outputs, strict=True)}

    def read(self, outputs: Arrays, pictures: Sequence[Picture], limits: Thresholds) -> list[Detections]:
        """Convert the file's outputs for these pictures to detections."""
        if self.card.form == "core":
            raws, layout = self.rows(outputs), self.card.layout
            return [decode(r, layout, self._view(p), self.names, limits) for r, p in zip(raws, pictures, strict=False)]
        counts = outputs.get("counts", np.array([len(outputs["scores"])]))
        ends = np.cumsum(counts)
        found = [self._picture(outputs, slice(e - c, e), limits) for e, c in zip(ends, counts, strict=True)]
        if self.card.form == "frame":
            return found
        return [self._back(f, self._view(p)) for f, p in zip(found, pictures, strict=False)]

    def describe(self) -> dict[str, Any]:
        """Return what ``nanogfl info`` shows."""
        card, defaults = self.card, self.card.defaults
        optional = {
            i.name: f"{i.type} {i.shape}, {defaults[i.name]} where not given"
            for i in self.session.get_overridable_initializers()
            if i.name in defaults
        }
        thresholds = {"fixed": defaults} if self.fixed else {}
        return {
            "file": str(self.path),
            "kind": f"ONNX, form {card.form}, {card.precision}",
            "bytes": self.path.stat().st_size,
            "classes": self.names,
            "input_size": list(self.input_size),
            "resize": card.resize,
            "strides": list(card.strides),
            "reg_max": card.reg_max,
            "temperature": card.temperature,
            "inputs": {i.name: f"{i.type} {i.shape}" for i in self.session.get_inputs()} | optional,
            **thresholds,
            "outputs": {o.name: f"{o.type} {o.shape}" for o in self.session.get_outputs()},
            "parity": dict(card.parity or {}),
        }

    def _check(self) -> tuple[int, bool]:
        """Return ``batch`` and ``rounds``; raise ModelError if the file's inputs and outputs do not match its card."""
        given = {i.name: (i.type, i.shape) for i in self.session.get_inputs()}
        kind, shape = given.get("image", ("no image", []))
        if self.card.form == "frame":
            sound = kind == "tensor(uint8)" and len(shape) == 3 and shape[2] == 3
        else:
            sound = kind in ("tensor(float)", "tensor(uint8)") and shape[1:] == [3, *self.input_size]
            sound = sound and isinstance(shape[0], int)
        if self.card.form == "core":
            needed = {f"{kind}_{s}" for kind in ("classes", "sides") for s in self.card.strides}
        else:
            needed = {"boxes", "scores", "labels"}
        if set(given) != {"image"} or not sound or not needed <= set(self._outputs):
            raise ModelError(
                f"{self.path} does not match its metadata (form {self.card.form}; inputs {given}; outputs "
                f"{', '.join(self._outputs)}); re-export it"
            )
        return (1 if self.card.form == "frame" else shape[0]), kind == "tensor(uint8)" and self.card.form != "frame"

    def _view(self, picture: Picture) -> View:
        return View(picture.shape[:2], self.input_size, self.card.resize)

    def _picture(self, outputs: Arrays, rows: slice, limits: Thresholds) -> Detections:
        """Return the detections in one picture's rows of decoded outputs.

        If the thresholds are fixed, apply stricter limits here, and warn once if the limits cannot be met.
        """
        sigma = outputs["side_sigma"][rows] if "side_sigma" in outputs else None
        boxes, scores, labels = (outputs[name][rows] for name in ("boxes", "scores", "labels"))
        if labels.max(initial=0) >= len(self.names):
            raise ModelError(f"{self.path} returns labels beyond its {len(self.names)} classes; re-export it")
        found = Detections(boxes, scores, labels, list(self.names), sigma)
        if not self.fixed:
            return found
        fixed = self.card.thresholds
        within = limits.score >= fixed.score and limits.max_boxes <= fixed.max_boxes and limits.iou == fixed.iou
        if not within and not self._warned:
            self._warned = True
            log.warning(
                "the thresholds of %s are fixed at score %g, IoU %g and %d boxes: lower scores, another IoU or more "
                "boxes are not available",
                *(self.path, fixed.score, fixed.iou, fixed.max_boxes),
            )
        return found.select(np.flatnonzero(found.scores > limits.score)[: limits.max_boxes])

    def _back(self, found: Detections, view: View) -> Detections:
        sigma = None if found.side_sigma is None else view.back_lengths(found.side_sigma)
        return Detections(view.back(found.boxes), found.scores, found.labels, found.names, sigma)

    def rows(self, outputs: Arrays) -> NDArray[np.float32]:
        """Join the maps of all levels to [B, P, C + 4 * (R + 1)]; the class columns are logits of the final score."""
        classes, sides = (self._joined(outputs, kind) for kind in ("classes", "sides"))
        if f"quality_{self.card.strides[0]}" in outputs:
            score = (sigmoid(classes) * self._joined(outputs, "quality")).clip(1e-6, 1 - 1e-6)
            classes = np.log(score / (1 - score))
        return np.concatenate([classes, sides], axis=1).transpose(0, 2, 1).astype(np.float32)

    def _joined(self, outputs: Arrays, kind: str) -> NDArray[np.float32]:
        maps = [outputs[f"{kind}_{stride}"] for stride in self.card.strides]
        return np.concatenate([m.reshape(*m.shape[:2], -1) for m in maps], axis=2)
