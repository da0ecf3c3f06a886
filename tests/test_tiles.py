"""Tiles: an oracle that knows every object finds the same in tiles as on the whole; seams leave no mark."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import assert_same, scene, write_models
from numpy.typing import NDArray

import nanogfl
from nanogfl import boxes as box_math
from nanogfl.detections import Detections
from nanogfl.errors import DataError, UsageError
from nanogfl.pictures import Picture, write_picture
from nanogfl.runtime.tiles import MOST, Tiled

SIDE = 128


def world(height: int, width: int) -> Picture:
    """A picture whose every pixel says where it is."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x & 255, x >> 8 | y >> 8 << 4, y & 255], axis=2).astype(np.uint8)


@dataclass
class Oracle:
    """Knows all objects of the world, and finds those parts of them that a picture shows."""

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    hide: Callable[[NDArray[np.float32]], NDArray[np.bool_]] = lambda boxes: np.zeros(len(boxes), bool)
    input_size: tuple[int, int] = (SIDE, SIDE)
    names: list[str] = field(default_factory=lambda: ["a", "b"])
    looked: list[tuple[int, int]] = field(default_factory=list)

    def predict(self, source: Any, score: float = 0.3, *, iou: float = 0.6, max_boxes: int = 100) -> Detections:
        height, width = source.shape[:2]
        self.looked.append((height, width))
        low, mixed, high = (int(v) for v in source[0, 0])
        x, y = low + (mixed % 16 << 8), high + (mixed >> 4 << 8)
        shown = box_math.clip(self.boxes - np.array([x, y, x, y], np.float32), height, width)
        scores = np.linspace(0.9, 0.5, len(self.boxes), dtype=np.float32)
        seen = ((shown[:, 2:] - shown[:, :2]).min(axis=1) >= 3) & (scores > score)
        if (height, width) != self.input_size:  # the whole: things get too small
            seen &= ~self.hide(shown)
        sigma = np.full((int(seen.sum()), 4), 1.5, np.float32)
        return Detections(shown[seen], scores[seen], self.labels[seen], self.names, sigma)


def objects(rng: np.random.Generator, count: int, height: int, width: int, largest: float) -> Oracle:
    """Boxes of one class overlap by an IoU of 0.6 at most, as NMS leaves them."""
    size = rng.uniform(6, largest, (4 * count, 2))
    corner = rng.uniform(0, 1, (4 * count, 2)) * (np.array([width, height]) - size)
    boxes, labels = np.concatenate([corner, corner + size], axis=1).astype(np.float32), rng.integers(0, 2, 4 * count)
    kept: list[int] = []
    for i in range(len(boxes)):
        same = [k for k in kept if labels[k] == labels[i]]
        if len(kept) < count and (box_math.iou(boxes[i : i + 1], boxes[same]) <= 0.55).all():
            kept.append(i)
    return Oracle(boxes[kept], labels[kept].astype(np.int64))


def sorted_rows(found: Detections) -> NDArray[np.float64]:
    rows = np.column_stack([found.boxes, found.scores, found.labels])
    return rows[np.lexsort(rows.T)]


# --- the law ---


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("height", "width"), [(300, 500), (129, 900), (700, 128), (1000, 1400)])
def test_tiles_find_what_the_whole_holds(seed: int, height: int, width: int) -> None:
    """Objects up to the overlap are found in tiles alone, without the look at the whole."""
    overlap = 0.4
    oracle = objects(np.random.default_rng(seed), 60, height, width, largest=overlap * SIDE - 4)
    whole = oracle.predict(world(height, width), 0.1)
    oracle.hide = lambda boxes: np.ones(len(boxes), bool)
    found = Tiled(oracle, overlap=overlap).predict(world(height, width), 0.1)
    assert len(whole) >= 20
    np.testing.assert_allclose(sorted_rows(found), sorted_rows(whole), atol=1e-3)
    assert (np.diff(found.scores) <= 0).all() and found.names == oracle.names


@pytest.mark.parametrize("seed", range(8))
def test_objects_larger_than_a_tile_come_from_the_whole(seed: int) -> None:
    """Of any size; what is small is found in tiles alone."""
    height, width = 600, 800
    oracle = objects(np.random.default_rng(seed), 40, height, width, largest=400)
    whole = oracle.predict(world(height, width), 0.1)
    oracle.hide = lambda boxes: (boxes[:, 2:] - boxes[:, :2]).max(axis=1) < 28
    found = Tiled(oracle).predict(world(height, width), 0.1)
    np.testing.assert_allclose(sorted_rows(found), sorted_rows(whole), atol=1e-3)


def test_an_object_on_a_seam_is_one_box() -> None:
    """Tiles 0..128 and 96..224 px; 20 px wide objects across every column."""
    for x in range(204):
        oracle = Oracle(np.array([[x, 50, x + 20, 70]], np.float32), np.zeros(1, np.int64))
        oracle.hide = lambda boxes: np.ones(len(boxes), bool)
        found = Tiled(oracle).predict(world(128, 224))
        assert found.boxes.tolist() == [[x, 50, x + 20, 70]]
        assert found.side_sigma is not None and found.side_sigma.tolist() == [[1.5] * 4]


@pytest.mark.parametrize("box", [(60, 50, 190, 70), (10, 20, 215, 100), (5, 30, 440, 290)])
def test_an_object_that_nothing_shows_whole_is_joined_from_its_pieces(box: tuple[int, ...]) -> None:
    """Larger than the overlap or than several tiles, and too faint for the look at the whole."""
    oracle = Oracle(np.array([box], np.float32), np.zeros(1, np.int64))
    oracle.hide = lambda boxes: np.ones(len(boxes), bool)
    found = Tiled(oracle).predict(world(300, 450))
    assert found.boxes.tolist() == [list(box)]
    assert found.side_sigma is not None and found.side_sigma.tolist() == [[1.5] * 4]


def test_thousands_of_pieces_are_joined_without_comparing_each_with_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """At a low score a large map has so many that pairs took minutes."""
    top = np.arange(8, 1390, 8, dtype=np.float32)
    bars = np.column_stack([np.full_like(top, 40), top, np.full_like(top, 1300), top + 4])
    oracle = Oracle(bars, np.zeros(len(bars), np.int64), lambda boxes: np.ones(len(boxes), bool))
    counted, areas = [], box_math.areas

    def counting(boxes: NDArray[np.float32]) -> Any:
        counted.append(len(boxes))
        return areas(boxes)

    monkeypatch.setattr(box_math, "areas", counting)
    found = Tiled(oracle).predict(world(1400, 1400))
    np.testing.assert_array_equal(sorted_rows(found)[:, :4], bars[::-1])
    assert len(oracle.looked) == 226 and len(counted) < 20_000


def test_pieces_of_other_classes_are_not_joined() -> None:
    oracle = Oracle(np.array([[60, 50, 190, 70], [62, 51, 188, 70]], np.float32), np.array([0, 1]))
    oracle.hide = lambda boxes: np.ones(len(boxes), bool)
    found = Tiled(oracle).predict(world(128, 224))
    assert sorted(zip(found.labels.tolist(), found.boxes.tolist(), strict=True)) == [
        (0, [60, 50, 190, 70]),
        (1, [62, 51, 188, 70]),
    ]


def test_a_whole_object_of_another_class_takes_no_piece_away() -> None:
    """In the left tile the two overlap by .88; the second is whole there."""
    boxes = np.array([[60, 50, 190, 70], [64, 50, 124, 70]], np.float32)
    oracle = Oracle(boxes, np.array([0, 1]), hide=lambda boxes: np.ones(len(boxes), bool))
    found = Tiled(oracle).predict(world(128, 224))
    assert dict(zip(found.labels.tolist(), found.boxes.tolist(), strict=True)) == dict(enumerate(boxes.tolist()))


@dataclass
class Unlike(Oracle):
    """The tile whose left edge is ``better`` is surer; the deviations are that edge, and the right one sees more."""

    better: int = 0

    def predict(self, source: Any, score: float = 0.3, *, iou: float = 0.6, max_boxes: int = 100) -> Detections:
        found, left = super().predict(source, score, iou=iou, max_boxes=max_boxes), float(source[0, 0, 0])
        taller = np.array([0, -3, 0, 3], np.float32) * (left > 0)
        sigma = np.full((len(found), 4), 1 + left, np.float32)
        scores = found.scores - np.float32(0.25 * (left != self.better))
        return Detections(found.boxes + taller, scores, found.labels, found.names, sigma)


@pytest.mark.parametrize("better", [0, 96])
def test_a_joined_box_has_the_best_score_and_what_is_said_of_its_outermost_sides(better: int) -> None:
    """What both tiles show, they see with an IoU of 20 / 26."""
    oracle = Unlike(np.array([[60, 50, 190, 70]], np.float32), np.zeros(1, np.int64), better=better)
    oracle.hide = lambda boxes: np.ones(len(boxes), bool)
    found = Tiled(oracle).predict(world(128, 224))
    assert found.boxes.tolist() == [[60, 47, 190, 73]]
    assert found.scores.tolist() == pytest.approx([0.9])
    assert found.side_sigma is not None and found.side_sigma.tolist() == [[1, 97, 97, 97]]


def test_a_whole_object_inside_a_cut_one_is_kept() -> None:
    """A person before a lorry: nested boxes of one class are two things."""
    boxes = np.array([[20, 20, 330, 120], [100, 60, 120, 110]], np.float32)
    found = Tiled(Oracle(boxes, np.zeros(2, np.int64))).predict(world(128, 350))
    assert sorted(found.boxes.tolist()) == sorted(boxes.tolist())


# --- where tiles lie ---


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.9])
@pytest.mark.parametrize(("height", "width"), [(129, 129), (1000, 300), (256, 128), (4000, 131)])
def test_tiles_cover_the_picture_and_overlap(height: int, width: int, overlap: float) -> None:
    tiles = Tiled(objects(np.random.default_rng(0), 1, 200, 200, 20), overlap=overlap).tiles((height, width))
    seen = np.zeros((height, width), bool)
    for tile in tiles:
        seen[tile.y1 : tile.y2, tile.x1 : tile.x2] = True
        assert tile.y2 - tile.y1 == min(SIDE, height) and tile.x2 - tile.x1 == min(SIDE, width)
    assert seen.all() and len(set(tiles)) == len(tiles)
    for starts in ({t.x1 for t in tiles}, {t.y1 for t in tiles}):
        assert all(b - a <= (1 - overlap) * SIDE for a, b in zip(sorted(starts), sorted(starts)[1:], strict=False))


@pytest.mark.parametrize(
    ("scale", "overlap", "count"), [(1, 0.25, 8), (1, 0, 6), (2, 0.25, 2), (0.5, 0.25, 28), (4, 0, 1)]
)
def test_scale_and_overlap_choose_how_many(scale: float, overlap: float, count: int) -> None:
    tiled = Tiled(objects(np.random.default_rng(0), 1, 200, 200, 20), scale, overlap)
    assert len(tiled.tiles((200, 350))) == count
    by_itself = Tiled(tiled.predictor).tiles((200, 350))
    assert by_itself == Tiled(tiled.predictor, 1.0, 0.25).tiles((200, 350))


def test_a_small_picture_is_looked_at_once() -> None:
    oracle = objects(np.random.default_rng(0), 5, 100, 120, 30)
    assert len(Tiled(oracle).predict(world(100, 120), 0.1)) == 5
    assert oracle.looked == [(100, 120)]


def test_a_large_picture_is_looked_at_in_tiles_and_once_as_a_whole() -> None:
    oracle = objects(np.random.default_rng(0), 5, 128, 224, 30)
    Tiled(oracle).predict(world(128, 224))
    assert oracle.looked == [(128, 128), (128, 128), (128, 224)]


def test_nothing_found_is_no_error() -> None:
    empty = Oracle(np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    found = Tiled(empty).predict(world(300, 300))
    assert len(found) == 0 and found.boxes.shape == (0, 4)


def test_limits_hold_for_the_whole_picture() -> None:
    oracle = objects(np.random.default_rng(0), 60, 600, 600, 30)
    best = Tiled(oracle).predict(world(600, 600), 0.1, max_boxes=7)
    assert best.scores.tolist() == pytest.approx(np.linspace(0.9, 0.5, len(oracle.boxes))[:7].tolist())
    assert (Tiled(oracle).predict(world(600, 600), 0.7).scores > 0.7).all()


@pytest.mark.parametrize(
    ("scale", "overlap"), [(0, 0.25), (-1, 0), (float("nan"), 0), (1, 1), (1, -0.1), (1, float("nan"))]
)
def test_options_without_meaning_are_refused(scale: float, overlap: float) -> None:
    with pytest.raises(UsageError, match=r"--tile-(scale|overlap)"):
        Tiled(objects(np.random.default_rng(0), 1, 200, 200, 20), scale, overlap)


def test_what_is_no_picture_is_refused() -> None:
    with pytest.raises(DataError, match="uint8"):
        Tiled(objects(np.random.default_rng(0), 1, 200, 200, 20)).predict(np.zeros((9, 9), np.uint8))


# --- with real files ---


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiles")
    write_models(folder, (64, 96))
    return folder


def test_checkpoint_and_file_agree_in_tiles(models: Path) -> None:
    picture = scene(150, 200, seed=3)
    torch, onnx = (nanogfl.Tiled(nanogfl.load(models / m)).predict(picture, 0.1) for m in ("best.ckpt", "model.onnx"))
    assert len(torch) > 5
    assert_same(torch, onnx, box_px=2e-2)


def test_on_the_command_line(models: Path, tmp_path: Path, command: Callable[..., Any]) -> None:
    write_picture(tmp_path / "a.png", scene(150, 200, seed=3))
    options = ("--score", 0.1, "--tiles", "--tile-scale", 1.5, "--tile-overlap", 0.5)
    said = command("predict", models / "model.onnx", tmp_path / "a.png", *options, "--json", tmp_path / "found.json")
    assert said.code == 0, said
    (record,) = json.loads((tmp_path / "found.json").read_text())
    expected = Tiled(nanogfl.load(models / "model.onnx"), 1.5, 0.5).predict(tmp_path / "a.png", 0.1)
    assert [d["box"] for d in record["detections"]] == [pytest.approx(b.tolist(), abs=1e-3) for b in expected.boxes]
    refused = command("predict", models / "model.onnx", tmp_path / "a.png", "--tiles", "--tile-overlap", 2)
    assert refused.code == 2 and refused.err.startswith("error: --tile-overlap 2")


@pytest.mark.parametrize("option", ["--tile-scale", "--tile-overlap"])
def test_an_option_of_tiles_without_tiles_is_refused(models: Path, command: Callable[..., Any], option: str) -> None:
    """Nothing would be looked at in tiles, and nobody would know; also where it says what holds anyway."""
    value = {"--tile-scale": 1, "--tile-overlap": 0.25}[option]
    said = command("predict", models / "model.onnx", "no.png", option, value)
    assert said.code == 2 and said.err == f"error: {option} requires --tiles; add it, or omit both\n"


def test_tiles_that_nobody_waits_for_are_refused() -> None:
    """0.05 of 128 px are 6 px, each a pixel from the next: twelve million. At 320 px, a gigapixel is fine."""
    none = Oracle(np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    with pytest.raises(UsageError, match=r"--tile-scale 0.05 with --tile-overlap 0.9 makes \d{8} tiles of .*4000x3000"):
        Tiled(none, 0.05, 0.9).tiles((3000, 4000))
    assert len(Tiled(none, 2.5, 0.0).tiles((32000, 32000))) == MOST
    with pytest.raises(UsageError, match=r"makes 10100 tiles"):
        Tiled(none, 2.5, 0.0).tiles((32000, 32001))


def test_a_tile_gives_as_many_boxes_as_are_asked_for_in_all() -> None:
    asked: list[tuple[float, int]] = []

    class Counting(Oracle):
        def predict(self, source: Any, score: float = 0.3, *, iou: float = 0.6, max_boxes: int = 100) -> Detections:
            asked.append((iou, max_boxes))
            return super().predict(source, score, iou=iou, max_boxes=max_boxes)

    tiled = Tiled(Counting(np.zeros((0, 4), np.float32), np.zeros(0, np.int64)))
    tiled.predict(world(600, 600), iou=0.45, max_boxes=700)
    assert len(asked) > 4 and set(asked) == {(0.45, 700)}
    asked.clear()
    tiled.predict(world(600, 600))
    assert set(asked) == {(0.6, 1000)}, "more than of one look: a large picture holds more"
