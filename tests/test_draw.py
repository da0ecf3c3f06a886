"""What is drawn, where, and that it can be read."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from nanogfl.boxes import iou
from nanogfl.detections import Detections
from nanogfl.pictures import Picture, read_picture
from nanogfl.runtime import draw
from nanogfl.runtime.draw import class_color, draw_detections, draw_panel, draw_sheet, draw_truth

GREY = 90


def grey(height: int = 240, width: int = 320) -> Picture:
    return np.full((height, width, 3), GREY, np.uint8)


def found(
    *boxes: tuple[float, float, float, float], label: int = 0, sigma: float | None = None, name: str = "cat"
) -> Detections:
    count = len(boxes)
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.linspace(0.9, 0.4, count, dtype=np.float32),
        np.full(count, label, np.int64),
        [name, "dog", "bird"],
        None if sigma is None else np.full((count, 4), sigma, np.float32),
    )


def where(picture: Picture, color: tuple[int, int, int]) -> NDArray[np.bool_]:
    return np.asarray((picture == color).all(axis=2))


def luminance(color: tuple[int, int, int]) -> float:
    """WCAG's relative luminance, written out channel by channel."""
    total = 0.0
    for value, weight in zip(color, (0.0722, 0.7152, 0.2126), strict=True):
        part = value / 255
        total += weight * (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4)
    return total


def lab_as_seen(color: tuple[int, int, int], eyes: NDArray[np.float32]) -> NDArray[np.float32]:
    light = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in (v / 255 for v in color[::-1])]
    rgb = (eyes @ np.array(light, np.float32)).clip(0, 1).astype(np.float32)
    return cv2.cvtColor(rgb.reshape(1, 1, 3), cv2.COLOR_LRGB2Lab)[0, 0]


@pytest.mark.parametrize(
    ("count", "distance"),
    [
        (8, 20),  # ten times what trained eyes just tell apart (2.3)
        (20, 10),  # VOC
        (80, 5),  # COCO
    ],
)
def test_the_first_colours_differ_for_most_eyes(count: int, distance: float) -> None:
    for eyes in draw.COLOUR_VISION:
        lab = np.stack([lab_as_seen(class_color(label), eyes) for label in range(count)])
        apart = np.linalg.norm(lab[:, None] - lab[None], axis=2)[np.triu_indices(count, 1)]
        assert apart.min() > distance


def test_colours_are_fixed_and_distinct_for_many_classes() -> None:
    assert class_color(0) == draw.FIRST
    assert len({class_color(label) for label in range(1203)}) == 1203  # LVIS
    assert all(isinstance(v, int) and 0 <= v <= 255 for label in (0, 500, 10**6) for v in class_color(label))


def test_ink_is_legible_on_every_colour() -> None:
    for label in range(1000):
        color = class_color(label)
        light, dark = sorted((luminance(color), luminance(draw._ink(color))), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5


def test_the_box_is_where_it_was_found() -> None:
    picture = grey(480, 640)
    drawn = draw_detections(picture, found((60, 50, 200, 180)))
    colored = where(drawn, class_color(0))
    for row, column in ((110, 60), (110, 200), (180, 130), (50, 190)):  # left, right, bottom, top
        assert colored[row - 1 : row + 2, column - 1 : column + 2].any()
    assert (drawn[70:175, 70:190] == GREY).all()  # nothing inside
    assert (drawn[:, 210:] == GREY).all()
    assert (drawn[190:] == GREY).all()
    assert (picture == GREY).all()  # drawn onto a copy


def test_nothing_found_is_the_picture() -> None:
    np.testing.assert_array_equal(draw_detections(grey(), found()), grey())


@pytest.mark.parametrize(("label", "reason"), [(0, "first"), (1, "second"), (2, "third")])
def test_each_class_has_its_colour(label: int, reason: str) -> None:
    drawn = draw_detections(grey(), found((60, 50, 200, 180), label=label))
    assert [bool(where(drawn, class_color(c)).any()) for c in range(3)] == [c == label for c in range(3)]


def test_the_best_is_on_top() -> None:
    pair = found((60, 50, 200, 180), (60, 50, 200, 180))
    pair = Detections(pair.boxes, pair.scores, np.array([0, 1]), pair.names)
    drawn = draw_detections(grey(480, 640), pair)
    assert where(drawn, class_color(0))[180, 70:190].all()


def tag_places(boxes: list[list[float]], high: int = 16, wide: int = 60) -> list[tuple[int, int]]:
    tags = [np.zeros((high, wide, 3), np.uint8)] * len(boxes)
    return draw._place(tags, np.array(boxes, np.float64), (240, 320))


@pytest.mark.parametrize(
    ("box", "corner", "reason"),
    [
        ([60, 50, 200, 180], (60, 34), "above, left edges in line"),
        ([60, 4, 200, 180], (60, 0), "no room above: pushed down into the picture"),
        ([-5, -5, 20, 20], (0, 0), "left of the picture"),
        ([300, 100, 320, 120], (260, 84), "right of the picture"),
    ],
)
def test_tags_stay_inside(box: list[float], corner: tuple[int, int], reason: str) -> None:
    assert tag_places([box]) == [corner], reason


def test_tags_avoid_one_another() -> None:
    corners = np.array(tag_places([[100, 100, 180, 200]] * 4), np.float64)  # four times the same box
    tags = np.concatenate([corners, corners + np.array([60, 16])], axis=1)
    assert (iou(tags, tags) == np.eye(4)).all()
    assert tuple(corners[0]) == (100, 84)


@pytest.mark.parametrize(
    ("size", "line"),
    [((480, 640), 2), ((1080, 1920), 5), ((3024, 4032), 13)],
)
def test_lines_grow_with_the_picture(size: tuple[int, int], line: int) -> None:
    height, width = size
    box = (width * 0.25, height * 0.25, width * 0.75, height * 0.75)
    drawn = draw_detections(grey(*size), found(box))
    across = where(drawn, class_color(0))[height // 2, : width // 2]
    assert across.sum() == line


def test_scores_lengthen_the_tag() -> None:
    with_score, without = (
        int(where(draw_detections(grey(), found((60, 50, 200, 180)), show_scores=s), class_color(0)).sum())
        for s in (True, False)
    )
    assert with_score > without + 60


@pytest.mark.parametrize(
    ("has_fonts", "name", "written"),
    [
        (True, "Fußgänger", "Fußgänger"),
        (True, "two\nlines ", "two lines"),  # a tag is one line
        (False, "traffic light", "traffic light"),
        (False, "Żółw", "Zow"),  # what has no plain letter falls out
        (False, "猫", "#3"),  # nothing would be left
        (False, "собака №1", "No1"),
    ],
)
def test_names_without_fonts(monkeypatch: pytest.MonkeyPatch, has_fonts: bool, name: str, written: str) -> None:
    monkeypatch.setattr(draw, "HAS_FONTS", has_fonts)
    assert draw._written(name, 3) == written


@pytest.mark.parametrize("has_fonts", [pytest.param(draw.HAS_FONTS, id="as installed"), False])
@pytest.mark.parametrize("size", [9, 14, 40])
def test_letters_fill_their_chip(monkeypatch: pytest.MonkeyPatch, has_fonts: bool, size: int) -> None:
    monkeypatch.setattr(draw, "HAS_FONTS", has_fonts)
    chip = draw._chip("Tag 0.87", size, 4, (0, 0, 0), (255, 255, 255))
    rows, columns = np.nonzero(chip.max(axis=2) > 128)
    assert columns.min() >= 3  # the margins are free
    assert columns.max() < chip.shape[1] - 3
    assert 0.5 * size <= np.ptp(rows) + 1 <= 1.2 * size  # capitals to descender
    assert rows.min() > 0


def test_sigma_is_soft_and_asked_for() -> None:
    box, picture = (60, 50, 200, 180), grey()
    plain = draw_detections(picture, found(box, sigma=6))
    np.testing.assert_array_equal(plain, draw_detections(picture, found(box)))
    np.testing.assert_array_equal(draw_detections(picture, found(box), show_sigma=True), plain)  # has none
    soft = draw_detections(picture, found(box, sigma=6), show_sigma=True)
    density = np.abs(soft[110, 203:230].astype(int) - GREY).max(axis=1)  # outward from the right side
    assert (np.diff(density) <= 0).all()
    assert density[3] == pytest.approx((255 - GREY) * 0.7 * math.exp(-0.5 * (6.5 / 6) ** 2), abs=1.5)
    assert (density[17:] == 0).all()  # nothing beyond three sigma
    np.testing.assert_array_equal(soft[110, 90:170], picture[110, 90:170])


def test_truth_is_dashed_in_black_and_white() -> None:
    picture = grey()
    drawn = draw_truth(picture, np.array([[60.0, 50, 200, 180]]), np.array([1]), ["cat", "dog"])
    side = drawn[50:150, 60]  # the left one, above the name
    assert set(np.unique(side)) == {0, 255}
    changes = np.count_nonzero(np.diff(side[:, 0].astype(int)))
    assert 15 <= changes <= 35
    for row, column in ((50, 130), (179, 190), (110, 199)):
        assert drawn[row, column, 0] in (0, 255)
    np.testing.assert_array_equal(drawn[60:150, 70:190], picture[60:150, 70:190])
    np.testing.assert_array_equal(drawn[:, 201:], picture[:, 201:])
    chip = drawn[169:179, 63:75]
    assert (chip == 255).mean() > 0.3  # the name: black...
    assert (chip < 60).mean() > 0.1  # ...on white
    assert (picture == GREY).all()


@pytest.mark.parametrize(
    ("shape", "box"),
    [
        ((1, 1), (0, 0, 1, 1)),
        ((3, 500), (0, 0, 500, 3)),  # lower than a tag
        ((20, 20), (5, 5, 5, 5)),  # empty box
        ((20, 20), (-30, -30, 50, 50)),  # beyond every side
        ((20, 20), (30, 30, 50, 50)),  # beside the picture
    ],
)
def test_odd_boxes_and_pictures_are_drawn(shape: tuple[int, int], box: tuple[float, float, float, float]) -> None:
    picture = grey(*shape)
    detections = found(box, sigma=3, name="a name much wider than such a picture")
    for drawn in (
        draw_detections(picture, detections, show_sigma=True),
        draw_detections(picture, found(box, name=""), show_scores=False),
        draw_truth(picture, detections.boxes, detections.labels, detections.names),
    ):
        assert drawn.shape == picture.shape
        assert (drawn != GREY).any()


def test_a_sheet_lays_pictures_out() -> None:
    tones = [40, 80, 120, 160, 200]
    pictures = [np.full((50, 100, 3), tone, np.uint8) for tone in tones]
    sheet = draw_sheet(pictures, 3, 80)
    assert sheet.shape == (2 * 41 + 1, 3 * 81 + 1, 3)  # cells of 80 x 40, gaps of 1
    for i, tone in enumerate(tones):
        x, y = 1 + i % 3 * 81, 1 + i // 3 * 41
        assert (sheet[y : y + 40, x : x + 80] == tone).all()
    assert (sheet[42:82, 163:243] == draw.GAP).all()  # the cell that nobody fills
    assert (sheet[[0, 41, -1]] == draw.GAP).all()


def test_a_sheet_centres_what_is_narrower() -> None:
    sheet = draw_sheet([np.full((20, 80, 3), 200, np.uint8), np.full((40, 20, 3), 100, np.uint8)], 5, 80)
    assert sheet.shape == (82, 163, 3)  # no columns that nobody fills; the second is enlarged to 40 x 80
    assert (sheet[31:51, 1:81] == 200).all()
    assert (sheet[1:31, 1:81] == draw.BACKGROUND).all()
    assert (sheet[1:81, 102:142] == 100).all()


@pytest.mark.parametrize(("count", "columns", "cell"), [(0, 2, 80), (2, 0, 80), (2, 2, 0)])
def test_a_sheet_refuses(count: int, columns: int, cell: int) -> None:
    with pytest.raises(ValueError, match="a sheet needs"):
        draw_sheet([grey()] * count, columns, cell)


def test_on_a_real_picture(shared: Path) -> None:
    picture = read_picture(shared / "data/coco_val/images/000000000139.jpg")
    before = picture.copy()
    drawn = draw_detections(picture, found((230, 150, 330, 300), (400, 160, 460, 290), name="猫"))
    np.testing.assert_array_equal(picture, before)
    changed = (drawn != picture).any(axis=2)
    assert 0.002 < changed.mean() < 0.05
    assert where(drawn, class_color(0)).sum() > 1000


def test_a_panel_is_in_the_lower_left_and_nowhere_else() -> None:
    picture = np.full((200, 400, 3), 120, np.uint8)
    drawn = draw_panel(picture, ["12.5 fps", "2 person"])
    changed = (drawn != picture).any(axis=2)
    assert changed[-20:, :10].all() and not changed[:150].any() and not changed[:, 200:].any()
    assert drawn.max() > 230, "light letters" and (picture == 120).all()
    assert (draw_panel(picture, []) == picture)[:, 10:].all()
    tiny = draw_panel(np.zeros((8, 12, 3), np.uint8), ["as long as you like, and longer", "and another"])
    assert tiny.shape == (8, 12, 3)


def test_ids_are_written_behind_names_and_parts_can_be_left_out() -> None:
    picture = np.full((200, 300, 3), 120, np.uint8)
    found = Detections(
        np.array([[50, 80, 150, 180]], np.float32), np.array([0.9], np.float32), np.zeros(1, np.int64), ["cat"]
    )
    plain, named, none = (draw_detections(picture, found, ids=ids) for ids in (None, [12], [0]))
    assert (plain == none).all() and (plain != named).any(), "0 is no id"
    assert (draw_detections(picture, found, show_boxes=False, show_labels=False) == picture).all()
    assert (draw_detections(picture, found, show_labels=False)[:76] == picture[:76]).all()
