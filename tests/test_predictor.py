"""nanogfl.predictor: how an input size may be written, and a checkpoint that is written anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import scene, write_checkpoint, write_models

import nanogfl
from nanogfl import boxes as box_math
from nanogfl.errors import RecipeError, UsageError
from nanogfl.model.detector import Architecture
from nanogfl.predictor import TorchDetector
from nanogfl.runtime.session import OnnxDetector
from nanogfl.view import parse_input


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
        f"--input {value}: not a valid size; use 320, or HEIGHTxWIDTH such as 256x416".split()
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
        ("320x310", "320x320", "nearer to 320"),
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
    assert loaded.input_size == (64, 96) and not loaded.network.training
    again = nanogfl.load(loaded.save(tmp_path / "b.ckpt"))
    assert again.describe() == loaded.describe() | {"file": str(tmp_path / "b.ckpt")}
    ours, theirs = loaded.predict(scene(), 0.05), again.predict(scene(), 0.05)
    assert len(ours) > 0 and np.array_equal(ours.boxes, theirs.boxes) and np.array_equal(ours.scores, theirs.scores)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.ckpt", "b.ckpt"]


def test_limits_and_temperature_reach_a_checkpoints_boxes(tmp_path: Path) -> None:
    plain, wide = (nanogfl.load(write_checkpoint(tmp_path / f"{t}.ckpt", temperature=t)) for t in (1.0, 2.0))
    everything = plain.predict(scene(), 0.05, iou=1.0)
    assert len(everything) == 100
    few = plain.predict(scene(), 0.05, iou=1.0, max_boxes=3)
    np.testing.assert_array_equal(few.boxes, everything.boxes[:3])
    apart = plain.predict(scene(), 0.05, iou=0.0)
    overlap = box_math.iou(apart.boxes, apart.boxes) * (apart.labels[:, None] == apart.labels)
    assert 0 < len(apart) < 100 and (overlap[~np.eye(len(apart), dtype=bool)] == 0).all()
    sigmas = [d.predict(scene(), 0.05, iou=1.0).side_sigma for d in (plain, wide)]
    assert sigmas[0] is not None and sigmas[1] is not None
    np.testing.assert_allclose(sigmas[1], 2 * sigmas[0], rtol=1e-5)


def test_a_single_value_a_side_has_no_deviation(tmp_path: Path) -> None:
    found = nanogfl.load(write_checkpoint(tmp_path / "a.ckpt", Architecture("s", 3, reg_max=0))).predict(scene(), 0.05)
    assert len(found) > 0 and found.side_sigma is None


def test_a_file_in_capitals_is_an_onnx_and_has_its_threads(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_models(tmp_path, (64, 64))
    path = (tmp_path / "model.onnx").rename(tmp_path / "MODEL.ONNX")
    (tmp_path / "a.yml").touch()
    loaded = nanogfl.load(path, threads=1, config=tmp_path / "a.yml")
    assert isinstance(loaded, OnnxDetector)
    assert loaded.session.get_session_options().intra_op_num_threads == 1
    assert "a.yml is ignored: MODEL.ONNX has its own settings" in caplog.text
    with pytest.raises(RecipeError, match=r"--config .*b\.yml: No such file"):
        nanogfl.load(path, config=tmp_path / "b.yml")
