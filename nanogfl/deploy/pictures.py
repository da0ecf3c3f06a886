"""Pictures for verification and calibration: pictures of a data set, synthetic pictures, and edge cases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

from nanogfl.data.readers import read_table
from nanogfl.errors import DataError
from nanogfl.pictures import Picture, read_picture

MOST_PICTURES = 200
T = TypeVar("T")


def verification_pictures(data: str | Path | None) -> Iterator[tuple[str, Picture]]:
    """Return named pictures of a data set, or synthetic ones if ``data`` is None, followed by the edge cases."""
    return synthetic_pictures() if data is None else given_pictures([e.path for e in read_table(data).examples])


def spread(examples: Sequence[T], most: int) -> list[T]:
    """Return ``most`` examples, evenly spread over the sequence, or all if there are fewer."""
    count = min(len(examples), most)
    return [examples[i * len(examples) // count] for i in range(count)]


def given_pictures(paths: Sequence[Path]) -> Iterator[tuple[str, Picture]]:
    """Yield pictures from disk, at most MOST_PICTURES evenly spread over the paths, then the edge cases."""
    if not paths:
        raise DataError("--data contains no pictures; use a dataset with pictures")
    for path in spread(paths, MOST_PICTURES):
        yield path.name, read_picture(path)
    yield from edge_case_pictures()


def synthetic_pictures(count: int = 24) -> Iterator[tuple[str, Picture]]:
    """Yield synthetic scenes of several shapes, for exports without data, then the edge cases."""
    from nanogfl.data.synthetic import draw_picture

    shapes = [(480, 640), (320, 320), (640, 360), (300, 900), (1080, 1920)]
    for i in range(count):
        scene, _, _ = draw_picture(np.random.default_rng((0, i)), 384)
        height, width = shapes[i % len(shapes)]
        yield f"drawn picture {i}", np.asarray(cv2.resize(scene, (width, height)), np.uint8)
    yield from edge_case_pictures()


def edge_case_pictures() -> Iterator[tuple[str, Picture]]:
    """Yield edge cases: blank, noisy, tiny and very long pictures."""
    rng = np.random.default_rng(0)
    for value in (0, 255):
        yield f"blank frame {value}", np.full((240, 427, 3), value, np.uint8)
    yield "noise", rng.integers(0, 256, (360, 202, 3), dtype=np.uint8)
    yield "one pixel", np.full((1, 1, 3), 90, np.uint8)
    yield "a strip", rng.integers(0, 256, (37, 901, 3), dtype=np.uint8)
