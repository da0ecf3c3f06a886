"""onnxruntime: the reference that the others are compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def open_network(path: Path, threads: int, names: list[str]) -> Any:
    """The core form on one CPU."""
    from nanogfl.runtime.session import open_session

    session = open_session(path, threads)
    return lambda image: dict(zip(names, session.run(names, {"image": image}), strict=True))
