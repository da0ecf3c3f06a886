"""nanogfl: small object detectors for phones, from your pictures to one ONNX file.

Importing it brings no torch; the functions fetch what they need when they are called.
"""

from __future__ import annotations

from typing import Any

from nanogfl.detections import Detections
from nanogfl.errors import NanogflError
from nanogfl.predictor import Predictor, load

__version__ = "0.1.0"
__all__ = ["Detections", "NanogflError", "Predictor", "__version__", "evaluate", "export", "load", "train"]


def train(data: Any, *, out: Any, **recipe: Any) -> Any:
    """Train a detector; see :func:`nanogfl.training.run.train`."""
    from nanogfl.training.run import train

    return train(data, out=out, **recipe)


def evaluate(model: Any, data: Any, **options: Any) -> Any:
    """Score a detector on a set; see :func:`nanogfl.evaluation.run.evaluate`."""
    from nanogfl.evaluation.run import evaluate

    return evaluate(model, data, **options)


def export(checkpoint: Any, *, out: Any, **options: Any) -> Any:
    """Make and prove an ONNX file; see :func:`nanogfl.deploy.run.export`."""
    from nanogfl.deploy.run import export

    return export(checkpoint, out=out, **options)
