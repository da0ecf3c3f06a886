"""Statistics of a dataset that determine the recipe."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanogfl.boxes import areas
from nanogfl.data.table import SPLITS, Table
from nanogfl.doctor.labels import boxes_by_class

SIDES = (256, 320, 416, 512, 640)  # sides in px of the square inputs that are compared
STRIDES = (8, 16, 32, 64)
QUANTILES = {"least": 0.0, "p10": 0.1, "median": 0.5, "p90": 0.9, "most": 1.0}


def measure(table: Table) -> dict[str, Any]:
    """Return counts and quantiles of pictures and boxes as plain values for JSON."""
    counts = np.array([int((~e.crowd).sum()) for e in table.examples])
    splits = Counter(e.split for e in table.examples)
    sizes = Counter(f"{e.width}x{e.height}" for e in table.examples)
    return {
        "form": table.form,
        "pictures": {
            "splits": {s or "none": splits[s] for s in (*SPLITS, None) if splits[s]},
            "empty": int((counts == 0).sum()),
            "sizes": dict(sizes.most_common(10)),
            "width": spread(np.array([e.width for e in table.examples], np.float64)),
            "height": spread(np.array([e.height for e in table.examples], np.float64)),
        },
        "boxes": {
            "crowd": sum(int(e.crowd.sum()) for e in table.examples),
            "per_picture": spread(counts),
            "per_class": boxes_by_class(table),
            "aspect": spread(aspects(table)),
            "side": spread(lengths(table, None)),
        },
        "inputs": [at_input(table, side) for side in SIDES],
    }


def at_input(table: Table, side: int) -> dict[str, Any]:
    """Return the box sizes at a square input: fractions of lengths between the strides, and the median length in px."""
    long = lengths(table, side)
    edges = [0, *STRIDES, np.inf]
    names = [f"under {STRIDES[0]}", *(f"{a} to {b}" for a, b in pairwise(STRIDES)), "64 and more"]
    parts = np.histogram(long, edges)[0] / max(1, len(long))
    return {
        "input": side,
        "median": round(float(np.median(long)), 1) if len(long) else None,
        "lengths": {name: round(float(part), 4) for name, part in zip(names, parts, strict=True)},
    }


def lengths(table: Table, side: int | None) -> NDArray[np.float64]:
    """Return the square root of each box's area in px, at a square input or (None) in the picture, without crowds."""
    found = [np.zeros(0)]
    for example in table.examples:
        shrink = 1.0 if side is None else side / np.sqrt(example.width * example.height)
        found.append(np.sqrt(areas(example.boxes[~example.crowd])) * shrink)
    return np.concatenate(found)


def aspects(table: Table) -> NDArray[np.float64]:
    """Return the aspect ratio, width / height, of each box, without crowd regions."""
    sides = [e.boxes[~e.crowd, 2:] - e.boxes[~e.crowd, :2] for e in table.examples]
    wide = np.concatenate([np.zeros((0, 2)), *sides])
    return wide[:, 0] / wide[:, 1]


def spread(values: NDArray[Any]) -> dict[str, float] | None:
    """Return the named quantiles of the values; None if there are no values."""
    if not len(values):
        return None
    return {name: round(float(np.quantile(values, q)), 3) for name, q in QUANTILES.items()}
