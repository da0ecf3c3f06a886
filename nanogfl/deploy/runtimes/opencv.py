"""OpenCV's own network module: nothing to install besides what nanogfl needs anyway."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def open_network(path: Path, threads: int, names: list[str]) -> Any:
    """The core form, read as it is."""
    import cv2
    import numpy as np

    cv2.setNumThreads(threads)
    net = cv2.dnn.readNetFromONNX(np.fromfile(path, np.uint8))  # by path, OpenCV on Windows opens ASCII names only

    def run(image: Any) -> dict[str, Any]:
        net.setInput(image, "image")
        return dict(zip(names, net.forward(names), strict=True))

    return run
