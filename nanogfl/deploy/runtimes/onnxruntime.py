"""Adapter for onnxruntime, the reference for the other runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def open_network(path: Path, threads: int, names: list[str]) -> Any:
    """Open a file of the core form on the CPU."""
    from nanogfl.runtime.session import open_session

    session = open_session(path, threads)
    return lambda image: dict(zip(names, session.run(names, {"image": image}), strict=True))
