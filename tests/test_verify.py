"""nanogfl verify: equal pairs pass, others fail with numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from models import NAMES, scene, write_checkpoint, write_onnx
from onnx import numpy_helper
from runs import block_picture, write_coco

import nanogfl
from nanogfl.decode import Thresholds
from nanogfl.deploy.build import Form, build
from nanogfl.deploy.match import Kept, assign_partners, raw_difference
from nanogfl.deploy.pictures import edge_case_pictures, synthetic_pictures
from nanogfl.deploy.probe import Probe, decode_outputs
from nanogfl.deploy.run import verify
from nanogfl.deploy.tolerances import FLOAT16
from nanogfl.deploy.verify import Parity, compare, match, take
from nanogfl.detections import Detections
from nanogfl.errors import ExportError, UsageError
from nanogfl.model.detector import Architecture
from nanogfl.predictor import TorchDetector
from nanogfl.view import View

SIZE = (64, 64)


def write_file(checkpoint: Path, name: str, form: Form | None = None, size: tuple[int, int] = SIZE) -> Path:
    """The ONNX of a checkpoint, beside it and not proven."""
    detector = nanogfl.load(checkpoint, input=size)
    assert isinstance(detector, TorchDetector)
    path = checkpoint.with_name(name)
    path.write_bytes(build(detector, form or Form()).SerializeToString())
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints and files of a and b, one almost a, one with other classes, and a set of two pictures."""
    folder = tmp_path_factory.mktemp("verify")
    write_checkpoint(folder / "a.ckpt", input_size=SIZE)
    write_checkpoint(folder / "b.ckpt", input_size=SIZE, seed=7)
    write_checkpoint(folder / "other.ckpt", input_size=SIZE, names=("red", "green", "yellow"))
    write_file(folder / "a.ckpt", "a.onnx")
    write_file(folder / "a.ckpt", "core.onnx", Form("core"))
    write_file(folder / "a.ckpt", "tensor.onnx", Form("tensor", fixed=True, sigma=True))
    write_file(folder / "b.ckpt", "b.onnx")
    content = torch.load(folder / "a.ckpt", weights_only=True)
    for key, value in content["state_dict"].items():
        if "predict" in key and key.endswith("bias"):
            value[:3] += 0.05  # at a score of one half this is .012
    torch.save(content, folder / "almost.ckpt")
    rng = np.random.default_rng(0)
    write_coco(folder / "set", {"": [block_picture(rng) for _ in range(2)]})
    return folder


@pytest.mark.parametrize(
    ("a", "b"), [("a.ckpt", "a.onnx"), ("a.onnx", "a.ckpt"), ("core.onnx", "tensor.onnx"), ("a.ckpt", "a.ckpt")]
)
def test_equal_pairs(folder: Path, command: Callable[..., Any], a: str, b: str) -> None:
    said = command("verify", folder / a, folder / b, "--data", folder / "set")
    assert said.code == 0 and said.err == "", said
    words = said.out.split()
    assert words[:3] == ["equal:", "7", "pictures,"] and said.out.endswith(", 0 on one side only\n")
    assert ("fewer than 200: use --data with more objects" in said.out) == (int(words[3]) < 200)


@pytest.mark.parametrize(("a", "b"), [("a.ckpt", "b.onnx"), ("a.ckpt", "almost.ckpt"), ("a.onnx", "b.ckpt")])
def test_different_pairs_fail_with_numbers(folder: Path, command: Callable[..., Any], a: str, b: str) -> None:
    said = command("verify", folder / a, folder / b, "--data", folder / "set")
    assert said.code == 1 and said.out == ""
    (line,) = said.err.splitlines()
    assert line.startswith("error: the two models differ: 00")
    assert " px, scores by " in line and "raw outputs " in line and line.count("boxes differ by") == 3


def test_where_nothing_was_compared_nothing_is_equal(tmp_path: Path) -> None:
    """Other sizes have no raw outputs to compare, and detectors that see background alone no boxes."""
    sizes = ((64, 64), (64, 96))
    files = [write_checkpoint(tmp_path / f"{w}.ckpt", input_size=(h, w), background=-30.0) for h, w in sizes]
    for file in files:
        write_onnx(file, file.with_suffix(".onnx"))
    with pytest.raises(ExportError, match="nothing was compared; use --data"):
        verify(tmp_path / "64.onnx", tmp_path / "96.onnx")


@pytest.mark.parametrize(("centred", "family"), [(True, "first"), (False, "plus")])
def test_a_files_priors_are_those_of_its_family(centred: bool, family: Any, tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "c.ckpt", Architecture("s", 3, family=family), input_size=SIZE)
    write_onnx(path, tmp_path / "c.onnx")
    layouts = [Probe(nanogfl.load(tmp_path / name), rounds=False).layout for name in ("c.ckpt", "c.onnx")]
    assert layouts[0].centred == layouts[1].centred == centred and layouts[0].strides == layouts[1].strides


def test_deviations_of_the_sides_are_compared_where_both_have_them(folder: Path, tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "c.ckpt", input_size=SIZE)
    write_file(path, "c.onnx", Form(sigma=True))
    said = verify(path, tmp_path / "c.onnx", folder / "set")
    assert said.sigma_px is not None and 0 < said.sigma_px < 0.1 and "sigma_px" in said.to_json()
    content = torch.load(path, weights_only=True)
    content["nanogfl"]["temperature"] = 1.5
    torch.save(content, tmp_path / "warm.ckpt")
    with pytest.raises(ExportError, match="standard deviations differ by"):
        verify(tmp_path / "warm.ckpt", tmp_path / "c.onnx", folder / "set")
    assert verify(tmp_path / "warm.ckpt", folder / "a.onnx", folder / "set").sigma_px is None


def test_nanodets_checkpoint_is_compared_as_its_yml_says(shared: Path, tmp_path: Path) -> None:
    checkpoint, config = shared / "reference" / "nanodet_plus_m_10cls.ckpt", tmp_path / "n.yml"
    names = [f"kind {i}" for i in range(10)]
    config.write_text(f"class_names: {names}\ndata: {{val: {{input_size: [96, 64], keep_ratio: false}}}}\n")
    nanogfl.export(checkpoint, out=tmp_path / "n.onnx", config=config)
    assert verify(checkpoint, tmp_path / "n.onnx", config=config).holds
    with pytest.raises(UsageError, match="different classes"):
        verify(checkpoint, tmp_path / "n.onnx")


def test_without_data_drawn_pictures_are_compared(folder: Path, command: Callable[..., Any]) -> None:
    said = command("verify", folder / "a.ckpt", folder / "a.onnx")
    assert said.code == 0 and said.out.startswith("equal: 29 pictures, "), said


def test_other_classes_cannot_be_compared(folder: Path, command: Callable[..., Any]) -> None:
    said = command("verify", folder / "a.ckpt", folder / "other.ckpt", "--data", folder / "set")
    assert said.code == 2
    assert said.err == "error: the two models have different classes (red, green, blue... and red, green, yellow...)\n"


@pytest.mark.parametrize(("a", "b"), [("c.ckpt", "c.onnx"), ("c.onnx", "c.ckpt")])
def test_a_checkpoint_is_compared_at_the_files_size(folder: Path, tmp_path: Path, a: str, b: str) -> None:
    write_file(write_checkpoint(tmp_path / "c.ckpt", input_size=(96, 96)), "c.onnx")
    parity = verify(tmp_path / a, tmp_path / b, folder / "set")
    assert parity.holds and parity.raw is not None and parity.pictures == 7


def test_verify_raises(folder: Path) -> None:
    with pytest.raises(ExportError, match="the two models differ"):
        verify(folder / "a.onnx", folder / "b.onnx", folder / "set")


def test_compare_runs_over_all_pictures(folder: Path) -> None:
    a, b = nanogfl.load(folder / "a.ckpt"), nanogfl.load(folder / "a.onnx")
    parity = compare(a, b, edge_case_pictures())
    assert parity.holds and parity.pictures == 5 and parity.raw is not None and parity.raw < 1e-3
    with pytest.raises(UsageError, match="different classes"):
        compare(a, nanogfl.load(folder / "other.ckpt"), edge_case_pictures())


@pytest.mark.parametrize(
    ("boxes", "words"),
    [(0, "fewer than 200"), (199, "fewer than 200: use --data with more objects"), (200, ""), (5000, "")],
)
def test_few_boxes_are_said(boxes: int, words: str) -> None:
    text = Parity(pictures=3, boxes=boxes, box_px=0.25, score=1e-4, one_sided=1, raw=None).to_text()
    assert ("fewer" in text) == bool(words) and words in text
    assert text.startswith(f"3 pictures, {boxes} boxes compared") and "0.2500 px" in text
    assert text.endswith("raw outputs not compared, 1 on one side only")


# --- how two sets of boxes are matched ---


def found(*rows: tuple[float, float, float, float, float, int]) -> Detections:
    """Rows of x1, y1, x2, y2, score, label, best first."""
    table = np.array(rows, np.float64).reshape(-1, 6)
    return Detections(
        table[:, :4].astype(np.float32), table[:, 4].astype(np.float32), table[:, 5].astype(np.int64), list(NAMES)
    )


BOX = (10.0, 10.0, 50.0, 50.0, 0.9, 0)
SMALL = (60.0, 60.0, 70.0, 70.0, 0.5, 1)


@pytest.mark.parametrize(
    ("a", "b", "expected", "holds", "reason"),
    [
        (found(), found(), (0, 0.0, 0.0, 0), True, "nothing on both sides"),
        (found(BOX, SMALL), found(BOX, SMALL), (2, 0.0, 0.0, 0), True, "the same"),
        (found(BOX), found((10, 10, 50, 50.25, 0.9, 0)), (1, 0.25, 0.0, 0), True, "within half a pixel"),
        (found(BOX), found((10, 10, 50, 50.75, 0.9, 0)), (1, 0.75, 0.0, 0), False, "beyond half a pixel"),
        (found(BOX), found((10, 10, 50, 50, 0.9005, 0)), (1, 0.0, 0.0005, 0), True, "within .001 of score"),
        (found(BOX), found((10, 10, 50, 50, 0.902, 0)), (1, 0.0, 0.002, 0), False, "beyond .001 of score"),
        (found(BOX, SMALL), found(BOX), (1, 0.0, 0.0, 1), False, "only the first has it"),
        (found(BOX), found(BOX, SMALL), (1, 0.0, 0.0, 1), False, "only the second has it"),
        (found(BOX), found((10, 10, 50, 50, 0.9, 1)), (0, 0.0, 0.0, 2), False, "another class"),
        (found(BOX, BOX), found(BOX), (1, 0.0, 0.0, 1), False, "one box is not two"),
        (found(BOX), found((15, 10, 55, 50, 0.9, 0)), (1, 5.0, 0.0, 0), False, "the same, but far away"),
        (found(BOX, (0, 0, 9, 9, 0.0505, 2)), found(BOX), (1, 0.0, 0.0, 0), True, "at the threshold"),
        (found(BOX, (0, 0, 9, 9, 0.0515, 2)), found(BOX), (1, 0.0, 0.0, 1), False, "above it"),
    ],
)
def test_matching(
    a: Detections, b: Detections, expected: tuple[int, float, float, int], holds: bool, reason: str
) -> None:
    parity = Parity()
    match(parity, "a picture", a, b, Thresholds(score=0.05), None)
    got = (parity.boxes, parity.box_px, parity.score, parity.one_sided)
    assert got == pytest.approx(expected, abs=1e-5), reason
    assert parity.ties == 0
    assert parity.holds is holds and [line.split(":")[0] for line in parity.worst] == ["a picture"] * (not holds)


@pytest.mark.parametrize(("sigma", "holds"), [(1.0, True), (1.4, True), (1.6, False), (np.nan, False), (np.inf, False)])
def test_deviations_match_too(sigma: float, holds: bool) -> None:
    """What is no number is no equal one."""
    sides = [replace(found(BOX), side_sigma=np.array([[1, 1, v, 1]], np.float32)) for v in (1.0, sigma)]
    for a, b in (sides, sides[::-1]):
        parity = Parity()
        match(parity, "a picture", a, b, Thresholds(score=0.05), None)
        assert parity.holds is holds and parity.boxes == 1


@pytest.mark.parametrize(
    ("box", "priors", "judged"),
    [
        (BOX, (3, 3), True),
        (BOX, (3, 4), False),  # a near tie of two priors in one place
        ((96, 10, 96, 50, 0.9, 0), (3, 3), False),  # cut to one line of the edge
    ],
)
def test_deviations_are_judged_where_they_are_of_one_box(box: Any, priors: tuple[int, int], judged: bool) -> None:
    a, b = (replace(found(box), side_sigma=np.full((1, 4), v, np.float32)) for v in (1, 3))
    kept = [Kept(np.array([p]), side.boxes, side.boxes * 0) for p, side in zip(priors, (a, b), strict=True)]
    parity = Parity()
    match(parity, "a picture", a, b, Thresholds(score=0.05), (kept[0], kept[1]))
    assert parity.boxes == 1 and parity.holds is not judged and parity.sigma_px == (2 if judged else 0)


@pytest.mark.parametrize("broken", [(np.nan, 10, 50, 50, 0.9, 0), (10, 10, 50, 50, np.nan, 0)])
def test_boxes_that_are_no_numbers_match_nothing(broken: tuple[Any, ...]) -> None:
    for a, b in ((found(BOX), found(broken)), (found(broken), found(BOX)), (found(broken), found(broken))):
        parity = Parity()
        match(parity, "a picture", a, b, Thresholds(score=0.05), None)
        assert not parity.holds and parity.one_sided == 2


def test_boxes_without_area_match_themselves() -> None:
    """Boxes in the grey border of a letterbox are clipped to the frame's edge."""
    parity = Parity()
    edge = found((0.0, 10.0, 0.0, 50.0, 0.9, 0), (0.0, 10.0, 0.0, 50.0, 0.7, 0), (0.0, 10.0, 0.0, 50.0, 0.4, 0))
    match(parity, "a picture", edge, edge, Thresholds(score=0.05), None)
    assert parity.holds and parity.boxes == 3 and parity.score == 0


# Near ties: A overlaps B by .90, and C by .54; B overlaps C by .60
A, B, C = (10.0, 10.0, 50.0, 50.0), (12.1, 10.0, 52.1, 50.0), (22.1, 10.0, 62.1, 50.0)
FAR = (100.0, 100.0, 140.0, 140.0, 0.3, 1)
NEAR_C = (21.7, 10.0, 61.7, 50.0)  # overlaps B by .613
AFTER = (20.5, 10.0, 60.5, 50.0)  # overlaps A by .584, B by .653
TINY, SHIFTED, BESIDE = (0.0, 0.0, 10.0, 10.0), (0.4, 0.0, 10.4, 10.0), (2.508, 0.0, 12.508, 10.0)  # by .599, by .652


@pytest.mark.parametrize(
    ("a", "b", "ties", "beyond", "reason"),
    [
        (found((*A, 0.8, 0)), found((*B, 0.7996, 0)), 2, 0, "the order of two equal scores turned"),
        (found((*A, 0.8, 0)), found((*B, 0.79, 0)), 0, 0, "no tie: a box that moved by 2 px"),
        (found((*A, 0.8, 0)), found((*B, 0.8, 1)), 0, 2, "another class suppresses nothing"),
        (found((*B, 0.8, 0), (*C, 0.5, 0)), found((*B, 0.8, 0)), 1, 0, "an overlap at the threshold"),
        (found((*A, 0.8, 0), (*C, 0.5, 0)), found((*A, 0.8, 0)), 0, 1, "an overlap below it: somebody lost a box"),
        (found((*A, 0.8, 0), (*B, 0.5, 0)), found((*A, 0.8, 0)), 0, 1, "an overlap above it: NMS was left out"),
        (found((*A, 0.8, 0), (*C, 0.5, 0)), found((*B, 0.7996, 0)), 3, 0, "what follows from a turned order"),
        (found((*B, 0.8, 0), (*NEAR_C, 0.5, 0)), found((*B, 0.8, 0)), 0, 1, "an overlap a hundredth above it"),
        (found((*A, 0.8, 0), (*AFTER, 0.5, 0)), found((*B, 0.7996, 0)), 3, 0, "what B suppresses, and A does not"),
        (found((*TINY, 0.8, 0), (*BESIDE, 0.5, 0)), found((*SHIFTED, 0.8, 0)), 1, 0, "at the threshold on one side"),
        (found((*A, 0.8, 0), FAR), found((*A, 0.8, 0)), 0, 1, "nobody near suppressed it"),
        (found((*A, 0.5, 0)), found(), 0, 1, "nobody suppressed it"),
    ],
)
def test_near_ties_are_no_difference(a: Detections, b: Detections, ties: int, beyond: int, reason: str) -> None:
    for first, second in ((a, b), (b, a)):
        parity = Parity()
        kept = [
            Kept(np.arange(len(side)) + start, side.boxes, np.zeros_like(side.boxes))
            for side, start in ((first, 0), (second, 10))
        ]
        match(parity, "a picture", first, second, Thresholds(score=0.05), (kept[0], kept[1]))
        assert (parity.ties, parity.one_sided) == (ties, beyond), reason
        assert parity.holds == (ties > 0)
        assert ("by near ties of NMS" in parity.to_text()) == (ties > 0)


def test_a_worse_box_suppresses_nothing() -> None:
    """C would not be there beside B, but B would beside C."""
    parity, (a, b) = Parity(), (found((*B, 0.8, 0)), found((*C, 0.5, 0)))
    kept = [Kept(np.array([i]), side.boxes, np.zeros((1, 4), np.float32)) for i, side in enumerate((a, b))]
    match(parity, "a picture", a, b, Thresholds(score=0.05), (kept[0], kept[1]))
    assert (parity.ties, parity.one_sided) == (1, 1)


def test_a_hundredth_of_score_weighs_as_much_as_a_pixel() -> None:
    a, b = found((10, 10, 50, 50, 0.9, 0)), found((10, 10, 50, 50.05, 0.9009, 0), (10, 10, 50, 50.1, 0.9, 0))
    assert assign_partners(np.array([-1]), a, b, np.ones((1, 2), bool)).tolist() == [1]


def test_the_difference_of_raw_outputs_by_hand() -> None:
    scores, sides = np.zeros((1, 4, 3), np.float32), np.zeros((1, 4, 32), np.float32)
    for other, expected in (((scores + 0.3, sides - 2), 0.3), ((scores - 0.1, sides - 2), 0.2), ((scores, sides), 0)):
        assert raw_difference((scores, sides), other) == pytest.approx(expected)
    assert raw_difference((scores, sides * np.nan), (scores, sides)) == np.inf


def test_equal_boxes_of_two_priors_are_two_boxes() -> None:
    """In a frame of one pixel all boxes are equal; A and B turned, so that B took what comes after A."""
    pixel = (0.0, 0.0, 1.0, 1.0)
    a, b = (
        found((*pixel, 0.8, 0), (*pixel, 0.7999, 0), (*pixel, 0.5, 0)),
        found((*pixel, 0.7999, 0), (*pixel, 0.7996, 0)),
    )
    places = [np.array(boxes, np.float32) for boxes in ((A, FAR[:4], AFTER), (FAR[:4], B))]
    kept = [Kept(np.array(rows), at, at * 0) for rows, at in zip(([0, 9, 2], [9, 1]), places, strict=True)]
    parity = Parity()
    match(parity, "one pixel", a, b, Thresholds(score=0.05), (kept[0], kept[1]))
    assert parity.holds and (parity.boxes, parity.ties, parity.score) == (2, 1, pytest.approx(4e-4, abs=1e-6))


def test_a_box_that_both_kept_is_no_tie() -> None:
    """The same prior at two places, its score equal: one of the two maps boxes wrongly."""
    parity, (a, b) = Parity(), (found((*A, 0.8, 0)), found((*B, 0.8, 0)))
    of_prior_3 = Kept(np.array([3]), a.boxes, np.zeros((1, 4), np.float32))
    match(parity, "a picture", a, b, Thresholds(score=0.05), (of_prior_3, of_prior_3))
    assert not parity.holds and parity.ties == 0 and parity.box_px == pytest.approx(2.1, abs=1e-4)


def test_ties_do_not_count_where_raw_outputs_differ(folder: Path) -> None:
    detector = nanogfl.load(folder / "a.ckpt")
    view = View((120, 160), SIZE, "stretch")
    (seen,) = Probe(detector, False).see([scene()], Thresholds(score=0.05))
    moved = replace(seen, found=replace(seen.found, boxes=seen.found.boxes + np.float32(2)))
    off = replace(moved, scores=seen.scores + np.float32(0.03))
    assert seen.view == view
    for other, raw in ((seen, 0.0), (moved, 0.0), (off, 0.03)):
        parity = Parity()
        take(parity, "a picture", seen, other, detector.card.layout, Thresholds(score=0.05))
        assert parity.holds is (other is seen) and parity.ties == 0 and parity.raw == pytest.approx(raw, abs=1e-6)


def test_the_worst_picture_counts_not_the_last(folder: Path) -> None:
    detector = nanogfl.load(folder / "a.ckpt")
    (seen,) = Probe(detector, False).see([scene()], Thresholds(score=0.05))
    off, dark = replace(seen, scores=seen.scores + np.float32(0.03)), replace(seen, scores=seen.scores * 0)
    parity = Parity()
    for a, b in ((seen, off), (seen, seen), (dark, dark)):
        take(parity, "a picture", a, b, detector.card.layout, Thresholds(score=0.05))
    assert parity.raw == pytest.approx(0.03, abs=1e-6) and parity.best == seen.scores.max() and not parity.holds
    assert 1 / (1 + np.exp(-(np.log(parity.best / (1 - parity.best)) + parity.lift))) == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("score", "raw", "holds"), [(0, 0, True), (0.049, 0.049, True), (0.051, 0.051, False), (0, 0.26, False)]
)
def test_what_is_asked_of_half_precision(folder: Path, score: float, raw: float, holds: bool) -> None:
    detector = nanogfl.load(folder / "a.ckpt")
    (seen,) = Probe(detector, False).see([scene(120, 160)], Thresholds(score=0.05))
    found = replace(seen.found, scores=seen.found.scores + np.float32(score))
    parity = Parity(tolerances=FLOAT16)
    other = replace(seen, found=found, scores=seen.scores + np.float32(raw))
    take(parity, "a picture", seen, other, detector.card.layout, Thresholds(score=0.05))
    assert parity.holds is holds


@pytest.mark.parametrize(("tilt", "holds"), [(0.17, True), (0.27, False)])
def test_sides_in_half_precision_move_within_their_deviations(folder: Path, tilt: float, holds: bool) -> None:
    """Logits t i higher at bin i move the mean of a nearly flat distribution by t times its variance, 5.25 bins."""
    detector, limits = nanogfl.load(folder / "a.ckpt"), Thresholds(score=0.05)
    layout, size = detector.card.layout, (4 * SIZE[0], 4 * SIZE[1])
    view, bins = View(size, SIZE, "stretch"), np.tile(np.arange(8, dtype=np.float32), 4)
    raw = np.zeros((len(layout.priors_at(np.arange(85))), 3 + 32), np.float32)
    raw[:, :3], raw[40, 0] = -9, 2  # one box, in the middle of the level of stride 8
    parity, both = Parity(tolerances=FLOAT16), [raw, raw.copy()]
    both[1][:, 3:] += np.float32(tilt) * bins
    take(parity, "a picture", *(decode_outputs(r, layout, view, detector.names, limits) for r in both), layout, limits)
    assert parity.holds is holds and parity.raw == pytest.approx(0.7 * tilt, rel=1e-4)
    assert parity.boxes == 1 and parity.box_px > 2  # px of the input


# --- files that are wrong in the ways files are wrong ---


def nodes(model: onnx.ModelProto, kind: str) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == kind]


def change(model: onnx.ModelProto, name: str, value: Callable[[np.ndarray], np.ndarray]) -> None:
    tensor = next(t for t in model.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(np.array(value(numpy_helper.to_array(tensor)), order="C"), name))


def swapped_sides(model: onnx.ModelProto) -> None:
    """Heights where widths belong, on the way back."""
    gather = next(node for node in model.graph.node if node.name == "frame_scale")
    change(model, gather.input[1], lambda double: double[[1, 0, 3, 2]])


def swapped_channels(model: onnx.ModelProto) -> None:
    """RGB where BGR belongs."""
    change(model, nodes(model, "Conv")[0].input[1], lambda weight: weight[:, ::-1])


def without_sigmoid(model: onnx.ModelProto) -> None:
    node = next(node for node in nodes(model, "Sigmoid") if node.output[0] == "class_scores")
    node.op_type = "Identity"


def twice_sigmoid(model: onnx.ModelProto) -> None:
    node = next(node for node in nodes(model, "Sigmoid") if node.output[0] == "class_scores")
    model.graph.node.insert(
        list(model.graph.node).index(node), onnx.helper.make_node("Sigmoid", [node.input[0]], ["once"])
    )
    node.input[0] = "once"


def other_mean(model: onnx.ModelProto) -> None:
    change(model, nodes(model, "Sub")[-1].input[1], lambda mean: mean[:, ::-1])


def other_strides(model: onnx.ModelProto) -> None:
    (stride,) = (t.name for t in model.graph.initializer if list(t.dims)[:2] == [1, 1] and t.dims[-1] > 50)
    change(model, stride, lambda value: value * np.float32(1.25))


def without_suppression(model: onnx.ModelProto) -> None:
    change(model, "iou_threshold", lambda value: np.array(1.0, np.float32))


def looser_suppression(model: onnx.ModelProto) -> None:
    change(model, "iou_threshold", lambda value: np.array(0.65, np.float32))


def nothing(model: onnx.ModelProto) -> None:
    """The right file."""


@pytest.mark.parametrize(
    ("rule", "written", "spoil", "equal"),
    [
        ("stretch", "stretch", nothing, True),
        ("stretch", "stretch-corner", nothing, False),
        ("stretch", "stretch-antialias", nothing, False),
        ("stretch", "letterbox", nothing, False),
        ("letterbox", "letterbox-antialias", nothing, False),
        ("letterbox", "letterbox", swapped_sides, False),
        ("stretch", "stretch", swapped_sides, False),
        ("stretch", "stretch", swapped_channels, False),
        ("stretch", "stretch", without_sigmoid, False),
        ("stretch", "stretch", twice_sigmoid, False),
        ("stretch", "stretch", other_mean, False),
        ("stretch", "stretch", other_strides, False),
        ("stretch", "stretch", without_suppression, False),
        ("stretch", "stretch", looser_suppression, False),
    ],
)
def test_wrong_files_are_refused(
    tmp_path: Path, rule: str, written: str, spoil: Callable[[onnx.ModelProto], None], equal: bool
) -> None:
    """The file says that its rule is the checkpoint's; what it does is another matter."""
    torch = nanogfl.load(write_checkpoint(tmp_path / "c.ckpt", input_size=(64, 96), resize=rule))
    assert isinstance(torch, TorchDetector)
    right, torch.card = torch.card, replace(torch.card, resize=written)
    model = build(torch, Form(fixed=True))
    torch.card = right
    next(p for p in model.metadata_props if p.key == "nanogfl.resize").value = rule
    spoil(model)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    pictures = [("a scene", scene(150, 200)), ("another", scene(90, 70, seed=4)), *edge_case_pictures()]
    assert compare(torch, nanogfl.load(tmp_path / "m.onnx"), pictures).holds is equal


def renamed_classes(model: onnx.ModelProto) -> None:
    """The last class where the first belongs."""
    node = next(node for node in model.graph.node if node.output[0] == "labels")
    model.graph.initializer.append(numpy_helper.from_array(np.array(2), "last_label"))
    node.op_type, node.input[:] = "Sub", ["last_label", node.input[0]]


def a_little_looser(model: onnx.ModelProto) -> None:
    """Another IoU threshold than the graph's own input says."""
    (node,) = nodes(model, "NonMaxSuppression")
    model.graph.initializer.append(numpy_helper.from_array(np.array(0.04, np.float32), "looser_by"))
    at = list(model.graph.node).index(node)
    model.graph.node.insert(at, onnx.helper.make_node("Add", [node.input[3], "looser_by"], ["looser"]))
    node.input[3] = "looser"


def moved_boxes(model: onnx.ModelProto) -> None:
    """By .7 px of the frame."""
    node = next(node for node in model.graph.node if node.output[0] == "boxes")
    node.output[0] = "boxes_before"
    model.graph.initializer.append(numpy_helper.from_array(np.array(0.7, np.float32), "moved_by"))
    model.graph.node.append(onnx.helper.make_node("Add", ["boxes_before", "moved_by"], ["boxes"]))


def surer_sides(model: onnx.ModelProto) -> None:
    """Deviations a fifth smaller than those of its distributions."""
    node = next(node for node in model.graph.node if node.output[0] == "side_sigma")
    node.output[0] = "sigma_before"
    model.graph.initializer.append(numpy_helper.from_array(np.array(0.8, np.float32), "surer_by"))
    model.graph.node.append(onnx.helper.make_node("Mul", ["sigma_before", "surer_by"], ["side_sigma"]))


@pytest.mark.parametrize(
    ("spoil", "equal"),
    [
        (nothing, True),
        (swapped_sides, False),
        (renamed_classes, False),
        (a_little_looser, False),
        (moved_boxes, False),
        (surer_sides, False),
    ],
)
@pytest.mark.parametrize("half", [False, True])
def test_a_half_precision_file_decodes_as_sharply_as_any(
    tmp_path: Path, half: bool, spoil: Callable[[onnx.ModelProto], None], equal: bool
) -> None:
    torch = nanogfl.load(write_checkpoint(tmp_path / "c.ckpt", input_size=(64, 96)))
    assert isinstance(torch, TorchDetector)
    model = build(torch, Form(half=half, sigma=True))
    spoil(model)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    pictures = [("a scene", scene(150, 200)), ("another", scene(90, 70, seed=4)), *edge_case_pictures()]
    parity = compare(torch, nanogfl.load(tmp_path / "m.onnx"), pictures)
    assert parity.holds is equal, parity.worst
    if half and not equal:
        assert any(line.endswith(" from its own raw outputs") for line in parity.worst)


@pytest.mark.parametrize(("spoil", "equal"), [(nothing, True), (swapped_sides, False), (renamed_classes, False)])
@pytest.mark.parametrize("fixed", [True, False])
def test_where_nothing_is_found_class_logits_are_raised(
    folder: Path, tmp_path: Path, fixed: bool, spoil: Callable[[onnx.ModelProto], None], equal: bool
) -> None:
    """Equal raw outputs say nothing of what is made of them."""
    path = write_checkpoint(tmp_path / "quiet.ckpt", input_size=(64, 96), background=-25.0)
    file = write_file(path, "quiet.onnx", Form(fixed=fixed), (64, 96))
    model = onnx.load(file)
    spoil(model)
    onnx.save(model, file)
    if equal:
        said = verify(path, file, folder / "set")
        assert said.to_json()["raised"] == pytest.approx(said.raised, abs=1e-3) and said.boxes > 20
        assert (
            f"{said.boxes} boxes compared, none unless class logits are raised by {said.raised:.1f}" in said.to_text()
        )
        return
    with pytest.raises(ExportError, match=r"the two models differ: .* on one side only"):
        verify(path, file, folder / "set")


@pytest.mark.parametrize("fixed", [True, False])
@pytest.mark.parametrize(("name", "value"), [("score_threshold", 0.9), ("iou_threshold", 0.05), ("max_boxes", 7)])
def test_thresholds_of_the_graph_are_those_of_the_card(
    folder: Path, tmp_path: Path, name: str, value: float, fixed: bool
) -> None:
    """Who cannot set them uses the graph's."""
    model = onnx.load(write_file(folder / "a.ckpt", f"spoilt_{fixed}.onnx", Form(fixed=fixed)))
    change(model, name, lambda old: np.asarray(value, old.dtype).reshape(old.shape))
    onnx.save(model, tmp_path / "m.onnx")
    said = {"score_threshold": "0.05", "iou_threshold": "0.6", "max_boxes": "100"}[name]
    with pytest.raises(ExportError, match=f"m.onnx has {value} as {name} in its graph, {said} in its metadata"):
        verify(folder / "a.ckpt", tmp_path / "m.onnx", folder / "set")


def test_a_full_list_may_end_differently() -> None:
    """Where max_boxes cut both lists, the last score is the threshold."""
    parity = Parity()
    first, second = found(BOX, SMALL), found(BOX, (80, 80, 90, 90, 0.5, 1))
    match(parity, "a picture", first, second, Thresholds(score=0.05, max_boxes=2), None)
    assert parity.holds and parity.one_sided == 0


@pytest.mark.parametrize(
    ("priors", "most", "holds", "reason"),
    [
        ((1, 2), 2, True, "each list ends with another of many equal scores"),
        ((1, 2), 3, False, "neither list is full: one of the two must be missing"),
        ((1, 1), 2, False, "one prior, in two places"),
    ],
)
def test_boxes_that_a_full_list_may_lack_are_not_compared_with_others_nearby(
    priors: tuple[int, int], most: int, holds: bool, reason: str
) -> None:
    sides = [found(BOX, (x, 60.0, x + 40, 100.0, 0.9, 0)) for x in (60.0, 71.0)]  # their IoU is .57
    kept = [Kept(np.array([0, p]), side.boxes, side.boxes * 0) for p, side in zip(priors, sides, strict=True)]
    parity = Parity()
    match(parity, "a picture", *sides, Thresholds(score=0.05, max_boxes=most), (kept[0], kept[1]))
    assert (parity.holds, parity.boxes, parity.box_px) == (holds, 1 if holds else 2, 0 if holds else 11), reason


@pytest.mark.parametrize(("raw", "holds"), [(None, True), (0.0, True), (0.01, True), (0.02, False)])
def test_raw_outputs_count_too(raw: float | None, holds: bool) -> None:
    assert Parity(raw=raw).holds is holds


def test_pictures_to_compare_on() -> None:
    drawn = list(synthetic_pictures(3))
    assert [picture.shape[:2] for _, picture in drawn[:3]] == [(480, 640), (320, 320), (640, 360)]
    assert {name: picture.shape[:2] for name, picture in drawn[3:]} == {
        "blank frame 0": (240, 427),
        "blank frame 255": (240, 427),
        "noise": (360, 202),
        "one pixel": (1, 1),
        "a strip": (37, 901),
    }
    again = list(synthetic_pictures(3))
    assert all((a[1] == b[1]).all() for a, b in zip(drawn, again, strict=True)), "the same every time"
