"""Recommending input size and starting weights for a dataset by a simple rule, with reasons."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import numpy as np

from nanogfl.data.splits import select
from nanogfl.data.table import Table
from nanogfl.doctor.statistics import SIDES, STRIDES, lengths
from nanogfl.errors import DataError, counted

ENOUGH = 0.9  # fraction of the boxes that should span a cell of the finest level
PUBLISHED = (320, 416)  # input sides of NanoDet-Plus' published weights


def recommend(table: Table, data: str | Path) -> dict[str, Any]:
    """Return input side, recipe (None: the defaults) and initial weights, with reasons, as plain values for JSON.

    Args:
        table: the dataset.
        data: its path, for the command.
    """
    side, why_input = best_side(table)
    train = _training_pictures(table)
    init = f"nanodet-plus-m_{min(PUBLISHED, key=lambda s: abs(s - side))}"
    return {
        "input": side,
        "recipe": None,
        "init": init,
        "command": f"nanogfl train {shlex.quote(str(data))} --out runs/mine --init {init} --input {side}",
        "reasons": {
            "input": why_input,
            "recipe": f"{counted(train, 'training picture')}: the defaults follow from their number",
            "init": "weights learnt from COCO are a better start than random ones for any set of photographs",
        },
    }


def best_side(table: Table) -> tuple[int, str]:
    """Return the smallest usual input at which 90 % of the boxes span a cell of the finest level, and the reason.

    If there is none, the largest is returned. Inputs from 320 px to the longer side of the median picture are
    considered; if that side is shorter, 320 px only, or 256 px if it is at most 256 px. Without boxes it is 320 px.
    """
    if not len(lengths(table, None)):
        return 320, "there are no boxes to derive it from; 320 is the default"
    largest = _native(table)
    sides = [s for s in SIDES if s >= PUBLISHED[0] and s <= largest] or [
        SIDES[0] if largest <= SIDES[0] else PUBLISHED[0]
    ]
    parts = {s: float((lengths(table, s) >= STRIDES[0]).mean()) for s in sides}
    side = next((s for s in sides if parts[s] >= ENOUGH), sides[-1])
    told = ", ".join(f"{part:.1%} at {s}" for s, part in parts.items())
    if parts[side] >= ENOUGH:
        return side, f"smallest input at which {ENOUGH:.0%} of the boxes span {STRIDES[0]} px (a cell): {told}"
    limit = "the pictures have no more pixels" if side < SIDES[-1] else "larger ones are slow; cut pictures into tiles"
    return side, f"fewer than {ENOUGH:.0%} of the boxes span {STRIDES[0]} px (a cell) at any input: {told}; {limit}"


def _native(table: Table) -> int:
    """Return the median of the pictures' longer sides, rounded up to a multiple of 32 px."""
    long = float(np.median([max(e.width, e.height) for e in table.examples]))
    return int(np.ceil(long / 32) * 32)


def _training_pictures(table: Table) -> int:
    try:
        return len(select(table, "train"))
    except DataError:  # there is no train split
        return 0
