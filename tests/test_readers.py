from __future__ import annotations

import json
import logging
import os
import warnings
from collections import Counter
from collections.abc import Sequence
from math import inf, nan
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np
import pytest
from PIL import Image

from nanogfl.data.findings import KINDS
from nanogfl.data.readers import read_table
from nanogfl.data.splits import evaluation_split, select
from nanogfl.data.table import Example, Table
from nanogfl.doctor.check import check
from nanogfl.doctor.fix import write_copy
from nanogfl.errors import DataError
from nanogfl.pictures import read_picture

WIDTH, HEIGHT = 40, 20


def draw(path: Path, orientation: int = 1, width: int = WIDTH, height: int = HEIGHT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    own = {"tiffinfo": {274: orientation}} if path.suffix == ".tif" else {"exif": exif}
    Image.new("RGB", (width, height), (200, 30, 30)).save(path, **own)
    return path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def coco(*files: str, boxes: tuple[Any, ...] = (), **changes: Any) -> str:
    """A json with these pictures (ids from 0), these annotations of picture 0, and classes cat (3) and dog (1)."""
    annotations = [
        {"id": i, "image_id": 0, "category_id": 1, **(b if isinstance(b, dict) else {"bbox": b})}
        for i, b in enumerate(boxes)
    ]
    images = [{"id": i, "file_name": f, "width": WIDTH, "height": HEIGHT} for i, f in enumerate(files)]
    categories = [{"id": 3, "name": "cat"}, {"id": 1, "name": "dog"}]
    return json.dumps({"images": images, "annotations": annotations, "categories": categories, **changes})


def voc(*boxes: tuple[str, Any, Any, Any, Any], size: tuple[int, int] = (0, 0), file: str = "x.jpg") -> str:
    objects = "".join(
        f"<object><name>{n}</name><difficult>1</difficult>"
        "<part><name>head</name><bndbox><xmin>0</xmin><ymin>0</ymin><xmax>1</xmax><ymax>1</ymax></bndbox></part>"
        f"<bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax></bndbox></object>"
        for n, a, b, c, d in boxes
    )
    width, height = size
    tags = f"<filename>{file}</filename><size><width>{width}</width><height>{height}</height></size>"
    return f"<annotation>{tags}{objects}</annotation>"


def kinds(table: Table) -> dict[str, int]:
    return dict(Counter(w.kind for w in table.warnings))


def by_split(table: Table) -> dict[str | None, list[str]]:
    found: dict[str | None, list[str]] = {}
    for example in table.examples:
        found.setdefault(example.split, []).append(example.name)
    return found


def only(table: Table) -> Example:
    (example,) = table.examples
    return example


# Real sets


@pytest.mark.parametrize(
    ("path", "form", "pictures", "boxes", "classes", "warned"),
    [
        ("bccd", "voc", {"train": 205, "val": 87, "test": 72}, 4886, 3, {"box-without-area": 2}),
        ("helmet", "yolo", {"train": 500, "val": 110, "test": 75}, 3940, 4, {}),
        ("helmet/data.yaml", "yolo", {"train": 500, "val": 110, "test": 75}, 3940, 4, {}),
        ("coco_val", "coco", {None: 252}, 1868, 80, {}),
        ("coco_val/instances.json", "coco", {None: 252}, 1868, 80, {}),
    ],
)
def test_real_sets(shared: Path, path: str, form: str, pictures: Any, boxes: int, classes: int, warned: Any) -> None:
    table = read_table(shared / "data" / path)
    assert table.form == form
    assert {k: len(v) for k, v in by_split(table).items()} == pictures
    assert sum(len(e.boxes) for e in table.examples) == boxes
    assert len(table.names) == classes
    assert kinds(table) == warned


def test_coco_val_keeps_what_the_json_says(shared: Path) -> None:
    table = read_table(shared / "data/coco_val")
    document = json.loads((shared / "data/coco_val/instances.json").read_text())
    assert sum(int(e.crowd.sum()) for e in table.examples) == 18
    assert {e.source_id for e in table.examples} == {i["id"] for i in document["images"]}
    assert sum(len(e.boxes) == 0 for e in table.examples) == 2
    total = sum(a["area"] for a in document["annotations"])
    assert sum(float(e.areas.sum()) for e in table.examples) == pytest.approx(total)
    assert table.names[:3] == ("person", "bicycle", "car")


# COCO


@pytest.mark.parametrize(
    ("annotation", "picture", "reason"),
    [
        ("instances.json", "a.jpg", "the root"),
        ("instances.json", "images/a.jpg", "images"),
        ("labels.json", "data/a.jpg", "data"),
        ("annotations/instances.json", "a.jpg", "the root above annotations"),
        ("Annotations/instances.json", "images/a.jpg", "annotations in any case"),
        ("annotations/instances_default.json", "images/default/a.jpg", "a folder of images"),
        ("annotations/instances_val2017.json", "val2017/a.jpg", "the split's folder"),
        ("annotations/instances_val2017.json", "images/val/a.jpg", "the split's folder in images"),
        ("val.json", "valid/a.jpg", "valid is val"),
        ("valid/_annotations.coco.json", "valid/a.jpg", "beside the json of a split"),
    ],
)
def test_coco_pictures_are_found(tmp_path: Path, annotation: str, picture: str, reason: str) -> None:
    write(tmp_path / annotation, coco("a.jpg", boxes=([1, 2, 10, 5],)))
    draw(tmp_path / picture)
    table = read_table(tmp_path)
    example = only(table)
    assert (example.name, example.path) == (picture, tmp_path / picture), reason
    assert example.boxes.tolist() == [[1, 2, 11, 7]]
    assert example.split == ("val" if "val" in annotation else None)
    if "_annotations" not in annotation:
        assert only(read_table(tmp_path / annotation)).name == picture, "the json alone is the same set"


@pytest.mark.parametrize(
    ("annotation", "picture", "reason"),
    [
        ("annotations/instances_{}2017.json", "{}2017/1.jpg", "COCO's own"),
        ("annotations/{}.json", "images/{}/1.jpg", "folders of images"),
        ("annotations/instances_{}.json", "{}/images/1.jpg", "folders of splits"),
        ("{}/_annotations.coco.json", "{}/1.jpg", "Roboflow's"),
        ("{}/annotations.json", "{}/images/1.jpg", "a set a split"),
        ("{}/labels.json", "{}/data/1.jpg", "FiftyOne's"),
        ("{}/annotations/instances.json", "{}/images/1.jpg", "a whole set a split"),
        ("{}/Annotations/instances_default.json", "{}/JPEGImages/1.jpg", "in any case"),
    ],
)
def test_coco_splits_in_any_layout_are_one_table(tmp_path: Path, annotation: str, picture: str, reason: str) -> None:
    """Both splits have a picture of that name."""
    for split in ("train", "val"):
        draw(tmp_path / picture.format(split), width=30 if split == "val" else WIDTH)
        image = {"id": 0, "file_name": "1.jpg", "width": 30 if split == "val" else WIDTH, "height": HEIGHT}
        box = [0, 0, 5, 5 + (split == "val")]
        write(tmp_path / annotation.format(split), coco(images=[image], boxes=(box,)))
    table = read_table(tmp_path)
    assert by_split(table) == {split: [picture.format(split)] for split in ("train", "val")}, reason
    assert [e.boxes.tolist() for e in table.examples] == [[[0, 0, 5, 5]], [[0, 0, 5, 6]]]
    assert {f.kind for f in table.findings} == {"id-zero"}, "each has its own picture"
    assert only(read_table(tmp_path / annotation.format("val"))).path == tmp_path / picture.format("val")


@pytest.mark.parametrize(
    ("json", "there", "found", "reason"),
    [
        ("val", "train/7.jpg", None, "train's picture is none of val's"),
        ("val", "images/train2017/7.jpg", None, "nor deeper"),
        ("val", "more/7.jpg", "more/7.jpg", "a folder of no split"),
        ("val", "train/val/7.jpg", "train/val/7.jpg", "that of its own split, wherever"),
        ("val", "valid/deep/7.jpg", "valid/deep/7.jpg", "valid is val"),
        ("all", "train/7.jpg", "train/7.jpg", "a json of no split"),
    ],
)
def test_coco_names_never_mean_another_splits_picture(
    tmp_path: Path, json: str, there: str, found: str | None, reason: str
) -> None:
    draw(tmp_path / "val/1.jpg")
    draw(tmp_path / there)
    write(tmp_path / f"annotations/{json}.json", coco("val/1.jpg", "lost/7.jpg"))
    table = read_table(tmp_path)
    assert [e.name for e in table.examples] == ["val/1.jpg", *([found] if found else [])], reason
    assert kinds(table) == ({} if found else {"picture-missing": 1})


def test_a_split_without_a_folder_may_have_its_pictures_in_anothers(tmp_path: Path) -> None:
    """As where one cuts a val off what a competition calls train."""
    for name in "ab":
        draw(tmp_path / f"train_images/{name}.jpg")
    write(tmp_path / "train.json", coco("a.jpg"))
    write(tmp_path / "val.json", coco("b.jpg"))
    table = read_table(tmp_path)
    assert by_split(table) == {"train": ["train_images/a.jpg"], "val": ["train_images/b.jpg"]}
    assert kinds(table) == {}


def test_results_beside_a_json_are_no_annotations(tmp_path: Path) -> None:
    """As ``check x.json --json found.json`` writes them: counts, where lists would be."""
    draw(tmp_path / "a.jpg")
    write(tmp_path / "x.json", coco("a.jpg"))
    write(tmp_path / "found.json", '{"images": 1, "annotations": 0, "classes": [], "problems": []}')
    assert only(read_table(tmp_path)).name == "a.jpg"


def test_coco_splits_share_class_list_and_keep_equal_file_names_apart(tmp_path: Path) -> None:
    classes = [{"id": 10**12, "name": "late"}, {"id": 0, "name": "first"}]
    for split, folder in (("train", "train2017"), ("val", "val2017"), ("test", "test2017")):
        more = [{"id": 5, "name": "rare"}] if split == "test" else []
        text = coco("1.jpg", boxes=({"bbox": [0, 0, 5, 5], "category_id": 10**12},), categories=classes + more)
        write(tmp_path / f"annotations/instances_{split}2017.json", text)
        draw(tmp_path / folder / "1.jpg")
    write(tmp_path / "annotations/captions_train2017.json", '{"images": [], "annotations": []}')
    write(tmp_path / "package.json", '{"name": "not ours"}')
    table = read_table(tmp_path)
    assert table.names == ("first", "rare", "late")
    assert by_split(table) == {"train": ["train2017/1.jpg"], "val": ["val2017/1.jpg"], "test": ["test2017/1.jpg"]}
    assert all(e.labels.tolist() == [2] for e in table.examples)


@pytest.mark.parametrize(
    ("ids", "names", "renumbered", "reason"),
    [
        ({"dog": 0, "cat": 2}, ("dog", "cat"), 1, "counted from 0 in one of them"),
        ({"dog": 3, "cat": 1}, ("dog", "cat"), 1, "the other way round"),
        ({"dog": 11, "cat": 13}, ("dog", "cat"), 1, "no id in common"),
        ({"dog": 1, "cow": 3}, ("dog", "cat", "cow"), 1, "an id of another class"),
        ({"dog": 1, "cat": 3, "cow": 2}, ("dog", "cow", "cat"), 0, "a class more"),
        ({"dog": 1, "Cat": 3}, ("dog", "cat", "Cat"), 1, "another spelling, as within one json"),
    ],
)
def test_coco_ids_of_classes_belong_to_their_json(
    tmp_path: Path, ids: dict[str, int], names: tuple[str, ...], renumbered: int, reason: str
) -> None:
    write(tmp_path / "train.json", coco("a.jpg", boxes=([0, 0, 5, 5], {"bbox": [0, 0, 9, 9], "category_id": 3})))
    boxes = tuple({"bbox": [0, 0, 5, 5], "category_id": i} for i in ids.values())
    classes = [{"id": i, "name": name} for name, i in ids.items()]
    write(tmp_path / "val.json", coco("b.jpg", boxes=boxes, categories=classes))
    for name in "ab":
        draw(tmp_path / f"{name}.jpg")
    table = read_table(tmp_path)
    assert table.names == names, reason
    said = [[table.names[label] for label in e.labels] for e in table.examples]
    assert said == [["dog", "cat"], list(ids)]
    assert kinds(table) == ({"class-renumbered": 1} if renumbered else {})


def test_an_id_of_two_classes_in_one_json_is_refused(tmp_path: Path) -> None:
    classes = [{"id": 1, "name": "cat"}, {"id": 1, "name": "cow"}]
    with pytest.raises(DataError, match="category 1 is both 'cat' and 'cow'"):
        read_table(write(tmp_path / "x.json", coco("a.jpg", categories=classes)))


def test_pictures_of_one_id_have_no_boxes_of_another(tmp_path: Path) -> None:
    for name in "abc":
        draw(tmp_path / f"{name}.jpg")
    images = [{"id": i, "file_name": f"{name}.jpg"} for i, name in ((0, "a"), (0, "b"), (1, "c"), (1, "c"))]
    boxes = ([0, 0, 5, 5], {"bbox": [0, 0, 9, 9], "image_id": 1})
    table = read_table(write(tmp_path / "x.json", coco(images=images, boxes=boxes)))
    assert only(table).name == "c.jpg"
    assert only(table).boxes.tolist() == [[0, 0, 9, 9]], "an entry that stands there twice is one"
    assert kinds(table) == {"image-repeated": 2, "picture-repeated": 1}
    assert [f.file for f in table.warnings if f.kind == "image-repeated"] == ["a.jpg", "b.jpg"]


def test_entries_of_one_coco_picture_are_one(tmp_path: Path) -> None:
    draw(tmp_path / "a.jpg")
    images = [{"id": i, "file_name": "a.jpg", "width": 40, "height": 20} for i in range(5)]
    places = ([0, 0, 5, 5], [0, 0, 5, 5], [0, 0, 9, 9], [1, 1, 9, 9])
    boxes = tuple({"bbox": box, "image_id": i, "area": 7} for i, box in enumerate(places))
    table = read_table(write(tmp_path / "x.json", coco(images=images, boxes=boxes)))
    example = only(table)
    assert example.boxes.tolist() == [[0, 0, 5, 5], [0, 0, 9, 9], [1, 1, 10, 10]], "a box that is there twice is one"
    assert (example.source_id, example.areas.tolist(), example.mark(2)) == (0, [7, 7, 7], "annotation 3")
    assert kinds(table) == {"picture-merged": 1}


@pytest.mark.parametrize("change", [{"width": 80, "height": 40}, {"split": "val"}])
def test_entries_of_another_frame_or_split_are_left_out(tmp_path: Path, change: dict[str, Any]) -> None:
    draw(tmp_path / "a.jpg")
    size = {"width": 40, "height": 20, **change}
    entries = [{"id": 0, "file_name": "a.jpg", "width": 40, "height": 20}, {"id": 1, "file_name": "a.jpg", **size}]
    parts = [entries[:1], entries[1:]] if "split" in change else [entries]
    for name, images in zip(("train", "val"), parts, strict=False):
        boxes = tuple({"bbox": [0, 0, 5, 5 + i["id"]], "image_id": i["id"]} for i in images)
        write(tmp_path / f"{name}.json", coco(images=images, boxes=boxes))
    table = read_table(tmp_path)
    assert only(table).boxes.tolist() == [[0, 0, 5, 5]]
    assert kinds(table) == {"picture-repeated": 1}


@pytest.mark.parametrize(
    "file",
    [
        "/home/me/set/x.jpg",
        "C:\\set\\x.jpg",
        "../images/x.jpg",
        "train2017/x.jpg",
        "http://example.org/train2017/x.jpg",
        "x.png",
        "x.JPG",
        "x",
    ],
)
def test_coco_names_that_mislead_mean_the_only_file_of_that_name(tmp_path: Path, file: str) -> None:
    root = tmp_path / "set"
    draw(root / "images/deep/down/x.jpg")
    draw(tmp_path / "images/x.jpg")
    table = read_table(write(root / "x.json", coco(file, boxes=([0, 0, 5, 5],))))
    assert (only(table).name, len(only(table).boxes)) == ("images/deep/down/x.jpg", 1)
    assert [f.kind for f in table.findings if f.kind[:3] != "id-"] == ["path-misleading"]


@pytest.mark.parametrize(
    ("files", "there", "kind", "reason"),
    [
        (["cam1/1.jpg", "cam2/1.jpg"], ["cam1/1.jpg"], "missing", "that is another entry's"),
        (["a.jpg", "x/1.jpg", "y/1.jpg"], ["a.jpg", "z/1.jpg"], "missing", "two may be meant"),
        (["a.jpg", "x/1.jpg"], ["a.jpg", "y/1.jpg", "z/1.jpg"], "ambiguous", "it may mean two"),
        (["a.jpg", "1.jpg"], ["a.jpg", "cam1/1.jpg", "cam2/1.jpg"], "ambiguous", "no folder comes before another"),
        (["a.jpg", "1.jpg"], ["a.jpg", "images/x/1.jpg", "images/y/1.jpg"], "ambiguous", "nor in images"),
        (["a.jpg", "x/1.jpg"], ["a.jpg", "y/1.png", "z/1.bmp"], "ambiguous", "it may mean two by stem"),
        (["a.jpg", "x/1.jpg"], ["a.jpg", "y/1.txt", ".z/1.jpg"], "missing", "no picture, and hidden"),
    ],
)
def test_coco_names_are_no_guesswork(
    tmp_path: Path, files: list[str], there: list[str], kind: str, reason: str
) -> None:
    for name in there:
        draw(tmp_path / name) if Path(name).suffix != ".txt" else write(tmp_path / name, "")
    table = read_table(write(tmp_path / "x.json", coco(*files)))
    assert [e.name for e in table.examples] == there[:1], reason
    assert set(kinds(table)) == {f"picture-{kind}"}


@pytest.mark.parametrize("coding", ["NFC", "NFD"])
@pytest.mark.parametrize("written", ["NFC", "NFD"])
@pytest.mark.parametrize("file", ["caf\u00e9.jpg", "x/caf\u00e9.jpg"])
def test_an_accent_has_two_codings(tmp_path: Path, file: str, written: str, coding: str) -> None:
    """A json keeps the one of the disk that it was written on; the same name lies in each split's folder."""
    name = normalize(coding, "caf\u00e9.jpg")
    for split in ("train", "val"):
        draw(tmp_path / split / name)
    draw(tmp_path / "b" / name)
    write(tmp_path / f"{'train' if '/' not in file else 'only'}.json", coco(normalize(written, file)))
    if "/" in file:
        for split in ("train", "val"):
            (tmp_path / split / name).unlink()
    table = read_table(tmp_path)
    assert only(table).name == ("train/" if "/" not in file else "b/") + name
    assert {f.kind for f in table.findings if f.kind[:2] != "id"} == ({"path-misleading"} if "/" in file else set())


@pytest.mark.parametrize(
    ("picture", "label", "listed"),
    [
        ("images/{disk}.jpg", "labels/{tool}.txt", ""),
        ("{disk}.jpg", "{tool}.txt", ""),
        ("images/{disk}.jpg", "labels/{tool}.txt", "images/{tool}.jpg"),
        ("images/{disk}.jpg", "labels/{tool}.txt", "elsewhere/images/{tool}.jpg"),
        ("JPEGImages/{disk}.jpg", "Annotations/{tool}.xml", "{disk}"),
        ("{disk}.jpg", "{tool}.xml", ""),
    ],
)
@pytest.mark.parametrize(("disk", "tool"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_labels_and_lists_may_code_an_accent_otherwise(
    tmp_path: Path, picture: str, label: str, listed: str, disk: str, tool: str
) -> None:
    """Pictures from a Mac, labels from a tool: a picture that misses its label file would count as empty."""
    codings = {"disk": normalize(disk, "caf\u00e9"), "tool": normalize(tool, "caf\u00e9")}
    picture, label, listed = (name.format(**codings) for name in (picture, label, listed))
    draw(tmp_path / picture)
    write(tmp_path / label, voc(("cell", 1, 1, 9, 9)) if label.endswith("xml") else "0 .5 .5 .5 .5")
    if label.startswith("A"):
        write(tmp_path / "ImageSets/Main/train.txt", listed)
    elif listed:
        write(tmp_path / "data.yaml", "train: train.txt\nnames: [cell]\n")
        write(tmp_path / "train.txt", listed)
    table = read_table(tmp_path)
    assert (only(table).name, len(only(table).boxes)) == (picture, 1)
    assert kinds(table) == ({"path-corrected": 1} if listed.startswith("else") else {})


@pytest.mark.parametrize(("pictures", "labels"), [("images", "labels"), ("JPEGImages", "Annotations")])
def test_two_names_that_differ_in_their_coding_alone_are_two(tmp_path: Path, pictures: str, labels: str) -> None:
    for label, coding in enumerate(("NFC", "NFD")):
        stem = normalize(coding, "caf\u00e9")
        draw(tmp_path / pictures / f"{stem}.jpg")
        if labels == "labels":
            write(tmp_path / labels / f"{stem}.txt", f"{label} .5 .5 .5 .5")
        else:
            write(tmp_path / labels / f"{stem}.xml", voc(("cell" if label else "blood", 1, 1, 9, 9)))
    table = read_table(tmp_path)
    assert {e.name: e.labels.tolist() for e in table.examples} == {
        f"{pictures}/{normalize(coding, 'caf' + chr(0xE9))}.jpg": [label] for label, coding in enumerate(("NFC", "NFD"))
    }


def test_a_test_json_without_annotations_is_no_split(tmp_path: Path) -> None:
    write(tmp_path / "train.json", coco("a.jpg"))
    write(tmp_path / "image_info_test2017.json", '{"images": [{"id": 1, "file_name": "a.jpg"}], "categories": []}')
    draw(tmp_path / "a.jpg")
    assert evaluation_split(read_table(tmp_path)) == "all"


@pytest.mark.parametrize(
    ("image", "category", "reason"),
    [
        (7, 1, "numbers"),
        (2**40, 0, "over 32 bits, and zero"),
        ("img-a", "c1", "text"),
        ("0007", 1, "leading zeros are part of a text"),
        ("7", 1, "text that stays text where results name it"),
        (7.0, 1.0, "pandas writes floats"),
    ],
)
def test_coco_ids_of_any_kind(tmp_path: Path, image: Any, category: Any, reason: str) -> None:
    draw(tmp_path / "a.jpg")
    document = {
        "images": [{"id": image, "file_name": "a.jpg"}],
        "categories": [{"id": category, "name": "dog"}],
        "annotations": [{"id": 1, "image_id": image, "category_id": category, "bbox": [0, 0, 4, 5]}],
    }
    example = only(read_table(write(tmp_path / "x.json", json.dumps(document))))
    assert example.source_id == image, reason
    assert example.areas.tolist() == [20]


def test_coco_ids_written_as_number_and_text_meet(tmp_path: Path) -> None:
    draw(tmp_path / "a.jpg")
    box = {"bbox": [0, 0, 4, 5], "image_id": "0", "category_id": "3"}
    table = read_table(write(tmp_path / "x.json", coco("a.jpg", boxes=(box,))))
    assert [table.names[i] for i in only(table).labels] == ["cat"]


@pytest.mark.parametrize(
    ("annotation", "kind"),
    [
        ([nan, 0, 1, 1], "box-not-finite"),
        ([0, 0, inf, 1], "box-not-finite"),
        ([0, 0, 10**400, 1], "box-not-finite"),
        ([5, 5, 0, 5], "box-without-area"),
        ([5, 5, -3, 5], "box-inverted"),
        ([5, 5, -3, -5], "box-inverted"),
        ([41, 5, 10, 5], "box-outside"),
        ([-10, -10, 10, 10], "box-outside"),
        ("5 5 5 5", "box-malformed"),
        (["5", "5", "5", "5"], "box-malformed"),
        ([5, 5, 5], "box-malformed"),
        ([5, 5, 5, None], "box-malformed"),
        ([5, 5, 5, True], "box-malformed"),
        (None, "box-malformed"),
        ({"bbox": {"x": 5}}, "box-malformed"),
        ({"keypoints": [1, 2, 2]}, "box-malformed"),
        ({"bbox": [5, 5, 5, 5], "category_id": 99}, "class-unknown"),
        ({"bbox": [5, 5, 5, 5], "category_id": None}, "class-unknown"),
        ({"bbox": [5, 5, 5, 5], "category_id": [1]}, "class-unknown"),
        ({"bbox": [5, 5, 5, 5], "image_id": 99}, "image-unknown"),
    ],
)
def test_bad_coco_annotations_are_left_out_with_a_word(
    tmp_path: Path, annotation: Any, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    draw(tmp_path / "a.jpg")
    write(tmp_path / "x.json", coco("a.jpg", boxes=([1, 1, 3, 4], annotation, annotation)))
    table = read_table(tmp_path)
    assert only(table).boxes.tolist() == [[1, 1, 4, 5]], "the good box stays"
    assert only(table).areas.tolist() == [12]
    assert kinds(table) == {kind: 2}
    (record,) = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert f"2 {KINDS[kind].phrase}, first in " in record.message
    assert "(and 1 more)" in record.message


def test_marks_say_where_each_coco_box_stands(tmp_path: Path) -> None:
    draw(tmp_path / "a.jpg")
    ids = (0, 7, "8", "x", None, -3, 2**63)
    boxes = tuple({"id": i, "bbox": [0, 0, 4, 5]} for i in ids)
    example = only(read_table(write(tmp_path / "x.json", coco("a.jpg", boxes=boxes))))
    assert example.marks is not None and example.marks.tolist() == [0, 7, 8, -4, -5, -6, -7]
    assert [example.mark(row) for row in (2, 3)] == ["annotation 8", "entry 3 of annotations"]


@pytest.mark.parametrize("side", [None, "wide", "40", 0, -40, inf, nan, 2**31, [40]])
def test_a_side_that_is_no_number_of_pixels_counts_as_missing(tmp_path: Path, side: Any) -> None:
    draw(tmp_path / "a.jpg")
    image = {"id": 0, "file_name": "a.jpg", "width": side, "height": HEIGHT}
    table = read_table(write(tmp_path / "x.json", coco(boxes=([0, 0, 4, 5],), images=[image])))
    assert (only(table).width, only(table).height, only(table).boxes.tolist()) == (WIDTH, HEIGHT, [[0, 0, 4, 5]])
    assert [f.kind for f in table.findings if f.kind == "size-missing"] == ["size-missing"]


def test_an_area_of_nothing_is_none_that_is_known(tmp_path: Path) -> None:
    draw(tmp_path / "a.jpg")
    boxes = tuple({"bbox": [0, 0, 4, 5], "area": area} for area in (0, 0.0, -1, "20", True, 7))
    table = read_table(write(tmp_path / "x.json", coco("a.jpg", boxes=boxes)))
    assert only(table).areas.tolist() == [20] * 5 + [7]


def test_boxes_over_the_edge_are_cut_and_keep_their_area(tmp_path: Path) -> None:
    draw(tmp_path / "a.jpg")
    odd = {"bbox": [0, 0, 40, 20], "area": 10**400}  # json's integers have no end
    boxes = ({"bbox": [-5, 10, 10, 30], "area": 123.0}, {"bbox": [30.5, 0, 10, 5], "area": nan}, odd)
    table = read_table(write(tmp_path / "x.json", coco("a.jpg", boxes=boxes)))
    assert only(table).boxes.tolist() == [[0, 10, 5, 20], [30.5, 0, 40, 5], [0, 0, 40, 20]]
    assert only(table).areas.tolist() == [123.0, 9.5 * 5, 800.0]
    assert kinds(table) == {"box-clipped": 1}, "half a pixel is rounding"


@pytest.mark.parametrize(("over", "told"), [(1, {}), (1.25, {"box-clipped": 1})])
def test_a_pixel_over_the_edge_is_rounding(tmp_path: Path, over: float, told: dict[str, int]) -> None:
    draw(tmp_path / "a.jpg")
    table = read_table(write(tmp_path / "x.json", coco("a.jpg", boxes=([-over, 0, 10, 5],))))
    assert only(table).boxes.tolist() == [[0, 0, 10 - over, 5]] and kinds(table) == told


def test_crowds_negatives_and_unused_classes_stay(tmp_path: Path) -> None:
    for name in "ab":
        draw(tmp_path / f"{name}.jpg")
    boxes = ({"bbox": [0, 0, 5, 5], "iscrowd": 1}, {"bbox": [0, 0, 5, 5], "ignore": 1}, [0, 0, 5, 5])
    classes = [{"id": i, "name": f"c{i}"} for i in (9, 1, 4)]
    table = read_table(write(tmp_path / "x.json", coco("a.jpg", "b.jpg", boxes=boxes, categories=classes)))
    assert table.names == ("c1", "c4", "c9")
    assert table.examples[0].crowd.tolist() == [True, True, False]
    negative = table.examples[1]
    assert negative.boxes.shape == (0, 4)
    assert [a.dtype for a in (negative.boxes, negative.labels, negative.crowd, negative.areas)] == [
        np.float64,
        np.int64,
        np.bool_,
        np.float64,
    ]


def test_a_class_under_two_ids_is_one_class(tmp_path: Path) -> None:
    draw(tmp_path / "a.jpg")
    classes = [{"id": 0, "name": "helmet"}, {"id": 1, "name": "helmet"}, {"id": 2, "name": "vest"}]
    boxes = ([0, 0, 5, 5], {"bbox": [0, 0, 5, 5], "category_id": 2})
    table = read_table(write(tmp_path / "x.json", coco("a.jpg", boxes=boxes, categories=classes)))
    assert table.names == ("helmet", "vest")
    assert only(table).labels.tolist() == [0, 1]
    assert kinds(table) == {"class-repeated": 1}


def test_pictures_that_cannot_be_used_are_left_out(tmp_path: Path) -> None:
    root = tmp_path / "set"
    draw(root / "images/good.jpg")
    draw(tmp_path / "secret.jpg")
    write(root / "images/broken.jpg", "no picture")
    write(root / "images/empty.jpg", "")
    files = (
        "good.jpg",
        "broken.jpg",
        "empty.jpg",
        "none.jpg",
        "../secret.jpg",
        str(tmp_path / "secret.jpg"),
        "..\\s.jpg",
    )
    images = [{"id": i, "file_name": f} for i, f in enumerate([*files, "x" * 5000, "nul\0.jpg", "images/good.jpg"])]
    images += [
        {"id": 0, "file_name": "again.jpg"},
        {"id": 50},
        {"file_name": "a.jpg"},
        "text",
        {"id": 51, "file_name": 5},
    ]
    table = read_table(write(root / "x.json", coco(images=images)))
    assert [e.name for e in table.examples] == ["images/good.jpg"]
    assert kinds(table) == {
        "picture-outside": 4,
        "picture-missing": 1,
        "picture-unreadable": 3,
        "image-repeated": 2,
        "image-malformed": 4,
    }


def test_a_picture_in_two_splits_stays_in_train(tmp_path: Path) -> None:
    for name in "ab":
        draw(tmp_path / f"images/{name}.jpg")
    write(tmp_path / "train.json", coco("a.jpg"))
    write(tmp_path / "val.json", coco("a.jpg", "b.jpg"))
    table = read_table(tmp_path)
    assert by_split(table) == {"train": ["images/a.jpg"], "val": ["images/b.jpg"]}
    assert kinds(table) == {"picture-repeated": 1}


@pytest.mark.parametrize(
    ("images", "boxes", "told"),
    [
        ([(0, 40), (1, 40)], 2, "a.jpg, ids 0, 1: 2 entries of 1, 1 boxes"),
        ([(0, 40), (1, 80)], 1, "a.jpg: listed twice as 1"),
    ],
)
def test_entries_of_one_picture_are_told_with_their_ids(
    tmp_path: Path, images: list[tuple[int, int]], boxes: int, told: str
) -> None:
    draw(tmp_path / "a.jpg")
    entries = [{"id": i, "file_name": "a.jpg", "width": width, "height": width // 2} for i, width in images]
    annotations = tuple({"bbox": [i, 0, 5, 5], "image_id": i} for i in (0, 1))
    table = read_table(write(tmp_path / "x.json", coco(images=entries, boxes=annotations)))
    assert len(only(table).boxes) == boxes
    finding = next(f for f in table.findings if f.file == "a.jpg")
    assert f"{', '.join(filter(None, (finding.file, finding.where)))}: {finding.detail}" == told


def test_a_set_is_found_from_wherever_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a path from here, which a later change of folder leaves whole, or by ~; whatever case its suffix has."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    picture = draw(tmp_path / "set/a.jpg")
    for name in ("x.json", "X.JSON"):
        write(tmp_path / "set" / name, coco("a.jpg"))
        for given in (f"set/{name}", f"~/set/{name}"):
            assert only(read_table(given)).path == picture
        (tmp_path / "set" / name).unlink()


def test_a_set_without_pictures_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no usable picture \(none is listed\)$"):
        read_table(write(tmp_path / "x.json", coco()))


def test_half_a_character_in_a_name_can_be_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    draw(tmp_path / "a.jpg")
    read_table(write(tmp_path / "x.json", coco("a.jpg", "\ud800.jpg")))
    assert len(caplog.messages) == 1 and "\\ud800.jpg" in caplog.messages[0], "and shows which one it is"


def test_pictures_of_any_size_are_measured_in_silence(tmp_path: Path) -> None:
    """Pillow warns of what could be a bomb; a header is none."""
    names = ["a.png", "a.tif"]
    for name in names:
        Image.new("1", (10_000, 9_000)).save(tmp_path / name)
    images = [{"id": i, "file_name": name} for i, name in enumerate(names)]
    path = write(tmp_path / "x.json", coco(images=images))
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        table = read_table(path)
    assert warned == []
    assert [(e.width, e.height) for e in table.examples] == [(10_000, 9_000)] * 2


def test_what_is_damaged_is_told_before_the_sets_below(tmp_path: Path) -> None:
    write(tmp_path / "data.yaml", "names: [a")
    for name in ("x", "y"):
        write(tmp_path / name / "Annotations/a.xml", voc())
    with pytest.raises(DataError, match=r"data.yaml is not valid YAML"):
        read_table(tmp_path, lenient=True)


def test_the_file_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "/set/labels/a.txt")

    monkeypatch.setattr("nanogfl.data.readers.coco.read_file", refuse)
    with pytest.raises(DataError, match=r"^cannot read /set/labels/a\.txt: Permission denied; check"):
        read_table(write(tmp_path / "x.json", coco("a.jpg")))


def test_nothing_usable_says_why(tmp_path: Path) -> None:
    path = write(tmp_path / "x.json", coco("a.jpg", "b.jpg"))
    with pytest.raises(DataError, match=r"has no usable picture \(2 pictures whose file is missing left out, first in"):
        read_table(path)


# Sizes


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "bmp"])
@pytest.mark.parametrize("orientation", [1, 3, 5, 6, 8])
def test_sizes_are_those_of_the_upright_picture(tmp_path: Path, suffix: str, orientation: int) -> None:
    path = draw(tmp_path / f"images/a.{suffix}", orientation)
    write(tmp_path / "labels/a.txt", "0 .5 .5 .5 .5")
    example = only(read_table(tmp_path))
    height, width = read_picture(path).shape[:2]
    assert (example.width, example.height) == (width, height)
    assert example.boxes.tolist() == [[width * 0.25, height * 0.25, width * 0.75, height * 0.75]]


def test_size_tags_that_lie_are_put_right(tmp_path: Path) -> None:
    draw(tmp_path / "JPEGImages/a.jpg")
    draw(tmp_path / "JPEGImages/b.jpg")
    write(tmp_path / "Annotations/a.xml", voc(("cat", 0, 0, 40, 20), size=(0, 0)))
    write(tmp_path / "Annotations/b.xml", voc(("cat", 0, 0, 40, 20), size=(20, 40)))
    table = read_table(tmp_path)
    assert {(e.width, e.height) for e in table.examples} == {(WIDTH, HEIGHT)}
    assert kinds(table) == {"size-differs": 1}


@pytest.mark.parametrize(
    ("size", "box", "expected", "kind", "reason"),
    [
        ((80, 40), (40, 20, 80, 40), [20, 10, 40, 20], "size-scaled", "halved"),
        ((20, 10), (5, 5, 20, 10), None, "size-differs", "a frame too small to have a shape"),
        ((81, 40), (0, 0, 81, 40), [0, 0, 40, 20], "size-scaled", "nearly halved"),
        ((80, 40), (10, 5, 40, 20), None, "size-differs", "a size that is another picture's: the box fits this one"),
        ((90, 40), (0, 0, 10, 10), None, "size-differs", "another shape"),
        ((80, 40), (40, 20, 90, 40), None, "box-outside", "boxes that the frame cannot hold stay as they are"),
        ((40, 80), (0, 0, 10, 10), None, "size-differs", "lying"),
    ],
)
def test_boxes_of_a_picture_that_was_resized_are_scaled(
    tmp_path: Path, size: tuple[int, int], box: Any, expected: Any, kind: str, reason: str
) -> None:
    draw(tmp_path / "JPEGImages/a.jpg")
    draw(tmp_path / "JPEGImages/b.jpg")
    write(tmp_path / "Annotations/a.xml", voc(("cat", *box), size=size))
    write(tmp_path / "Annotations/b.xml", voc(("cat", 0, 0, 5, 5), size=(WIDTH, HEIGHT)))
    table = read_table(tmp_path)
    if kind != "box-outside":
        np.testing.assert_allclose(table.examples[0].boxes, [expected or box])
    assert kinds(table) == ({kind: 1} if kind != "box-outside" else {kind: 1, "size-differs": 1}), reason


def test_areas_are_scaled_with_their_boxes(tmp_path: Path) -> None:
    draw(tmp_path / "a.jpg")
    images = [{"id": 0, "file_name": "a.jpg", "width": 80, "height": 40}]
    boxes = ({"bbox": [0, 0, 20, 10], "area": 100}, [60, 30, 20, 10])
    table = read_table(write(tmp_path / "x.json", coco(images=images, boxes=boxes)))
    assert only(table).areas.tolist() == [25, 50]


@pytest.mark.parametrize(
    ("size", "telling", "resized", "reason"),
    [
        ((80, 40), (60, 30, 80, 40), True, "one picture's boxes only fit the frame of before"),
        ((80, 40), (20, 10, 40, 20), False, "all boxes fit the pictures as they are"),
        ((20, 16), (0, 0, 10, 10), False, "another shape"),
        ((80, 43), (60, 30, 80, 40), False, "a shape that is off by more than a pixel"),
        ((80, 41), (60, 30, 80, 40), True, "by rounding"),
        ((32, 16), (0, 0, 30, 16), True, "enlarged pictures, whose boxes never leave the smaller frame"),
        ((32, 16), (0, 0, 40, 20), False, "a box that fits the picture alone"),
    ],
)
def test_the_boxes_of_all_pictures_tell_whether_frames_are_meant(
    tmp_path: Path, size: tuple[int, int], telling: Any, resized: bool, reason: str
) -> None:
    for name, box in (("a", (0, 0, 10, 10)), ("b", telling)):
        draw(tmp_path / f"JPEGImages/{name}.jpg")
        write(tmp_path / f"Annotations/{name}.xml", voc(("cat", *box), size=size))
    first = read_table(tmp_path).examples[0]
    assert (first.boxes[0, 2] != 10) == resized, reason


@pytest.mark.parametrize(
    ("size", "over", "resized"), [((80, 40), (10, 5, 44, 20), False), ((32, 16), (0, 0, 38, 10), True)]
)
def test_a_box_drawn_over_an_edge_decides_nothing(
    tmp_path: Path, size: tuple[int, int], over: Any, resized: bool
) -> None:
    for number in range(10):
        draw(tmp_path / f"JPEGImages/{number}.jpg")
        box = over if number == 9 else (0, 0, 10, 10)
        write(tmp_path / f"Annotations/{number}.xml", voc(("cat", *box), size=size))
    boxes = [e.boxes[0] for e in read_table(tmp_path).examples]
    assert {box[2] != 10 for box in boxes[:9]} == {resized}
    assert boxes[9][2] == 40, "cut to the picture"


def test_pictures_without_boxes_have_no_say_about_frames(tmp_path: Path) -> None:
    for number in range(10):
        draw(tmp_path / f"JPEGImages/{number}.jpg")
        boxes = [("cat", 60, 30, 80, 40)] * (number == 0)
        write(tmp_path / f"Annotations/{number}.xml", voc(*boxes, size=(80, 40)))
    assert read_table(tmp_path).examples[0].boxes.tolist() == [[30, 15, 40, 20]]


@pytest.mark.parametrize(
    ("orientation", "box", "expected"),
    [
        (6, (30, 5, 40, 10), [10, 30, 15, 40]),
        (8, (30, 5, 40, 10), [5, 0, 10, 10]),
        (6, (5, 5, 10, 10), [5, 5, 10, 10]),
        (6, (5, 5, 10, 40), [5, 5, 10, 40]),
        (3, (30, 5, 40, 10), [30, 5, 40, 10]),
    ],
)
def test_boxes_without_a_size_turn_where_they_only_fit_the_lying_picture(
    tmp_path: Path, orientation: int, box: Any, expected: list[float]
) -> None:
    draw(tmp_path / "JPEGImages/a.jpg", orientation)
    write(tmp_path / "Annotations/a.xml", voc(("cat", *box)))
    table = read_table(tmp_path)
    assert only(table).boxes.tolist() == [expected]
    assert kinds(table) == ({"picture-lying": 1} if expected != list(box) else {})


# Pascal VOC


@pytest.mark.parametrize(
    ("annotation", "picture"),
    [
        ("Annotations/a.b.xml", "JPEGImages/a.b.jpg"),
        ("annotations/a.b.xml", "images/a.b.png"),
        ("ANNOTATIONS/a.b.xml", "Images/a.b.jpg"),
        ("annotations/train/a.b.xml", "images/train/a.b.jpg"),
        ("train/annotations/a.b.xml", "train/images/a.b.jpg"),
        ("train/a.b.xml", "train/a.b.jpg"),
    ],
)
def test_voc_pictures_are_found(tmp_path: Path, annotation: str, picture: str) -> None:
    draw(tmp_path / picture)
    write(tmp_path / annotation, voc(("dog", 1, 2, 11, 12), ("cat", 3.5, 4, 5, 6), file="other_name.jpg"))
    table = read_table(tmp_path)
    example = only(table)
    assert (table.form, example.name, example.source_id) == ("voc", picture, picture)
    assert example.split == ("train" if "train" in annotation else None)
    assert table.names == ("cat", "dog")
    assert example.labels.tolist() == [1, 0]
    assert example.boxes.tolist() == [[1, 2, 11, 12], [3.5, 4, 5, 6]], "corners as written, parts ignored"
    assert example.areas.tolist() == [100, 3]
    assert not example.crowd.any(), "difficult boxes are ordinary"


def test_voc_lists_are_the_splits(tmp_path: Path) -> None:
    for stem in "abcdef":
        draw(tmp_path / f"JPEGImages/{stem}.jpg")
        write(tmp_path / f"Annotations/{stem}.xml", voc(("cat", 0, 0, 5, 5)))
    lists = {"train": "a\nb.jpg\n\n", "val": "JPEGImages/c.jpg\nghost\na", "test": "d 1\nd", "trainval": "a\nc\ne"}
    for name, text in {**lists, "cat_train": "f 1"}.items():
        write(tmp_path / f"ImageSets/Main/{name}.txt", text)
    table = read_table(tmp_path)
    stems = {k: [Path(n).stem for n in v] for k, v in by_split(table).items()}
    assert stems == {"train": ["a", "b", "e"], "val": ["c"], "test": ["d"]}
    assert kinds(table) == {"annotation-missing": 1, "picture-repeated": 1, "picture-unlisted": 1}


def test_voc_lists_that_name_nothing_are_no_set_without_splits(tmp_path: Path) -> None:
    draw(tmp_path / "JPEGImages/a 1.jpg")
    write(tmp_path / "Annotations/a 1.xml", voc(("cat", 0, 0, 5, 5)))
    write(tmp_path / "ImageSets/Main/train.txt", "ghost 1\n")
    with pytest.raises(DataError, match=r"its lists match no XML \(ImageSets/Main/train\.txt: ghost 1\)"):
        read_table(tmp_path)
    write(tmp_path / "ImageSets/Main/train.txt", "\ufeffa 1\r\n")
    assert by_split(read_table(tmp_path)) == {"train": ["JPEGImages/a 1.jpg"]}
    write(tmp_path / "ImageSets/Main/train.txt", "a 1  1\n")
    assert by_split(read_table(tmp_path)) == {"train": ["JPEGImages/a 1.jpg"]}


@pytest.mark.parametrize(
    ("train", "test", "expected", "told", "reason"),
    [
        ("camA/1", "camB/1", {"train": ["camA/1"], "test": ["camB/1"]}, 1, "the folders part them"),
        ("JPEGImages/camA/1.jpg", "x\\camB\\1.xml", {"train": ["camA/1"], "test": ["camB/1"]}, 1, "however written"),
        ("1", "2", {"test": ["camB/2"]}, 3, "1 may be two, 2 is one"),
        ("camC/1", "camB/1\n2", {"test": ["camB/1", "camB/2"]}, 2, "a folder that has none"),
    ],
)
def test_voc_lists_name_a_picture_with_its_folder(
    tmp_path: Path, train: str, test: str, expected: dict[str, list[str]], told: int, reason: str
) -> None:
    for name in ("camA/1", "camB/1", "camB/2"):
        draw(tmp_path / f"JPEGImages/{name}.jpg")
        write(tmp_path / f"Annotations/{name}.xml", voc(("cat", 0, 0, 5, 5), size=(WIDTH, HEIGHT), file=""))
    for split, lines in (("train", train), ("test", test)):
        write(tmp_path / f"ImageSets/Main/{split}.txt", lines)
    table = read_table(tmp_path)
    named = {split: [n[11:-4] for n in names] for split, names in by_split(table).items()}
    assert named == expected, reason
    assert len(table.warnings) == told
    assert set(kinds(table)) <= {"annotation-missing", "picture-unlisted"}


def test_a_voc_list_names_the_xml_at_that_path_before_one_of_that_stem(tmp_path: Path) -> None:
    for name in ("a", "deep/a", "deep/b"):
        draw(tmp_path / f"JPEGImages/{name}.jpeg")
        write(tmp_path / f"Annotations/{name}.xml", voc(("cat", 0, 0, 5, 5), file=""))
    write(tmp_path / "ImageSets/Main/train.txt", "a\nb.jpeg\n")
    write(tmp_path / "ImageSets/Main/val.txt", "deep/a")
    table = read_table(tmp_path)
    assert by_split(table) == {
        "train": ["JPEGImages/a.jpeg", "JPEGImages/deep/b.jpeg"], "val": ["JPEGImages/deep/a.jpeg"]
    }  # fmt: skip
    assert kinds(table) == {}


def test_a_voc_picture_is_that_of_the_stem_not_of_the_tag(tmp_path: Path) -> None:
    """Tags are often those of files that were renamed; the folder of its own comes first."""
    for name in ("1", "2", "deep/1"):
        draw(tmp_path / f"JPEGImages/{name}.jpg")
        tag = "C:\\old\\1.jpg" if name == "1" else "2.jpg"
        write(tmp_path / f"Annotations/{name}.xml", voc(("cat", 0, 0, 5, 5), file=tag))
    table = read_table(tmp_path)
    assert [e.name for e in table.examples] == [f"JPEGImages/{n}.jpg" for n in ("1", "2", "deep/1")]
    misleading = [f.file for f in table.findings if f.kind == "path-misleading"]
    assert misleading == ["Annotations/deep/1.xml"]


def test_spaces_around_a_voc_class_are_no_part_of_it(tmp_path: Path) -> None:
    draw(tmp_path / "JPEGImages/a.jpg")
    write(tmp_path / "Annotations/a.xml", voc(("red  cell", 0, 0, 5, 5), ("\n\tred cell ", 1, 1, 6, 6)))
    assert (read_table(tmp_path).names, len(only(read_table(tmp_path)).boxes)) == (("red cell",), 2)


@pytest.mark.parametrize("side", ["inf", "nan", "1e300", "-40", "0", "wide", ""])
def test_a_voc_side_that_is_no_number_of_pixels_counts_as_missing(tmp_path: Path, side: str) -> None:
    draw(tmp_path / "JPEGImages/a.jpg")
    write(tmp_path / "Annotations/a.xml", voc(("cat", 0, 0, 5, 5), size=(side, HEIGHT)))  # type: ignore[arg-type]
    table = read_table(tmp_path)
    assert (only(table).width, only(table).height, only(table).boxes.tolist()) == (WIDTH, HEIGHT, [[0, 0, 5, 5]])
    assert [f.kind for f in table.findings if f.kind == "size-missing"] == ["size-missing"]


def test_bad_voc_objects_are_left_out(tmp_path: Path) -> None:
    draw(tmp_path / "images/a.jpg")
    boxes = (
        ("cat", 5, 5, 5, 9),
        ("", 1, 1, 5, 5),
        ("cat", "x", 1, 5, 5),
        ("cat", "nan", 1, 5, 5),
        ("cat", 1, 1, 50, 5),
    )
    write(tmp_path / "annotations/a.xml", voc(*boxes))
    table = read_table(tmp_path)
    assert only(table).boxes.tolist() == [[1, 1, 40, 5]]
    assert kinds(table) == {
        "box-without-area": 1,
        "class-unknown": 1,
        "box-malformed": 1,
        "box-not-finite": 1,
        "box-clipped": 1,
    }


def test_voc_follows_the_tag_where_no_stem_fits_but_never_out_of_the_set(tmp_path: Path) -> None:
    root = tmp_path / "set"
    draw(tmp_path / "out.jpg")
    draw(root / "images/real.jpg")
    write(root / "annotations/1.xml", voc(("cat", 0, 0, 5, 5), file="C:\\pictures\\real.jpg"))
    write(root / "annotations/2.xml", voc(("cat", 0, 0, 5, 5), file="../../out.jpg"))
    table = read_table(root)
    assert only(table).name == "images/real.jpg"
    assert kinds(table) == {"picture-missing": 1}


# YOLO


@pytest.mark.parametrize(
    ("picture", "label", "split"),
    [
        ("images/a.jpg", "labels/a.txt", None),
        ("Images/a.jpg", "Labels/a.txt", None),
        ("images/a.jpg", "Labels/a.txt", None),
        ("IMAGES/a.jpg", "LABELS/a.txt", None),
        ("Images/train/a.jpg", "labels/train/a.TXT", "train"),
        ("images/deep/a.jpg", "labels/deep/a.txt", None),
        ("images/train/a.jpg", "labels/train/a.txt", "train"),
        ("images/val2017/a.jpg", "labels/val2017/a.txt", "val"),
        ("valid/images/a.jpg", "valid/labels/a.txt", "val"),
        ("inner/test/images/a.jpg", "inner/test/labels/a.txt", "test"),
    ],
)
def test_yolo_folders_without_a_yaml(tmp_path: Path, picture: str, label: str, split: str | None) -> None:
    draw(tmp_path / picture)
    write(tmp_path / label, "2 0.5 0.5 0.25 0.5\n")
    table = read_table(tmp_path)
    assert table.form == "yolo"
    assert table.names == ("class_0", "class_1", "class_2")
    assert only(table).split == split
    assert only(table).labels.tolist() == [2]
    assert only(table).boxes.tolist() == [[15, 5, 25, 15]]


@pytest.mark.parametrize(
    ("entry", "corrected", "reason"),
    [
        ("path: .\ntrain: train/images", False, "as it lies"),
        ("train: ./train/images/", False, "with a slash"),
        ("train: [train/images]", False, "a list of folders"),
        ("train: train", False, "the folder above"),
        ("train: train.txt", False, "a list of pictures"),
        ("train: ../train/images", True, "as Roboflow writes it"),
        ("train: data/set/train/images", True, "seen from two folders above"),
        ("train: /home/somebody/set/train/images", True, "another machine's path"),
        ("path: ../nowhere\ntrain: train/images", False, "a path that is not there"),
        ("path: ..\ntrain: set/train/images", False, "a path above"),
    ],
)
def test_yolo_yaml_paths(tmp_path: Path, entry: str, corrected: bool, reason: str) -> None:
    root = tmp_path / "set"
    draw(root / "train/images/a.jpg")
    write(root / "train/labels/a.txt", "1 0.5 0.5 0.5 0.5")
    write(root / "train.txt", "./train/images/a.jpg\n../../etc/passwd\n" if "txt" in entry else "")
    write(root / "my.yaml", f"names: {{0: cat, 1: dog}}\n{entry}\n")
    for given in (root, root / "my.yaml"):
        table = read_table(given)
        assert table.names == ("cat", "dog")
        assert (only(table).name, only(table).split) == ("train/images/a.jpg", "train"), reason
        assert only(table).boxes.tolist() == [[10, 5, 30, 15]]
        assert kinds(table).get("path-corrected", 0) == corrected
        assert kinds(table).get("picture-outside", 0) == ("txt" in entry)


def test_yolo_yaml_paths_that_leave_its_folder_or_lie_a_level_deeper(tmp_path: Path) -> None:
    draw(tmp_path / "images/a.jpg")
    write(tmp_path / "labels/a.txt", "0 .5 .5 .5 .5")
    beside = read_table(write(tmp_path / "settings/data.yaml", "names: [cat]\ntrain: ../images\n"))
    assert (by_split(beside), kinds(beside)) == ({"train": ["images/a.jpg"]}, {})
    draw(tmp_path / "set/inner/train/images/b.jpg")
    write(tmp_path / "set/inner/train/labels/b.txt", "0 .5 .5 .5 .5")
    deeper = read_table(write(tmp_path / "set/data.yaml", "names: [cat]\ntrain: train/images\n"))
    assert (len(deeper), kinds(deeper)) == (1, {"path-corrected": 1})


@pytest.mark.parametrize("several", [False, True])
def test_yolo_yaml_on_another_drive_than_its_pictures(
    several: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows: folders of several drives have nothing in common."""
    for split in ("train", "val"):
        draw(tmp_path / f"d/images/{split}/a.jpg")
        write(tmp_path / f"d/labels/{split}/a.txt", "0 .5 .5 .5 .5")
    common = os.path.commonpath

    def of_one_drive(paths: Sequence[str | Path]) -> str:
        drives = {Path(path).relative_to(tmp_path).parts[0] for path in paths}
        if several or len(drives) > 1:
            raise ValueError("Paths don't have the same drive")
        return common(paths)

    lines = "".join(f"{split}: {tmp_path}/d/images/{split}\n" for split in ("train", "val"))
    file = write(tmp_path / "c/data.yaml", "names: [cat]\n" + lines)
    with monkeypatch.context() as patch:
        patch.setattr("os.path.commonpath", of_one_drive)
        if several:
            with pytest.raises(DataError, match=r"data\.yaml: the pictures are on several drives; move them to one"):
                read_table(file)
        else:
            assert by_split(read_table(file)) == {"train": ["train/a.jpg"], "val": ["val/a.jpg"]}


def test_a_yolo_folder_that_is_not_there_is_not_another_splits(tmp_path: Path) -> None:
    draw(tmp_path / "images/a.jpg")
    write(tmp_path / "labels/a.txt", "0 .5 .5 .5 .5")
    table = read_table(write(tmp_path / "data.yaml", "names: [cat]\ntrain: train/images\nval: images\n"))
    assert (by_split(table), kinds(table)) == ({"val": ["images/a.jpg"]}, {"split-missing": 1})


def test_yolo_yaml_splits(tmp_path: Path) -> None:
    for name in ("train/images/a.jpg", "valid/images/b.jpg", "test/images/c.jpg"):
        draw(tmp_path / name)
    write(tmp_path / "train/labels/a.txt", "0 .5 .5 .5 .5")
    write(tmp_path / "valid/labels/b.txt", "")
    text = "names: [cat, dog]\ntrain: train/images\nvalid: [valid/images, more/images]\ntest: test/images\nnc: 2\n"
    write(tmp_path / "data.yaml", text)
    table = read_table(tmp_path)
    assert by_split(table) == {"train": ["train/images/a.jpg"], "val": ["valid/images/b.jpg"]}
    assert kinds(table) == {"split-missing": 1, "picture-unlabelled": 1}, "a test set without labels judges nobody"
    assert len(select(table, "val").examples[0].boxes) == 0


@pytest.mark.skipif(os.name == "nt", reason="links want rights there")
def test_linked_folders_are_read(tmp_path: Path) -> None:
    for name in ("set/images/a", "out/images/b", "set/images/c"):
        draw(tmp_path / f"{name}.jpg")
        write(tmp_path / f"{name}.txt".replace("images", "labels"), "0 .5 .5 .5 .5")
        write(tmp_path / f"{name}.xml".replace("images", "Annotations"), voc(("cat", 0, 0, 5, 5)))
    for folder in ("images", "labels", "Annotations"):
        (tmp_path / f"set/{folder}/more").symlink_to(tmp_path / "out" / folder)
    write(tmp_path / "x.json", coco("/lost/b.jpg"))
    (tmp_path / "set/x.json").symlink_to(tmp_path / "x.json")
    assert only(read_table(tmp_path / "set/x.json")).name == "images/more/b.jpg"
    (tmp_path / "set/x.json").unlink()
    names = ["images/a.jpg", "images/c.jpg", "images/more/b.jpg"]
    assert [e.name for e in read_table(tmp_path / "set").examples] == names
    write(tmp_path / "set/data.yaml", "names: [cat]\ntrain: images\n")
    assert [(e.name, len(e.boxes)) for e in read_table(tmp_path / "set").examples] == [(name, 1) for name in names]


def test_what_macos_adds_to_an_archive_is_no_part_of_the_set(tmp_path: Path) -> None:
    draw(tmp_path / "set/images/a.jpg")
    for name in ("set/instances_train.json", "set/._instances_train.json", "set/._data.yaml"):
        write(tmp_path / name, coco("a.jpg", boxes=([0, 0, 5, 5],)) if "._" not in name else "\0\5\x16\7\0\2")
    write(tmp_path / "__MACOSX/set/._instances_train.json", "\0\5\x16\7\0\2")
    assert only(read_table(tmp_path)).boxes.tolist() == [[0, 0, 5, 5]]


def test_a_folder_that_is_train_and_val_is_train(tmp_path: Path) -> None:
    draw(tmp_path / "images/a.jpg")
    write(tmp_path / "labels/a.txt", "0 .5 .5 .5 .5")
    write(tmp_path / "data.yaml", "names: [cat]\ntrain: images\nval: images\ntest:\n")
    table = read_table(tmp_path)
    assert by_split(table) == {"train": ["images/a.jpg"]}
    assert kinds(table) == {"picture-repeated": 1}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("0 0.5 0.5 0.5 0.5", [10, 5, 30, 15]),
        ("0.0 .5 .5 1 1", [0, 0, 40, 20]),
        ("0 .5 .5 1.000001 1", [0, 0, 40, 20]),
        ("0 .25 .5 .75 .25 .5 1", [10, 5, 30, 20]),
        ("0 .25 .25 .75 .25 .75 .75 .25 .75", [10, 5, 30, 15]),
        ("0 0.5 0.5 0 0.5", "box-without-area"),
        ("0 .5 .5 .5 nan", "box-not-finite"),
        ("0 .25 .5 nan .25 .5 1", "box-not-finite"),
        ("0 1.8 .5 .2 .2", "box-outside"),
        ("0 0 .5 .5 .5", "box-clipped"),
        ("0 .5 .5 .5", "box-malformed"),
        ("0 .5 .5 .5 .5 .9", "box-malformed"),
        ("0 .5 .5 .5 .5 .5 .5 .5", "box-malformed"),
        ("cat .5 .5 .5 .5", "box-malformed"),
        ("-1 .5 .5 .5 .5", "box-malformed"),
        ("0.5 .5 .5 .5 .5", "box-malformed"),
        ("99999999999 .5 .5 .5 .5", "box-malformed"),
        ("2 .5 .5 .5 .5", "class-unknown"),
    ],
)
def test_yolo_lines(tmp_path: Path, line: str, expected: list[float] | str) -> None:
    draw(tmp_path / "images/a.jpg")
    draw(tmp_path / "images/without_file.jpg")
    write(tmp_path / "labels/a.txt", f"\n1 .5 .5 .5 .5\n{line}\n")
    write(tmp_path / "data.yaml", "names: [cat, dog]\ntrain: images\n")
    table = read_table(tmp_path)
    found = [b for b, label in zip(table.examples[0].boxes, table.examples[0].labels, strict=True) if label == 0]
    if isinstance(expected, str):
        assert kinds(table) == {expected: 1}
        assert len(found) == (expected == "box-clipped")
    else:
        assert kinds(table) == {}
        np.testing.assert_allclose(found, [expected], atol=1e-9)
    assert len(table.examples[1].boxes) == 0, "a picture without a label file is a negative"


@pytest.mark.parametrize(
    ("line", "kind", "quoted"),
    [
        ("0 20 10 20 10", "box-in-pixels", [10, 5, 30, 15]),
        ("0 10 5 20 10", "box-in-pixels", [0, 0, 20, 10]),
        ("0 20 10 -20 10", "box-in-pixels", [30, 5, 10, 15]),
        ("0 10 5 30 5 20 15", "box-in-pixels", [10, 5, 30, 15]),
        ("0 1.8 .5 .4 .5", "box-outside", [64, 5, 80, 15]),
    ],
)
def test_yolo_lines_in_pixels_are_called_that(
    tmp_path: Path, line: str, kind: str, quoted: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    draw(tmp_path / "images/a.jpg")
    write(tmp_path / "labels/a.txt", f"0 .5 .5 .5 .5\n{line}\n")
    write(tmp_path / "data.yaml", "names: [cat]\ntrain: images\n")
    table = read_table(tmp_path)
    assert only(table).boxes.tolist() == [[10, 5, 30, 15]]
    (told,) = table.warnings
    assert (told.kind, told.where, told.detail) == (kind, "line 2", f"cat {[*map(float, quoted)]}")
    assert ("look like pixels (YOLO wants fractions of width and height)" in caplog.text) == (kind == "box-in-pixels")


@pytest.mark.parametrize(
    ("shape", "line", "kind", "reason"),
    [
        ("kpt_shape: [4, 3]", "0 .5 .5 .5 .5" + " .1 .1 2" * 4, "", "a box and four points"),
        ("kpt_shape: [4, 2]", "0 .5 .5 .5 .5" + " .1 .1" * 4, "", "points without a word on being seen"),
        ("kpt_shape: [4, 3]", "0 .5 .5 .5 .5" + " nan 0 0" * 4, "", "a point that nobody saw"),
        ("kpt_shape: [4, 3]", "0 .5 .5 .5 .5", "", "a box alone"),
        ("kpt_shape: [4, 3]", "0 .25 .25 .75 .25 .75 .75", "box-polygon", "another number of values"),
        ("kpt_shape: [0, 3]", "0 .25 .25 .75 .25 .75 .75", "box-polygon", "no points"),
    ],
)
def test_points_behind_a_yolo_box_are_no_polygon(tmp_path: Path, shape: str, line: str, kind: str, reason: str) -> None:
    draw(tmp_path / "images/a.jpg")
    write(tmp_path / "labels/a.txt", line)
    write(tmp_path / "data.yaml", f"names: [cat]\ntrain: images\n{shape}\n")
    table = read_table(tmp_path)
    assert only(table).boxes.tolist() == [[10, 5, 30, 15]], reason
    assert [f.kind for f in table.findings] == [kind] * bool(kind)


def test_labels_of_two_splits_are_read_once(tmp_path: Path) -> None:
    for name in "ab":
        draw(tmp_path / f"images/{name}.jpg")
    write(tmp_path / "labels/a.txt", "0 .5 .5\n7 .5 .5 .5 .5\n")
    write(tmp_path / "data.yaml", "names: [cat]\ntrain: images\nval: images\n")
    told = Counter(f.kind for f in read_table(tmp_path).findings)
    assert told == {"box-malformed": 1, "class-unknown": 1, "picture-unannotated": 1, "picture-repeated": 2}


@pytest.mark.parametrize(
    ("lists", "expected", "reason"),
    [
        ({"labels/train": "cat\ndog\n"}, ("cat", "dog"), "as LabelImg leaves it"),
        ({"labels/train": "cat\ndog\n", "labels/val": "cat\n"}, ("cat", "dog"), "one that knew less"),
        ({"labels/train": "dog\n", "labels": "cat\ndog\n"}, ("cat", "dog"), "the set's own comes first"),
        ({"labels/train": "cat\ndog\n", "labels/val": "dog\ncat\n"}, None, "which of them?"),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_class_names_beside_the_labels(
    tmp_path: Path, lists: dict[str, str], expected: tuple[str, ...] | None, reason: str, turned: bool
) -> None:
    def at(place: str) -> Path:  # train/labels instead of labels/train
        return tmp_path.joinpath(*(reversed(Path(place).parts) if turned else Path(place).parts))

    for split in ("train", "val"):
        draw(at(f"images/{split}") / "a.jpg")
        write(at(f"labels/{split}") / "a.txt", "0 .5 .5 .5 .5")
    for place, names in lists.items():
        write(at(place) / "classes.txt", names)
    if expected:
        assert read_table(tmp_path).names == expected, reason
        return
    with pytest.raises(DataError, match="numbers classes differently from"):
        read_table(tmp_path)
    table = read_table(tmp_path, lenient=True)
    assert (table.names, set(kinds(table))) == (("class_0",), {"annotation-unreadable"})


def test_class_names_of_roboflows_darknet(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        draw(tmp_path / split / f"{split}.jpg")
        write(tmp_path / split / f"{split}.txt", "1 .5 .5 .5 .5\n")
        write(tmp_path / split / "_darknet.labels", "cat\r\ndog")
    table = read_table(tmp_path)
    assert (table.names, by_split(table)) == (
        ("cat", "dog"),
        {"train": ["train/train.jpg"], "val": ["valid/valid.jpg"]},
    )
    write(tmp_path / "train/classes.txt", "Cat\nDog")
    write(tmp_path / "valid/classes.txt", "Cat\nDog")
    assert read_table(tmp_path).names == ("Cat", "Dog")  # somebody renamed them


def test_the_last_folder_called_images_has_a_twin(tmp_path: Path) -> None:
    draw(tmp_path / "images/deep/images/a.jpg")
    write(tmp_path / "images/deep/labels/a.txt", "0 .5 .5 .5 .5")
    write(tmp_path / "labels/deep/images/a.txt", "1 .5 .5 .5 .5")
    assert only(read_table(tmp_path)).labels.tolist() == [0]


def test_labels_in_their_folder_come_before_those_beside_the_picture(tmp_path: Path) -> None:
    draw(tmp_path / "images/a.jpg")
    write(tmp_path / "labels/a.txt", "0 .5 .5 .5 .5\n2 .5 .5 .25 .5\n1 .5 .5 .5 .5")
    write(tmp_path / "images/a.txt", "7 .5 .5 .5 .5")
    table = read_table(tmp_path)
    assert only(table).labels.tolist() == [0, 2, 1]
    assert table.names == ("class_0", "class_1", "class_2"), "as many as the highest of all lines says"


def test_a_file_called_labels_is_no_folder_of_them(tmp_path: Path) -> None:
    draw(tmp_path / "images/a.jpg")
    write(tmp_path / "images/a.txt", "0 .5 .5 .5 .5")
    write(tmp_path / "labels", "cat")
    write(tmp_path / "data.yaml", "names: [cat]\ntrain: images\n")
    assert only(read_table(tmp_path)).labels.tolist() == [0]


def test_an_empty_line_among_class_names_takes_up_its_number(tmp_path: Path) -> None:
    draw(tmp_path / "images/a.jpg")
    write(tmp_path / "labels/a.txt", "2 .5 .5 .5 .5")
    write(tmp_path / "classes.txt", "cat\n\ndog\n\n")
    table = read_table(tmp_path)
    assert [table.names[i] for i in only(table).labels] == ["dog"]


def test_yolo_class_names(tmp_path: Path) -> None:
    draw(tmp_path / "images/a.jpg")
    write(tmp_path / "labels/a.txt", "1 .5 .5 .5 .5")
    write(tmp_path / "notes.json", '{"info": "no COCO"}')
    write(tmp_path / "classes.txt", "cat\ndog\n")
    assert read_table(tmp_path).names == ("cat", "dog")
    write(tmp_path / "data.yaml", "nc: 3\ntrain: images")
    assert read_table(tmp_path).names == ("class_0", "class_1", "class_2")
    write(tmp_path / "data.yaml", "names: {4: 'd ', 1: b}\ntrain: images")
    table = read_table(tmp_path)
    assert table.names == ("b", "d")
    assert only(table).labels.tolist() == [0]


@pytest.mark.parametrize(
    ("files", "classes", "splits", "reason"),
    [
        ({"a.txt": "1 .5 .5 .5 .5", "classes.txt": "cat\ndog\n"}, ("cat", "dog"), [None], "LabelImg's YOLO"),
        ({"a.txt": "1 .5 .5 .5 .5"}, ("class_0", "class_1"), [None], "without its classes"),
        ({"train/a.txt": "0 .5 .5 .5 .5", "train/classes.txt": "cat"}, ("cat",), ["train"], "a folder a split"),
        (
            {"obj_train_data/a.txt": "0 .5 .5 .5 .5", "obj.names": "cat", "train.txt": "data/obj_train_data/a.jpg"},
            ("cat",),
            ["train"],
            "CVAT's YOLO 1.1",
        ),
        ({"a.xml": voc(("dog", 10, 5, 30, 15), file="a.jpg")}, ("dog",), [None], "LabelImg's Pascal VOC"),
        ({"in/a.xml": voc(("dog", 10, 5, 30, 15), file="a.jpg")}, ("dog",), [None], "as an archive unpacks"),
    ],
)
def test_annotations_beside_their_pictures(
    tmp_path: Path, files: dict[str, str], classes: tuple[str, ...], splits: list[str | None], reason: str
) -> None:
    for name, text in files.items():
        write(tmp_path / name, text)
    place = (tmp_path / next(iter(files))).parent
    draw(place / "a.jpg")
    draw(place / "unlabelled/b.jpg")
    draw(tmp_path.parent / f"{tmp_path.name}.jpg")  # beside the set
    write(tmp_path / "README.txt", "how it was made")
    table = read_table(tmp_path)
    assert (table.names, [e.split for e in table.examples]) == (classes, splits), reason
    assert only(table).path == place / "a.jpg"
    assert only(table).boxes.tolist() == [[10, 5, 30, 15]]
    assert kinds(table) == {}


def test_voc_pictures_beside_their_annotations_stay_in_the_set(tmp_path: Path) -> None:
    for name in ("set/a.jpg", "b.jpg", "c.jpg"):
        draw(tmp_path / name)
    write(tmp_path / "set/a.xml", voc(("dog", 10, 5, 30, 15)))
    write(tmp_path / "set/b.xml", voc(("dog", 10, 5, 30, 15), file="c.jpg"))
    table = read_table(tmp_path / "set")
    assert (only(table).name, kinds(table)) == ("a.jpg", {"picture-missing": 1})


@pytest.mark.parametrize(("text", "told"), [(voc(), {}), (voc(("cat", "x", 1, 5, 5)), {"box-malformed": 1})])
def test_a_voc_set_without_a_box_is_read_patiently(tmp_path: Path, text: str, told: dict[str, int]) -> None:
    draw(tmp_path / "JPEGImages/a.jpg")
    write(tmp_path / "Annotations/a.xml", text)
    table = read_table(tmp_path, lenient=True)
    assert (table.names, only(table).boxes.shape, kinds(table)) == ((), (0, 4), told)


@pytest.mark.parametrize(
    ("line", "corrected", "reason"),
    [
        ("images/a.jpg", False, "as it lies"),
        ("./images/a.jpg", False, "with a dot"),
        ("images\\a.jpg", False, "as Windows writes it"),
        ("/content/set/images/a.jpg", True, "another machine's, as Colab's"),
        ("C:\\set\\images\\a.jpg", True, "another machine's, of Windows"),
        ("data/images/a.jpg", True, "seen from above"),
        ("../data/images/a.jpg", True, "seen from beside"),
    ],
)
def test_lines_of_yolo_lists_may_be_wrong_by_a_level(tmp_path: Path, line: str, corrected: bool, reason: str) -> None:
    root = tmp_path / "set"
    for name in "ab":
        draw(root / f"images/{name}.jpg")
        write(root / f"labels/{name}.txt", "0 .5 .5 .5 .5")
    write(root / "train.txt", f"{line}\n{line.replace('a.jpg', 'b.jpg')}\n")
    write(root / "data.yaml", "names: [cat]\ntrain: train.txt\n")
    table = read_table(root)
    assert [(e.name, len(e.boxes)) for e in table.examples] == [("images/a.jpg", 1), ("images/b.jpg", 1)], reason
    found = [(f.kind, f.file, f.where) for f in table.findings]
    assert found == ([("path-corrected", "train.txt", "lines 1, 2")] if corrected else [])


@pytest.mark.parametrize(
    ("place", "line", "picture"),
    [
        ("train.txt", "images/a.jpg", "sub/images/a.jpg"),
        ("lists/train.txt", "images/a.jpg", "lists/images/a.jpg"),
        ("lists/train.txt", "sub/images/a.jpg", "sub/images/a.jpg"),
    ],
    ids=["to the path of the yaml", "to the list", "to the root"],
)
def test_lines_of_yolo_lists_are_relative(tmp_path: Path, place: str, line: str, picture: str) -> None:
    (tmp_path / "sub").mkdir()
    draw(tmp_path / picture)
    write(tmp_path / picture.replace("images", "labels").replace(".jpg", ".txt"), "0 .5 .5 .5 .5")
    write(tmp_path / place, line)
    table = read_table(write(tmp_path / "data.yaml", f"names: [cat]\npath: sub\ntrain: {place}\n"))
    assert ([e.path for e in table.examples], kinds(table)) == ([tmp_path / picture], {})


def test_lines_of_yolo_lists_mean_what_their_ends_say(tmp_path: Path) -> None:
    draw(tmp_path / "train/images/a.jpg")
    draw(tmp_path / "images/b.jpg")
    for name in ("train/labels/a", "labels/b"):
        write(tmp_path / f"{name}.txt", "0 .5 .5 .5 .5")
    write(tmp_path / "val.txt", "/x/train/images/a.jpg\n/x/val/images/b.jpg\n")
    write(tmp_path / "data.yaml", "names: [cat]\ntrain: train/images\nval: val.txt\n")
    table = read_table(tmp_path)
    assert by_split(table) == {"train": ["train/images/a.jpg"], "val": ["images/b.jpg"]}
    assert kinds(table) == {"picture-repeated": 1, "path-corrected": 1}


@pytest.mark.skipif(os.name == "nt", reason="links want rights there")
def test_a_list_of_a_sets_own_paths_is_read_through_a_link(tmp_path: Path) -> None:
    draw(tmp_path / "set/images/a.jpg")
    write(tmp_path / "set/labels/a.txt", "0 .5 .5 .5 .5")
    write(tmp_path / "set/train.txt", f"{tmp_path}/set/images/a.jpg")
    write(tmp_path / "set/data.yaml", "names: [cat]\ntrain: train.txt\n")
    (tmp_path / "link").symlink_to(tmp_path / "set")
    assert kinds(read_table(tmp_path / "set")) == {}
    assert only(read_table(tmp_path / "link")).path == tmp_path / "link/images/a.jpg"


def test_what_is_wrong_with_a_listed_picture_is_told_once(tmp_path: Path) -> None:
    draw(tmp_path / "images/a.jpg")
    write(tmp_path / "labels/a.txt", "0 .5 .5 .5 .5")
    write(tmp_path / "train.txt", "images/a.jpg\nimages/a.jpg\nimages/9.jpg\n")
    write(tmp_path / "data.yaml", "names: [cat]\ntrain: train.txt\nval: train.txt\n")
    told = [(f.kind, f.file, f.detail) for f in read_table(tmp_path).findings]
    assert told == [
        ("picture-missing", "images/9.jpg", "listed in train.txt, line 3"),
        ("picture-repeated", "images/a.jpg", "listed twice in train"),
        ("picture-repeated", "images/a.jpg", "listed in val; it stays in train"),
        ("picture-repeated", "images/a.jpg", "listed in val; it stays in train"),
    ]


def test_a_label_file_that_cannot_be_read_makes_no_negative(tmp_path: Path) -> None:
    """Here a folder of its name; rights that lack are the same, but not to root."""
    for name in "ab":
        draw(tmp_path / f"images/{name}.jpg")
    write(tmp_path / "labels/a.txt/x", "")
    write(tmp_path / "labels/b.txt", "0 .5 .5 .5 .5")
    with pytest.raises(DataError, match=r"cannot read .*labels/a\.txt: Is a directory; check names and permissions"):
        read_table(tmp_path)
    table = read_table(tmp_path, lenient=True)
    assert only(table).name == "images/b.jpg"
    assert [(f.kind, f.file) for f in table.findings] == [("annotation-unreadable", "images/a.jpg")]


def test_labelled_pictures_beside_the_folders_of_splits_are_told(tmp_path: Path) -> None:
    for name in ("train/a", "extra/b", "loose"):
        draw(tmp_path / f"images/{name}.jpg")
        write(tmp_path / f"labels/{name}.txt", "0 .5 .5 .5 .5")
    draw(tmp_path / "images/masks/a.png")
    table = read_table(tmp_path)
    assert only(table).name == "images/train/a.jpg"
    told = [(f.kind, f.file) for f in table.findings]
    assert told == [("picture-unlisted", "images/extra/b.jpg"), ("picture-unlisted", "images/loose.jpg")]


@pytest.mark.parametrize("suffix", ["jfif", "jpe", "JFIF"])
def test_jpegs_of_rare_suffixes_are_read(tmp_path: Path, suffix: str) -> None:
    for form, name, text in (
        ("yolo", "labels/a.txt", "0 .5 .5 .5 .5"),
        ("voc", "Annotations/a.xml", voc(("x", 10, 5, 30, 15))),
    ):
        draw(tmp_path / form / "images/a.jpg").rename(tmp_path / form / f"images/a.{suffix}")
        write(tmp_path / form / name, text)
        table = read_table(tmp_path / form)
        assert (table.form, only(table).name, kinds(table)) == (form, f"images/a.{suffix}", {})
        assert only(table).boxes.tolist() == [[10, 5, 30, 15]]
        found = check(tmp_path / form)
        assert "picture-suffix" not in found.counts
        write_copy(found, tmp_path / f"{form}-copy")
        assert only(read_table(tmp_path / f"{form}-copy")).name == f"images/a.{suffix}"


# Byte-order marks

CODINGS = {"utf-8-sig": b"", "utf-16-le": b"\xff\xfe", "utf-16-be": b"\xfe\xff"}  # PowerShell's > writes UTF-16


def recoded(path: Path, coding: str) -> None:
    """Write the file again, as another editor would."""
    path.write_bytes(CODINGS[coding] + path.read_text().replace("\n", "\r\n").encode(coding))


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("spoilt", ["labels/a.txt", "classes.txt", "data.yaml", "train.txt"])
def test_a_mark_in_front_of_a_yolo_file_is_no_part_of_it(tmp_path: Path, spoilt: str, coding: str) -> None:
    draw(tmp_path / "images/a.jpg")
    write(tmp_path / "labels/a.txt", "1 .5 .5 .5 .5\n0 .5 .5 1 1\n")
    write(tmp_path / "classes.txt", "cat\ndog\n")
    if spoilt != "classes.txt":
        write(tmp_path / "train.txt", "images/a.jpg\n")
        write(tmp_path / "data.yaml", "names: [cat, dog]\ntrain: train.txt\n")
    recoded(tmp_path / spoilt, coding)
    table = read_table(tmp_path)
    assert table.names == ("cat", "dog")
    assert only(table).labels.tolist() == [1, 0]
    assert kinds(table) == {}


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("spoilt", ["Annotations/a.xml", "ImageSets/Main/train.txt"])
def test_a_mark_in_front_of_a_voc_file_is_no_part_of_it(tmp_path: Path, spoilt: str, coding: str) -> None:
    draw(tmp_path / "JPEGImages/a.jpg")
    write(tmp_path / "Annotations/a.xml", voc(("cat", 0, 0, 5, 5), size=(WIDTH, HEIGHT), file="a.jpg"))
    write(tmp_path / "ImageSets/Main/train.txt", "a\n")
    recoded(tmp_path / spoilt, coding)
    table = read_table(tmp_path)
    assert (only(table).split, kinds(table)) == ("train", {})


@pytest.mark.parametrize("coding", CODINGS)
def test_a_mark_in_front_of_a_json_is_no_part_of_it(tmp_path: Path, coding: str) -> None:
    draw(tmp_path / "a.jpg")
    recoded(write(tmp_path / "x.json", coco("a.jpg", boxes=([0, 0, 5, 5],))), coding)
    assert only(read_table(tmp_path)).boxes.tolist() == [[0, 0, 5, 5]]


# Refusals


@pytest.mark.parametrize(
    ("files", "given", "message"),
    [
        ({}, "none", "none does not exist; "),
        ({}, "", "an empty folder: supported formats are COCO"),
        ({"a.csv": "x"}, "", "not an annotated dataset: supported formats are COCO"),
        ({"a.csv": "x"}, "a.csv", "a.csv is not an annotated dataset: supported formats"),
        ({"x.json": "[1,2"}, "x.json", "x.json is not valid JSON"),
        ({"x.json": "[1,2"}, "", "x.json is not valid JSON"),
        ({"x.json": "[1,2]"}, "x.json", "x.json is not a COCO JSON file: expected an object"),
        ({"x.json": "[" * 100_000}, "x.json", "x.json is not valid JSON"),
        ({"x.json": '{"images": "x", "annotations": 3}'}, "x.json", "'images' must be a list, but is str"),
        ({"x.json": '{"images": "x", "annotations": 3}'}, "", "not an annotated dataset: supported formats"),
        ({"x.json": '{"images": {}, "annotations": []}'}, "", "'images' must be a list, but is dict"),
        ({"x.json": '{"images": [], "annotations": 3}'}, "x.json", "'annotations' must be a list, but is int"),
        ({"x.json": '{"images": [], "annotations": []}'}, "x.json", "'categories' must be a list, but is missing"),
        ({"x.json": coco("a.jpg", categories=[])}, "", "has no categories"),
        ({"x.json": coco("a.jpg", categories=[{"id": 1}])}, "", "needs an id and a name"),
        ({"x.json": coco("a.jpg"), "y.json": coco("a.jpg")}, "", r"several COCO JSON files \(x.json, y.json\)"),
        ({"Annotations/a.xml": "<annotation>"}, "", "a.xml is not valid XML"),
        ({"Annotations/a.xml": "<svg/>"}, "", "a.xml is not a Pascal VOC annotation"),
        ({"Annotations/a.xml": voc()}, "", "none of the 1 XML files has an object"),
        (
            {"Annotations/a.xml": '<!DOCTYPE d [<!ENTITY e "x">]><annotation>&e;</annotation>'},
            "",
            "a.xml is not valid XML: EntitiesForbidden",
        ),
        ({"data.yaml": "names: [a"}, "", "data.yaml is not valid YAML"),
        ({"data.yaml": "!!python/object/apply:os.system [true]"}, "", "data.yaml is not valid YAML"),
        ({"data.yaml": "names: 3\ntrain: images"}, "", "names must be a list of class names"),
        ({"data.yaml": "names: {a: 1}\ntrain: images"}, "", "names must be a list of class names"),
        ({"data.yaml": "names: [a]\ntrain: 5"}, "", "train must be a path or a list of paths, not int"),
        ({"data.yaml": "names: [a]"}, "data.yaml", "data.yaml is not a data.yaml"),
        (
            {"data.yaml": "names: [a]\ntrain: images"},
            "",
            r"no usable picture \(splits whose place is missing left out: d",
        ),
        (
            {"data.yaml": "names: [no, yes]\ntrain: images"},
            "",
            "the name of class 0 is read as false; put .* in quotes",
        ),
        ({"data.yaml": "names: {3: on}\ntrain: images"}, "", "the name of class 3 is read as true; put .* in quotes"),
        ({"data.yaml": "names: [a, ' ']\ntrain: images"}, "", "the name of class 1 is blank; put .* in quotes"),
        (
            {"Annotations/a.xml": voc(("cat", "10,5", 1, 5, 5))},
            "",
            r"none .* with a name and a bndbox of four numbers; Annotations/a.xml, object 1: cat: \[None, 1.0",
        ),
        (
            {"VOC2007/Annotations/a.xml": voc(), "y/labels/train/a": "", "y/images/train/b": ""},
            "",
            "are: VOC2007, y; c",
        ),
        ({"a/b/notes.md": "x"}, "", r"test_refusals_are_one_line[^/]* is not an annotated dataset"),
        (
            {"a.jpg": "x", "README.txt": "0 .5 .5 .5 .5", "pom.xml": "<x/>"},
            "",
            "not an annotated dataset: supported formats",
        ),
        ({"a.jpg": "x", "a.txt": "a photo of 1 cat"}, "", "not an annotated dataset: supported formats"),
    ],
)
def test_refusals_are_one_line(tmp_path: Path, files: dict[str, str], given: str, message: str) -> None:
    for name, text in files.items():
        write(tmp_path / name, text)
    with pytest.raises(DataError, match=message) as caught:
        read_table(tmp_path / given)
    assert "\n" not in str(caught.value)


def test_yolo_without_any_label_file_is_refused(tmp_path: Path) -> None:
    draw(tmp_path / "images/a.jpg")
    write(tmp_path / "data.yaml", "names: [a]\ntrain: images")
    with pytest.raises(DataError, match="no picture has a label file"):
        read_table(tmp_path)
