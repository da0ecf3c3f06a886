"""What a check measures of a set and recommends for it: hand values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nanogfl.data.table import Example, Table
from nanogfl.doctor.recommend import best_side, recommend
from nanogfl.doctor.statistics import at_input, measure


def picture(
    number: int, size: tuple[int, int], sides: Sequence[tuple[float, float]], crowd: int = 0, split: str | None = None
) -> Example:
    """A picture (width, height) with boxes (width, height), the last ones crowd regions."""
    boxes = np.array([(0, 0, *side) for side in sides], np.float64).reshape(-1, 4)
    regions = np.arange(len(boxes)) >= len(boxes) - crowd
    labels = np.arange(len(boxes)) % 2
    return Example(Path(f"{number}.jpg"), f"{number}.jpg", *size, boxes, labels, regions, boxes.prod(axis=1), split)


def table(*examples: Example) -> Table:
    return Table(Path("set"), "yolo", ("cat", "dog"), examples)


def squares(lengths: Sequence[float], *sizes: tuple[int, int]) -> Table:
    """Pictures of these sizes (width, height); the boxes are squares, all in the first one."""
    return table(*(picture(i, s, [(v, v) for v in lengths] if i == 0 else []) for i, s in enumerate(sizes)))


@pytest.mark.parametrize(
    ("lengths", "sizes", "side", "words"),
    [
        ([], [(640, 640)], 320, "no boxes"),
        ([16], [(640, 640)], 320, "100.0% at 320"),  # just a cell
        ([15.9], [(640, 640)], 416, "0.0% at 320, 100.0% at 416"),
        ([16] * 9 + [1], [(640, 640)], 320, "90.0% at 320"),
        ([16] * 17 + [1] * 3, [(640, 640)], 640, "larger ones are slow; cut pictures into tiles"),
        ([4], [(400, 200)], 416, "the pictures have no more pixels"),  # 400 rounded up
        ([2], [(416, 100)], 416, "the pictures have no more pixels"),
        ([100], [(200, 100)], 256, "100.0% at 256"),
        ([100], [(250, 256)], 256, "100.0% at 256"),
        ([100], [(270, 100)], 320, "100.0% at 320"),
        ([1], [(320, 320), (320, 200), (640, 640)], 320, "the pictures have no more pixels"),  # by the middle one
    ],
)
def test_the_side_by_hand(lengths: list[float], sizes: list[tuple[int, int]], side: int, words: str) -> None:
    found, why = best_side(squares(lengths, *sizes))
    assert found == side and words in why


@pytest.mark.parametrize(
    ("length", "size", "side", "init"),
    [(16, (640, 640), 320, 320), (13, (640, 640), 416, 416), (10.5, (640, 640), 512, 416), (99, (200, 200), 256, 320)],
)
def test_the_weights_are_those_of_the_nearest_side(length: float, size: tuple[int, int], side: int, init: int) -> None:
    said = recommend(squares([length], size), "my set")
    assert (said["input"], said["init"]) == (side, f"nanodet-plus-m_{init}")
    assert said["command"] == f"nanogfl train 'my set' --out runs/mine --init nanodet-plus-m_{init} --input {side}"


@pytest.mark.parametrize(("splits", "train"), [(["train", "train", "val"], 2), (["val", "test", "test"], 0)])
def test_pictures_that_teach_are_counted(splits: list[str], train: int) -> None:
    made = table(*(picture(i, (640, 640), [(50, 50)], split=split) for i, split in enumerate(splits)))
    assert recommend(made, "set")["reasons"]["recipe"].startswith(f"{train} training pictures")


def test_what_is_measured() -> None:
    said: dict[str, Any] = measure(
        table(
            picture(0, (640, 480), [(20, 5), (10, 20), (600, 400)], crowd=1, split="train"),
            picture(1, (640, 480), [(30, 30)], crowd=1, split="train"),
            picture(2, (320, 240), []),
        )
    )
    assert said["pictures"]["splits"] == {"train": 2, "none": 1}
    assert said["pictures"]["empty"] == 2  # crowd regions are no boxes
    assert said["pictures"]["sizes"] == {"640x480": 2, "320x240": 1}
    assert (said["pictures"]["width"]["least"], said["pictures"]["height"]["most"]) == (320, 480)
    assert said["boxes"]["crowd"] == 2
    assert said["boxes"]["per_picture"] == {"least": 0, "p10": 0, "median": 0, "p90": 1.6, "most": 2}
    assert said["boxes"]["per_class"] == {"cat": 3, "dog": 1}
    assert (said["boxes"]["aspect"]["least"], said["boxes"]["aspect"]["most"]) == (0.5, 4)
    assert (said["boxes"]["side"]["least"], said["boxes"]["side"]["most"]) == (10, 14.142)
    assert [part["input"] for part in said["inputs"]] == [256, 320, 416, 512, 640]


def test_lengths_at_an_input() -> None:
    """A square input takes both sides of 640x160 as those of 320x320."""
    boxes = [(7.9, 7.9), (8, 8), (0, 5), (64, 64), (16, 64)]
    said = at_input(table(picture(0, (640, 160), boxes)), 320)
    assert said["median"] == 8
    assert said["lengths"] == {"under 8": 0.4, "8 to 16": 0.2, "16 to 32": 0, "32 to 64": 0.2, "64 and more": 0.2}
    assert at_input(table(picture(0, (640, 160), [])), 320)["median"] is None
