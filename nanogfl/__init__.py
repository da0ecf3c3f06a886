"""nanogfl: small object detectors for phones, from your pictures to one ONNX file.

Importing the package imports none of its modules: each public name is imported on first use. onnxruntime from 1.29 on
reports each session and its model's name to Microsoft; the package disables this by an environment variable before
onnxruntime is imported.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nanogfl.deploy.run import export
    from nanogfl.detections import Detections
    from nanogfl.errors import NanogflError
    from nanogfl.evaluation.run import evaluate
    from nanogfl.predictor import Predictor, load
    from nanogfl.runtime.tiles import Tiled
    from nanogfl.training.run import train

__version__ = "0.1.0"
__all__ = ["Detections", "NanogflError", "Predictor", "Tiled", "evaluate", "export", "load", "train"]

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_HOMES = {
    "Detections": "nanogfl.detections",
    "NanogflError": "nanogfl.errors",
    "Predictor": "nanogfl.predictor",
    "Tiled": "nanogfl.runtime.tiles",
    "evaluate": "nanogfl.evaluation.run",
    "export": "nanogfl.deploy.run",
    "load": "nanogfl.predictor",
    "train": "nanogfl.training.run",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'nanogfl' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
