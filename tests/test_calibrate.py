"""nanogfl.evaluation.calibrate: the factor and the table on sides whose truth is known, and where it is stored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from models import assert_same, scene, write_checkpoint
from runs import checkpoint

import nanogfl
from nanogfl.data.readers import read_table
from nanogfl.data.splits import select
from nanogfl.data.table import Example, Table
from nanogfl.deploy.build import Form, build
from nanogfl.detections import Detections
from nanogfl.evaluation.calibrate import (
    LEAST_SIDES,
    SHOWN_SCORE,
    Sides,
    fit_temperature,
    matched_sides,
    reliability,
    spearman,
)
from nanogfl.predictor import TorchDetector


def sides(count: int, factor: float, seed: int = 0) -> Sides:
    """Normal errors whose deviation is the factor times sigma."""
    rng = np.random.default_rng(seed)
    sigma = rng.uniform(1, 20, count)
    return Sides(sigma, np.abs(rng.normal(0, factor * sigma)))


def one_box(
    box: list[float],
    found: list[float],
    sigma: list[float],
    score: float = 0.9,
    size: tuple[int, int] = (100, 100),
) -> tuple[Table, list[Detections]]:
    corners = np.array([box], np.float64)
    example = Example(Path("a"), "a", *size, corners, np.zeros(1, np.int64), np.zeros(1, bool), np.ones(1))
    given = Detections(
        np.array([found], np.float32), np.array([score], np.float32), np.zeros(1, np.int64), ["x"],
        np.array([sigma], np.float32),
    )  # fmt: skip
    return Table(Path(), "coco", ("x",), (example,)), [given]


@pytest.mark.parametrize("factor", [0.2, 0.5, 1.0, 3.0])
def test_the_factor_is_found(factor: float) -> None:
    assert fit_temperature(sides(20000, factor)) == pytest.approx(factor, rel=0.02)


def test_a_few_wild_boxes_move_it_little() -> None:
    clean = sides(2000, 0.5)
    wild = Sides(np.append(clean.sigma, np.ones(40)), np.append(clean.error, np.full(40, 1e4)))
    assert fit_temperature(wild) == pytest.approx(0.5, rel=0.1)


def test_with_the_factor_it_is_calibrated() -> None:
    raw = sides(20000, 0.4)
    before = reliability(raw)
    assert before is not None
    after = reliability(Sides(raw.sigma * before.factor, raw.error))
    assert after is not None
    assert after.factor == pytest.approx(1, abs=1e-9)
    assert after.whole.within_one == pytest.approx(0.683, abs=0.001)
    assert after.whole.within_two == pytest.approx(0.954, abs=0.01)
    assert after.spearman == pytest.approx(before.spearman)
    assert [b.sides for b in after.bins] == [2000] * 10
    for b in after.bins:
        assert b.within_one == pytest.approx(0.683, abs=0.03)
        assert b.spread == pytest.approx(b.sigma, rel=0.1)


def test_a_bin_by_hand() -> None:
    """Of 200 sides 100 are off by a sigma, 60 by two, 40 by more; so few are enough."""
    sigma = np.full(200, 2.0)
    told = reliability(Sides(sigma, sigma * np.repeat([1.0, 2.0, 2.5], [100, 60, 40])))
    assert told is not None
    assert (told.whole.within_one, told.whole.within_two) == (0.5, 0.8)
    assert (told.whole.sides, told.whole.sigma, told.whole.error) == (200, 2, pytest.approx(3.2))
    assert told.whole.spread == 4 and told.factor == 2 and told.spearman == 0
    assert reliability(Sides(sigma[1:], sigma[1:])) is None and fit_temperature(Sides(sigma[1:], 3 * sigma[1:])) == 1


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (sides(LEAST_SIDES - 1, 0.3), "too few"),
        (Sides(np.ones(400), np.zeros(400)), "no error at all: a factor of zero would say that sides are exact"),
        (Sides(np.zeros(0), np.zeros(0)), "nothing"),
    ],
)
def test_no_factor_where_nothing_tells_one(given: Sides, why: str) -> None:
    assert fit_temperature(given) == 1.0, why


def test_which_sides_count() -> None:
    found = matched_sides(*one_box([10, 20, 60, 90], [12, 20.5, 57, 95], [1, 2, 3, 4]))
    assert found.sigma.tolist() == [1, 2, 3, 4]
    assert found.error == pytest.approx([2, 0.5, 3, 5])
    clipped = matched_sides(*one_box([0, 20, 100, 90], [0, 21, 99.5, 90], [1, 2, 3, 4]))
    assert clipped.sigma.tolist() == [2, 4]  # the sides on the border are exact, whatever their sigma
    wide = matched_sides(*one_box([5, 5, 119, 79], [5, 5, 119, 79], [1, 2, 3, 4], size=(120, 80)))
    assert wide.sigma.tolist() == [1, 2]  # right and bottom lie within a pixel of it
    for score, count in ((0.25, 0), (0.31, 4)):
        shown = matched_sides(*one_box([10, 20, 60, 90], [12, 20, 57, 95], [1, 2, 3, 4], score=score))
        assert len(shown) == count
    at_the_bound = one_box([10, 20, 60, 90], [12, 20, 57, 95], [1, 2, 3, 4], score=SHOWN_SCORE)
    assert len(matched_sides(*at_the_bound)) == 0, "above, not at"
    assert len(matched_sides(*one_box([10, 20, 60, 90], [60, 20, 99, 95], [1, 2, 3, 4]))) == 0
    table, detections = one_box([10, 20, 60, 90], [12, 20, 57, 95], [np.nan, 0, 3, 4])
    assert matched_sides(table, detections).sigma.tolist() == [1e-3, 3, 4]  # never divided by zero
    assert len(matched_sides(table, [replace(detections[0], side_sigma=None)])) == 0
    assert reliability(matched_sides(table, detections)) is None


def test_spearman_by_hand() -> None:
    a = np.array([1.0, 2, 3, 4, 5])
    assert spearman(a, np.exp(a)) == pytest.approx(1)
    assert spearman(a, -a) == pytest.approx(-1)
    assert spearman(a, np.array([2.0, 1, 4, 3, 5])) == pytest.approx(1 - 6 * 4 / (5 * 24))
    assert spearman(np.array([1.0, 1, 2]), np.array([1.0, 1, 2])) == pytest.approx(1)  # ties share a rank
    assert spearman(np.array([1.0, 1, 2, 3]), np.array([1.0, 2, 3, 4])) == pytest.approx(4.5 / 22.5**0.5)
    assert spearman(a, np.ones(5)) == 0
    assert spearman(a[:1], a[:1]) == 0


# --- where it is stored


def test_training_stores_what_its_validation_tells(learnt: Path, blocks: Path) -> None:
    """The factor in best.ckpt is the one that evaluating it without a factor gives."""
    stored = checkpoint(learnt / "best.ckpt")["nanogfl"]["temperature"]
    detector = nanogfl.load(learnt / "best.ckpt")
    assert isinstance(detector, TorchDetector)
    assert detector.card.temperature == stored == detector.describe()["temperature"]
    detector.card = replace(detector.card, temperature=1.0)
    table = select(read_table(blocks), "val")
    plain = [detector.predict(e.path, 0.05) for e in table.examples]
    assert stored == pytest.approx(fit_temperature(matched_sides(table, plain)), rel=1e-3)


def exported(checkpoint_file: Path, form: str) -> Path:
    """The file beside its checkpoint, without the proof: random weights leave more boxes than the limit."""
    detector = nanogfl.load(checkpoint_file)
    assert isinstance(detector, TorchDetector)
    made = checkpoint_file.with_name(f"{form}.onnx")
    made.write_bytes(build(detector, Form(form, sigma=form != "core")).SerializeToString())
    return made


@pytest.mark.parametrize("rule", ["stretch", "letterbox"])
def test_every_form_gives_the_checkpoints_sigma(rule: str, tmp_path: Path) -> None:
    """Equal after scaling, letterbox and clipping, with a temperature that is not one."""
    made = write_checkpoint(tmp_path / "best.ckpt", resize=rule, temperature=0.37)
    plain = write_checkpoint(tmp_path / "plain.ckpt", resize=rule)
    one, once = nanogfl.load(made), nanogfl.load(plain)
    files = [nanogfl.load(exported(made, form)) for form in ("frame", "tensor", "core")]
    for height, width in ((70, 200), (333, 120)):
        picture = scene(height, width)
        found = one.predict(picture, 0.12, max_boxes=1000)
        assert len(found) > 3
        assert found.side_sigma is not None
        for file in files:
            other = file.predict(picture, 0.12, max_boxes=1000)
            assert other.side_sigma is not None
            assert_same(found, other)
        raw = once.predict(picture, 0.12, max_boxes=1000).side_sigma
        assert raw is not None
        np.testing.assert_allclose(found.side_sigma, 0.37 * raw, rtol=1e-4)


def test_a_factor_that_is_no_number_is_refused(tmp_path: Path) -> None:
    file = exported(write_checkpoint(tmp_path / "best.ckpt", temperature=0.37), "core")
    assert nanogfl.load(file).describe()["temperature"] == 0.37
    model = onnx.load(file)
    for value in ("nan", "-1", "0", "inf", "wide"):
        next(p for p in model.metadata_props if p.key == "nanogfl.temperature").value = value
        onnx.save(model, tmp_path / "odd.onnx")
        with pytest.raises(nanogfl.NanogflError, match=r"odd\.onnx"):
            nanogfl.load(tmp_path / "odd.onnx")
    kept = [p for p in model.metadata_props if p.key != "nanogfl.temperature"]  # as files had it before
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    onnx.save(model, tmp_path / "old.onnx")
    assert nanogfl.load(tmp_path / "old.onnx").describe()["temperature"] == 1.0
