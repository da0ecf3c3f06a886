"""An exported file as a predictor: numpy and onnxruntime, no torch."""

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
ort.set_default_logger_severity(3)  # errors only: they come as exceptions
ort.disable_telemetry_events()  # where somebody imported it before us, too late for the variable
Arrays = dict[str, NDArray[Any]]
ELSEWHERE = b"\x0a\x08location\x12"  # ONNX: the first bytes of where a weight's own file lies


def open_session(model: Path | bytes, threads: int | None = None) -> ort.InferenceSession:
    """An onnxruntime CPU session of a file or of its bytes.

    Raises:
        ModelError: missing, damaged, using what this onnxruntime does not know, or weights from further files, which
            onnxruntime before 1.24 reads wherever they lie.
    """
    if isinstance(model, Path) and not model.is_file():
        raise ModelError(f"there is no file {model}; check the path")
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= 1024):
        raise UsageError(f"threads {threads}: give a whole number from 1 to 1024")
    name = model if isinstance(model, Path) else "the model"
    options = ort.SessionOptions()
    if threads or limited_by_quota():
        options.intra_op_num_threads = threads or cores()
    try:
        content = model.read_bytes() if isinstance(model, Path) else model
        if ELSEWHERE not in content:
            return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except PermissionError as error:
        raise ModelError(f"cannot read {model}: {error.strerror}; check its rights") from error
    except Exception as error:  # onnxruntime has no common class of its errors
        raise ModelError(
            f"{name} is no ONNX model that onnxruntime {ort.__version__} can run ({type(error).__name__}); "
            "export it again"
        ) from error
    raise ModelError(f"{name} keeps weights in a file of its own; one of ours is whole: export it again")


class OnnxDetector:
    """An ONNX file of ours as a predictor, of any form.

    Attributes:
        batch: pictures that the file takes at once.
        rounds: whether the file takes bytes that are already resized, so that these are rounded.
        fixed: whether its thresholds are constants.
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
            raise UsageError(f"--input {asked}: {path} is made for {own}; export the checkpoint at that size")
        self._optional = {i.name for i in self.session.get_overridable_initializers()}
        self._outputs = [o.name for o in self.session.get_outputs()]
        self.batch, self.rounds = self._check()
        self.fixed = self.card.form != "core" and "score_threshold" not in self._optional
        self._warned = False

    def predict(
        self, source: str | Path | NDArray[np.uint8], score: float = 0.3, *, iou: float = 0.6, max_boxes: int = 100
    ) -> Detections:
        """Detect in one picture: a path, or uint8 BGR [H, W, 3]."""
        return self.predict_batch([as_picture(source)], Thresholds(score, iou, max_boxes))[0]

    def predict_batch(self, pictures: Sequence[Picture], limits: Thresholds) -> list[Detections]:
        """Detect in several pictures, as many at once as the file takes."""
        found: list[Detections] = []
        for start in range(0, len(pictures), self.batch):
            some = pictures[start : start + self.batch]
            found += self.read(self.run(self.prepare(some), limits), some, limits)
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process opens the file again; a session cannot be sent there."""
        return OnnxDetector, (self.path.resolve(), None, self._threads)

    def prepare(self, pictures: Sequence[Picture]) -> NDArray[Any]:
        """Pictures, at most as many as the file takes, as it wants them."""
        if self.card.form == "frame":
            return pictures[0]
        images = np.zeros((self.batch, 3, *self.input_size), np.uint8 if self.rounds else np.float32)
        for i, picture in enumerate(pictures):
            image = self._view(picture).apply(picture).transpose(2, 0, 1)
            images[i] = np.rint(image) if self.rounds else image
        return images

    def run(self, image: NDArray[Any], limits: Thresholds) -> Arrays:
        """Feed what ``prepare`` made; all outputs by name."""
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
        """The file's outputs for these pictures as detections."""
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
        """What ``nanogfl info`` shows."""
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
        """How many pictures the file takes at once, and whether bytes; ModelError where it is not as its card says."""
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
                f"{self.path} is not what its metadata says (form {self.card.form}; inputs {given}; outputs "
                f"{', '.join(self._outputs)}); export it again"
            )
        return (1 if self.card.form == "frame" else shape[0]), kind == "tensor(uint8)" and self.card.form != "frame"

    def _view(self, picture: Picture) -> View:
        return View(picture.shape[:2], self.input_size, self.card.resize)

    def _picture(self, outputs: Arrays, rows: slice, limits: Thresholds) -> Detections:
        """One picture's rows of a file that decodes; what is fixed in the file is said, or applied on top."""
        sigma = outputs["side_sigma"][rows] if "side_sigma" in outputs else None
        boxes, scores, labels = (outputs[name][rows] for name in ("boxes", "scores", "labels"))
        if labels.max(initial=0) >= len(self.names):
            raise ModelError(f"{self.path} finds more classes than the {len(self.names)} it names; export it again")
        found = Detections(boxes, scores, labels, list(self.names), sigma)
        if not self.fixed:
            return found
        fixed = self.card.thresholds
        within = limits.score >= fixed.score and limits.max_boxes <= fixed.max_boxes and limits.iou == fixed.iou
        if not within and not self._warned:
            self._warned = True
            log.warning(
                "the thresholds of %s are fixed at score %g, IoU %g and %d boxes: lower scores, another IoU or more "
                "boxes cannot be had from it",
                *(self.path, fixed.score, fixed.iou, fixed.max_boxes),
            )
        return found.select(np.flatnonzero(found.scores > limits.score)[: limits.max_boxes])

    def _back(self, found: Detections, view: View) -> Detections:
        sigma = None if found.side_sigma is None else view.back_lengths(found.side_sigma)
        return Detections(view.back(found.boxes), found.scores, found.labels, found.names, sigma)

    def rows(self, outputs: Arrays) -> NDArray[np.float32]:
        """Maps of each level -> [B, P, C + 4 * (R + 1)], the class columns logits of the final score."""
        classes, sides = (self._joined(outputs, kind) for kind in ("classes", "sides"))
        if f"quality_{self.card.strides[0]}" in outputs:
            score = (sigmoid(classes) * self._joined(outputs, "quality")).clip(1e-6, 1 - 1e-6)
            classes = np.log(score / (1 - score))
        return np.concatenate([classes, sides], axis=1).transpose(0, 2, 1).astype(np.float32)

    def _joined(self, outputs: Arrays, kind: str) -> NDArray[np.float32]:
        maps = [outputs[f"{kind}_{stride}"] for stride in self.card.strides]
        return np.concatenate([m.reshape(*m.shape[:2], -1) for m in maps], axis=2)
