"""nanogfl.predictor: how an input size may be written, and a checkpoint that is written anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import scene, write_checkpoint

import nanogfl
from nanogfl.errors import UsageError
from nanogfl.predictor import TorchDetector, parse_input


@pytest.mark.parametrize(
    ("value", "size", "reason"),
    [
        (320, (320, 320), "a number is a square"),
        ("320", (320, 320), "as on the command line"),
        ("256x416", (256, 416), "height first"),
        ("256X416", (256, 416), "either case"),
        (" 256 x 416 ", (256, 416), "spaces"),
        ((256, 416), (256, 416), "a pair"),
        ([256, 416], (256, 416), "a list, as JSON and YAML give it"),
        ((320,), (320, 320), "one number in a list"),
        ((np.int64(256), np.int32(416)), (256, 416), "numpy's whole numbers"),
        (64, (64, 64), "the smallest"),
        ("64x4096", (64, 4096), "any aspect"),
    ],
)
def test_sizes(value: Any, size: tuple[int, int], reason: str) -> None:
    made = parse_input(value)
    assert made == size, reason
    assert all(type(side) is int for side in made), "plain numbers, which JSON can hold"


@pytest.mark.parametrize(
    "value",
    ["", "x", "320x", "x320", "a", "320x320x3", "320,416", "320.0", "3.2e2", 320.0, None, True, (1, 2, 3), (), {}],
)
def test_what_is_no_size_is_a_usage_error(value: Any) -> None:
    with pytest.raises(UsageError) as error:
        parse_input(value)
    assert str(error.value) == " ".join(
        f"--input {value}: not a size; give 320, or HEIGHTxWIDTH such as 256x416".split()
    )


@pytest.mark.parametrize(
    "value",
    [(None, 320), (320.5, 416), (320.0, 416), ("a", 320), ((320,), 416)],
)
def test_a_pair_of_anything_but_whole_numbers_is_a_usage_error(value: Any) -> None:
    with pytest.raises(UsageError):
        parse_input(value)


@pytest.mark.parametrize(
    ("value", "advice", "reason"),
    [
        (32, "64x64", "too small"),
        (0, "64x64", "nothing"),
        (-64, "64x64", "negative"),
        (63, "64x64", "one short"),
        ("100x320", "96x320", "height not a multiple of 32"),
        ("320x300", "320x288", "width not a multiple of 32: 300 lies between 288 and 320, nearer to 288"),
        ("0x320", "64x320", "no height"),
        ((320, 417), "320x416", "a pair"),
        (10**9, "4096x4096", "no machine has the memory"),
    ],
)
def test_sides_that_do_not_fit_get_the_nearest_that_do(value: Any, advice: str, reason: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_input(value)
    assert str(error.value) == f"--input {value}: sides must be multiples of 32, 64 to 4096; try {advice}", reason
    assert "x".join(map(str, parse_input(advice))) == advice


def test_a_saved_checkpoint_is_the_one_that_was_loaded(tmp_path: Path) -> None:
    loaded = nanogfl.load(write_checkpoint(tmp_path / "a.ckpt", temperature=1.5), input="64x96")
    assert isinstance(loaded, TorchDetector)
    again = nanogfl.load(loaded.save(tmp_path / "b.ckpt"))
    assert again.describe() == loaded.describe() | {"file": str(tmp_path / "b.ckpt")}
    ours, theirs = loaded.predict(scene(), 0.05), again.predict(scene(), 0.05)
    assert len(ours) > 0 and np.array_equal(ours.boxes, theirs.boxes) and np.array_equal(ours.scores, theirs.scores)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.ckpt", "b.ckpt"]
