"""An exported file as a predictor: numpy and onnxruntime, no torch."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from nanogfl.decode import Layout, Thresholds, decode
from nanogfl.detections import Detections
from nanogfl.errors import ModelError, UsageError
from nanogfl.pictures import as_picture
from nanogfl.runtime.card import FileCard, read_card
from nanogfl.view import View

ort.set_default_logger_severity(3)  # errors only: they come as exceptions


def open_session(model: Path | bytes, threads: int | None = None) -> ort.InferenceSession:
    """An onnxruntime CPU session of a file or of its bytes.

    Raises:
        ModelError: missing, damaged, or using what this onnxruntime does not know.
    """
    if isinstance(model, Path) and not model.is_file():
        raise ModelError(f"there is no file {model}; check the path")
    options = ort.SessionOptions()
    if threads:
        options.intra_op_num_threads = threads
    try:
        source = str(model) if isinstance(model, Path) else model
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has no common class of its errors
        name = model if isinstance(model, Path) else "the model"
        raise ModelError(
            f"{name} is no ONNX model that onnxruntime {ort.__version__} can run ({type(error).__name__}); "
            "export it again"
        ) from error


class OnnxDetector:
    """An ONNX file of ours as a predictor, of any form."""

    def __init__(self, path: Path, input_size: tuple[int, int] | None = None, threads: int | None = None) -> None:
        self.path, self.network = path, None
        self.session = open_session(path, threads)
        self.card: FileCard = read_card(self.session.get_modelmeta().custom_metadata_map, path)
        self.names, self.input_size = self.card.names, self.card.input_size
        if input_size is not None and input_size != self.input_size:
            asked, own = ("x".join(map(str, size)) for size in (input_size, self.input_size))
            raise UsageError(f"--input {asked}: {path} is made for {own}; export the checkpoint at that size")
        self._optional = {i.name for i in self.session.get_overridable_initializers()}
        self._outputs = [o.name for o in self.session.get_outputs()]

    def predict(
        self, source: str | Path | NDArray[np.uint8], score: float = 0.3, *, iou: float = 0.6, max_boxes: int = 100
    ) -> Detections:
        """Detect in one picture: a path, or uint8 BGR [H, W, 3]."""
        picture, limits = as_picture(source), Thresholds(score, iou, max_boxes)
        if self.card.form == "frame":
            return self._read(self.run(picture, limits), limits)
        view = View(picture.shape[:2], self.input_size, self.card.resize)
        image = np.ascontiguousarray(view.apply(picture).transpose(2, 0, 1))[None]
        outputs = self.run(image, limits)
        if self.card.form == "core":
            return decode(self._rows(outputs), self._layout, view, self.names, limits)
        found = self._read(outputs, limits)
        sigma = None if found.side_sigma is None else view.back_lengths(found.side_sigma)
        return Detections(view.back(found.boxes), found.scores, found.labels, self.names, sigma)

    def run(self, image: NDArray[Any], limits: Thresholds) -> dict[str, NDArray[Any]]:
        """Feed one image as the file wants it; all outputs by name."""
        feeds: dict[str, Any] = {"image": image}
        asked = {
            "score_threshold": np.array(limits.score, np.float32),
            "iou_threshold": np.array(limits.iou, np.float32),
            "max_boxes": np.array(limits.max_boxes, np.int64),
        }
        feeds |= {name: value for name, value in asked.items() if name in self._optional}
        outputs = self.session.run(self._outputs, feeds)
        return {name: np.asarray(value) for name, value in zip(self._outputs, outputs, strict=True)}

    def describe(self) -> dict[str, Any]:
        """What ``nanogfl info`` shows."""
        card = self.card
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
            "inputs": {i.name: f"{i.type} {i.shape}" for i in self.session.get_inputs()},
            "outputs": {o.name: f"{o.type} {o.shape}" for o in self.session.get_outputs()},
            "parity": dict(card.parity or {}),
        }

    @property
    def _layout(self) -> Layout:
        card = self.card
        return Layout(
            self.input_size,
            card.strides,
            card.reg_max,
            card.centred,
            sigma=card.reg_max > 0,
            temperature=card.temperature,
        )

    def _read(self, outputs: dict[str, NDArray[Any]], limits: Thresholds) -> Detections:
        """Outputs of a file that decodes; thresholds that are fixed in the file are applied on top."""
        if outputs["labels"].max(initial=0) >= len(self.names):
            raise ModelError(f"{self.path} finds more classes than the {len(self.names)} it names; export it again")
        found = Detections(
            outputs["boxes"], outputs["scores"], outputs["labels"], self.names, outputs.get("side_sigma")
        )
        return found if "score_threshold" in self._optional else found.select(found.scores > limits.score)

    def raw(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Raw output [P, C + 4 * (R + 1)] of a resized image [1, 3, H, W]; core form only."""
        return self._rows(self.run(image, Thresholds()))

    def _rows(self, outputs: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Maps of each level -> [P, C + 4 * (R + 1)]."""
        parts = [
            np.concatenate(
                [outputs[f"{kind}_{s}"][0].reshape(outputs[f"{kind}_{s}"].shape[1], -1) for s in self.card.strides],
                1,
            )
            for kind in ("classes", "sides")
        ]
        return np.concatenate(parts).T.astype(np.float32)


def count_nodes(model: Any) -> Counter[str]:
    """How many nodes of each type a loaded ONNX model has."""
    return Counter(node.op_type for node in model.graph.node)
