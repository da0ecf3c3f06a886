"""Adapter for OpenCV's ``dnn`` module, which nanogfl's own dependencies include."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def open_network(path: Path, threads: int, names: list[str]) -> Any:
    """Open a file of the core form, without conversion."""
    import cv2
    import numpy as np

    cv2.setNumThreads(threads)
    net = cv2.dnn.readNetFromONNX(np.fromfile(path, np.uint8))  # by path, OpenCV on Windows opens ASCII names only

    def run(image: Any) -> dict[str, Any]:
        net.setInput(image, "image")
        return dict(zip(names, net.forward(names), strict=True))

    return run
