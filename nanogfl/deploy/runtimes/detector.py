"""A detector that runs its network in any runtime, between nanogfl's View and decode."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanogfl.decode import Thresholds, decode
from nanogfl.deploy.device_runner import rows
from nanogfl.deploy.runtimes import Network, runtime
from nanogfl.detections import Detections
from nanogfl.pictures import Picture
from nanogfl.runtime.card import FileCard
from nanogfl.view import View


class RuntimeDetector:
    """A detector whose network maps one image float32 [1, 3, H, W], 0 to 255, to its outputs by name."""

    def __init__(self, card: FileCard, network: Network) -> None:
        self.card, self.network = card, network
        self.names, self.input_size = card.names, card.input_size

    def predict(self, source: Picture, score: float = 0.3, *, iou: float = 0.6, max_boxes: int = 100) -> Detections:
        """Return the detections in one picture, uint8 BGR [H, W, 3]."""
        view = View(source.shape[:2], self.input_size, self.card.resize)
        layout = replace(self.card.layout, sigma=False)
        limits = Thresholds(score, iou, max_boxes)
        return decode(self.raw(network_image(source, view)), layout, view, self.names, limits)

    def frame(self, frame: Picture, score: float) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Return boxes, scores and labels of one frame, as device_runner requires."""
        found = self.predict(frame, score)
        return found.boxes, found.scores, found.labels

    def raw(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the raw output [P, C + 4 * (R + 1)] for one image; class columns are logits of the final score."""
        return rows(self.network(image))


def open_detector(name: str, file: Path, threads: int, card: FileCard, outputs: list[str]) -> RuntimeDetector:
    """Open a file in the runtime of this name as a detector."""
    return RuntimeDetector(card, runtime(name).open(file, threads, outputs))


def network_image(picture: Picture, view: View) -> NDArray[np.float32]:
    """Return the input of the core form for a picture: [1, 3, H, W], 0 to 255."""
    return np.ascontiguousarray(view.apply(picture).transpose(2, 0, 1))[None]
