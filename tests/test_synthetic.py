"""The drawn set: the same for everyone, with exact boxes, and as varied as promised."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from nanogfl.boxes import areas
from nanogfl.data import synthetic
from nanogfl.errors import UsageError
from nanogfl.pictures import read_picture

SIZE = 320


def generator(*key: int) -> np.random.Generator:
    return np.random.default_rng(list(key))


def digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def scenes() -> list[synthetic.Scene]:
    return [synthetic.compose(generator(0, 0, number), SIZE) for number in range(120)]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.draw_set(tmp_path_factory.mktemp("drawn") / "deep" / "set", train=6, val=2, test=3)


def test_the_same_seed_draws_the_same_picture_and_another_seed_another():
    first, again, other = (synthetic.draw_picture(generator(seed, 0, 1), SIZE) for seed in (0, 0, 1))
    for a, b in zip(first, again, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    assert (first[0] != other[0]).mean() > 0.5


def test_a_picture_does_not_depend_on_how_many_are_drawn(drawn: Path, tmp_path: Path):
    whole, fewer = digests(drawn), digests(synthetic.draw_set(tmp_path, train=3, val=2, test=0))
    pictures = {name for name in fewer if name.startswith("images/")}
    assert pictures == {
        "images/train/000001.jpg",
        "images/train/000002.jpg",
        "images/train/000003.jpg",
        "images/val/000001.jpg",
        "images/val/000002.jpg",
    }
    assert all(fewer[name] == whole[name] for name in pictures)
    assert fewer["annotations/val.json"] == whole["annotations/val.json"]
    assert not (tmp_path / "annotations" / "test.json").exists()  # no pictures, no split
    assert len({whole[name] for name in whole if name.startswith("images/")}) == 11  # no two pictures alike


@pytest.mark.parametrize("length", [16.5, 40.0, 159.5])
@pytest.mark.parametrize("label", range(len(synthetic.NAMES)), ids=synthetic.NAMES)
def test_the_box_is_where_the_silhouette_changes_the_picture(label: int, length: float):
    """Black and white copies of a thing, shadows and all, differ exactly at its silhouette."""
    for seed in range(4):
        sprite = synthetic.draw_sprite(generator(seed), label, length)
        views = []
        for tone in (0, 255):
            scene = synthetic.Scene.on(np.full((SIZE, SIZE, 3), 120, np.uint8))
            assert scene.place(sprite._replace(colour=np.full_like(sprite.colour, tone)), 31, 57)
            views.append(scene.inside.astype(int))
        changed = (views[0] != views[1]).any(axis=2)
        columns, rows = np.flatnonzero(changed.any(axis=0)), np.flatnonzero(changed.any(axis=1))
        x1, y1, x2, y2 = scene.boxes[0]
        assert (np.floor(x1), np.floor(y1)) == (columns[0], rows[0])
        assert (np.ceil(x2), np.ceil(y2)) == (columns[-1] + 1, rows[-1] + 1)
        assert max(x2 - x1, y2 - y1) == pytest.approx(length, abs=0.5)


def test_a_quarter_of_a_pixel_shows_in_the_coverage_of_the_border():
    """The mean coverage of a crate's border columns cannot exceed the part of them that its box takes."""
    for seed in range(12):
        sprite = synthetic.draw_sprite(generator(seed), synthetic.NAMES.index("crate"), 60)
        for side, coverage in ((0, sprite.cover.max(axis=0)), (1, sprite.cover.max(axis=1))):
            low, high = sprite.box[side], sprite.box[side + 2]
            assert coverage[int(low)] <= 1 - low % 1 + 0.01
            assert coverage[int(np.ceil(high)) - 1] <= 1 - -high % 1 + 0.01


def test_what_is_seen_of_a_thing_lies_in_its_box(scenes: list[synthetic.Scene]):
    for scene in scenes:
        owner = scene.owner[scene.margin : -scene.margin, scene.margin : -scene.margin]
        for i, (x1, y1, x2, y2) in enumerate(scene.boxes):
            rows, columns = np.nonzero(owner == i + 2)
            assert columns.min() >= np.floor(x1) and columns.max() < np.ceil(x2)
            assert rows.min() >= np.floor(y1) and rows.max() < np.ceil(y2)


def test_at_least_two_fifths_of_every_silhouette_are_seen(scenes: list[synthetic.Scene]):
    shares = []
    for scene in scenes:
        seen = np.bincount(scene.owner.ravel(), minlength=len(scene.boxes) + 2)[2:]
        assert seen.tolist() == scene.visible
        shares += (seen / scene.silhouettes).tolist()
    assert min(shares) >= 0.4
    assert min(shares) < 0.6  # things do cover one another
    assert np.mean(np.array(shares) == 1) > 0.5  # most do not


def test_a_thing_that_would_hide_another_is_not_placed():
    scene = synthetic.Scene.on(np.full((SIZE, SIZE, 3), 120, np.uint8))
    small, large = (synthetic.draw_sprite(generator(length), 0, length) for length in (20, 120))
    assert scene.place(small, 100, 100)
    before = scene.canvas.copy()
    assert not scene.place(large, 60, 60)  # over the small one
    assert not scene.place(large, -60, 200)  # half of it outside
    np.testing.assert_array_equal(scene.canvas, before)
    assert scene.place(large, 160, 60)
    assert scene.labels == [0, 0]


def test_counts_sizes_and_classes_are_as_promised(scenes: list[synthetic.Scene]):
    pictures = [synthetic.draw_picture(generator(0, 0, number), SIZE) for number in range(len(scenes))]
    counts = [len(labels) for _, _, labels in pictures]
    assert set(counts) == set(range(1, 9))
    boxes = np.concatenate([boxes for _, boxes, _ in pictures])
    assert boxes.dtype == np.float64
    assert boxes.min() >= 0 and boxes.max() <= SIZE
    longer = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    assert longer.min() >= 16 and longer.max() <= 160
    assert 75 < np.median(longer) < 100  # all lengths are equally likely: the middle is 88, less what the border cuts
    assert ((boxes == 0) | (boxes == SIZE)).any()  # some are cut by the border
    share = np.bincount(np.concatenate([labels for _, _, labels in pictures])) / len(boxes)
    assert len(share) == len(synthetic.NAMES) >= 4
    assert share.min() > 0.1
    assert all(picture.shape == (SIZE, SIZE, 3) and picture.dtype == np.uint8 for picture, _, _ in pictures)


@pytest.mark.parametrize("size", [64, 96, 225, 640])
def test_sizes_of_things_go_with_the_size_of_the_picture(size: int):
    for number in range(6):
        picture, boxes, labels = synthetic.draw_picture(generator(number), size)
        assert picture.shape == (size, size, 3)
        longer = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
        assert len(labels) == len(boxes) >= 1
        assert longer.min() >= 16 * size / 320 - 1 and longer.max() <= 160 * size / 320 + 1


def test_pycocotools_reads_what_was_drawn(drawn: Path, capsys: pytest.CaptureFixture[str]):
    coco = pytest.importorskip("pycocotools.coco", reason="pycocotools comes with nanogfl[train]")
    for index, (split, count) in enumerate((("train", 6), ("val", 2), ("test", 3))):
        truth = coco.COCO(str(drawn / "annotations" / f"{split}.json"))
        assert [c["name"] for c in truth.loadCats(sorted(truth.getCatIds()))] == list(synthetic.NAMES)
        assert truth.getCatIds() == list(range(1, len(synthetic.NAMES) + 1))
        assert truth.getImgIds() == list(range(1, count + 1))
        for number in truth.getImgIds():
            picture, boxes, labels = synthetic.draw_picture(generator(0, index, number), SIZE)
            annotations = truth.loadAnns(truth.getAnnIds(imgIds=[number]))
            found = np.array([a["bbox"] for a in annotations])
            np.testing.assert_array_equal(found[:, :2], boxes[:, :2])
            np.testing.assert_array_equal(found[:, :2] + found[:, 2:], boxes[:, 2:])
            np.testing.assert_array_equal([a["area"] for a in annotations], areas(boxes))
            assert [a["category_id"] - 1 for a in annotations] == labels.tolist()
            image = truth.loadImgs([number])[0]
            assert image["file_name"] == f"{split}/{number:06d}.jpg"
            path = drawn / "images" / image["file_name"]
            assert read_picture(path).shape == (image["height"], image["width"], 3)
            assert path.read_bytes() == cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
    capsys.readouterr()


def test_annotations_have_unique_ids_and_nothing_is_left_half_written(drawn: Path):
    assert not list(drawn.rglob("*.partial"))
    for path in (drawn / "annotations").iterdir():
        content = json.loads(path.read_text(encoding="utf-8"))
        assert set(content) == {"images", "annotations", "categories"}
        ids = [annotation["id"] for annotation in content["annotations"]]
        assert ids == list(range(1, len(ids) + 1))
        assert {a["image_id"] for a in content["annotations"]} == {image["id"] for image in content["images"]}


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"size": 63}, id="too small for a thing of 16/320 to be seen"),
        pytest.param({"seed": -1}, id="numpy takes no negative seed"),
        pytest.param({"val": -1}, id="no fewer than no pictures"),
    ],
)
def test_impossible_wishes_are_refused_before_anything_is_written(wrong: dict[str, int], tmp_path: Path):
    with pytest.raises(UsageError, match="cannot draw"):
        synthetic.draw_set(tmp_path / "set", **wrong)
    assert not (tmp_path / "set").exists()
