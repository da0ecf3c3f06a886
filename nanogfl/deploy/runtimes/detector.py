"""A network in any runtime as a detector: nanogfl's View before it and decode behind it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanogfl.decode import Layout, Thresholds, decode, sigmoid
from nanogfl.deploy.runtimes import Network, runtime
from nanogfl.detections import Detections
from nanogfl.pictures import Picture
from nanogfl.runtime.card import FileCard
from nanogfl.view import View

Outputs = dict[str, NDArray[Any]]


class RuntimeDetector:
    """Predicts with a network that maps one image float32 [1, 3, H, W], 0 to 255, to its outputs by name."""

    def __init__(self, card: FileCard, network: Network) -> None:
        self.card, self.network = card, network
        self.names, self.input_size = card.names, card.input_size

    def predict(self, source: Picture, score: float = 0.3, *, iou: float = 0.6, max_boxes: int = 100) -> Detections:
        """Detect in one picture, uint8 BGR [H, W, 3]."""
        view = View(source.shape[:2], self.input_size, self.card.resize)
        layout = Layout(self.input_size, self.card.strides, self.card.reg_max, self.card.centred)
        limits = Thresholds(score, iou, max_boxes)
        return decode(self.raw(network_image(source, view)), layout, view, self.names, limits)

    def raw(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """[P, C + 4 * (R + 1)] of one image; class columns are logits of the final score."""
        return rows(self.network(image))


def open_detector(name: str, file: Path, threads: int, card: FileCard, outputs: list[str]) -> RuntimeDetector:
    """A file in the runtime of this name."""
    return RuntimeDetector(card, runtime(name).open(file, threads, outputs))


def network_image(picture: Picture, view: View) -> NDArray[np.float32]:
    """What the core form takes: [1, 3, H, W], 0 to 255."""
    return np.ascontiguousarray(view.apply(picture).transpose(2, 0, 1))[None]


def rows(outputs: Outputs) -> NDArray[np.float32]:
    """Outputs by name -> [P, C + 4 * (R + 1)]: ``raw`` as it is, or maps of each level [1, K, h, w] put together."""
    if "raw" in outputs:
        return np.asarray(outputs["raw"], np.float32)
    classes, sides = _joined(outputs, "classes"), _joined(outputs, "sides")
    if any(name.startswith("quality") for name in outputs):
        score = (sigmoid(classes) * _joined(outputs, "quality")).clip(1e-6, 1 - 1e-6)
        classes = np.log(score / (1 - score))
    return np.concatenate([classes, sides]).T.astype(np.float32)


def _joined(outputs: Outputs, kind: str) -> NDArray[np.float32]:
    maps = [m for name, m in outputs.items() if name.startswith(kind)]
    return np.concatenate([m.reshape(m.shape[1], -1) for m in maps], axis=1)
