"""Comparison of a runtime's results with onnxruntime's, with the same tolerances as for an export."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nanogfl.decode import sigmoid
from nanogfl.deploy.match import raw_difference
from nanogfl.deploy.verify import LIMITS, Parity, match
from nanogfl.detections import Detections
from nanogfl.pictures import Picture
from nanogfl.runtime.predict import Predicts


def compare_boxes(a: Predicts, b: Predicts, frames: Sequence[Picture]) -> Parity:
    """Return the comparison of two detectors' boxes on all frames."""
    parity = Parity()
    for i, frame in enumerate(frames):
        add_boxes(parity, f"frame {i}", a.predict(frame, LIMITS.score), b.predict(frame, LIMITS.score))
    return parity


def add_boxes(parity: Parity, name: str, a: Detections, b: Detections) -> None:
    """Add one picture's boxes to a comparison, in place."""
    parity.pictures += 1
    match(parity, name, a, b, LIMITS, None)


def add_raw(parity: Parity, a: NDArray[np.float32], b: NDArray[np.float32], classes: int) -> None:
    """Add one picture's raw outputs [P, C + 4 * (R + 1)] to a comparison, in place."""
    if a.shape != b.shape:
        parity.worst.append(f"raw outputs of {b.shape} instead of {a.shape}")
        return
    first, second = ((sigmoid(raw[:, :classes]), raw[:, classes:]) for raw in (a, b))
    parity.raw = max(parity.raw or 0.0, raw_difference(first, second))
