"""One kind of dirt a row: it is found, in its place, and nothing else is."""

from __future__ import annotations

import itertools
import json
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dirty import BOXES, FORMS, HEIGHT, WIDTH, save, scene, write, xml, yolo_line
from PIL import Image

from nanogfl.data.findings import KINDS, Findings
from nanogfl.data.readers import read_table
from nanogfl.data.table import Example, Table
from nanogfl.doctor.boxes import same_boxes
from nanogfl.doctor.check import Checkup, check
from nanogfl.doctor.duplicates import Duplicate, find_duplicates
from nanogfl.doctor.fix import write_copy
from nanogfl.doctor.inspection import Inspection, inspect
from nanogfl.doctor.labels import canonical_names, note_labels
from nanogfl.doctor.names import oddity
from nanogfl.doctor.report import write_report

Spoil = Callable[[Path], object]
CAT, DOG = BOXES.values()
FIRST = "train/labels/a.txt"
A, H = "train/images/a.jpg", "train/images/h.jpg"
JSON = "annotations/instances_train.json"
NAMES = "names: [cat, dog]\n"


def kinds(found: Checkup) -> dict[str, int]:
    return dict(found.counts)


def add_line(line: str, file: str = FIRST) -> Spoil:
    return lambda root: write(root / file, (root / file).read_text() + line)


def replace_picture(file: str, picture: np.ndarray, **options: Any) -> Spoil:
    return lambda root: save(root / file, picture, **options)


def cut_short(root: Path) -> None:
    save(root / "train/images/a.jpg", scene("a", 400, 300))
    data = (root / "train/images/a.jpg").read_bytes()
    (root / "train/images/a.jpg").write_bytes(data[: len(data) // 2])


def bomb(root: Path) -> None:
    """A PNG of a few hundred bytes that says it is 60000 x 60000."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 9999)) + chunk(b"IEND", b"")
    (root / "train/images/a.jpg").write_bytes(b"\x89PNG\r\n\x1a\n" + parts)


def rename(before: str, after: str) -> Spoil:
    def spoil(root: Path) -> None:
        for folder, suffix in (("images", ".jpg"), ("labels", ".txt")):
            (root / f"train/{folder}/{before}{suffix}").rename(root / f"train/{folder}/{after}{suffix}")

    return spoil


def copy_picture(source: str, target: str, quality: int | None = None) -> Spoil:
    def spoil(root: Path) -> None:
        path = root / target
        label = root / target.replace("images", "labels").replace(".jpg", ".txt")
        write(label, (root / source.replace("images", "labels").replace(".jpg", ".txt")).read_text())
        if quality:
            Image.open(root / source).resize((WIDTH * 2, HEIGHT * 2)).save(path, quality=quality)
        else:
            path.write_bytes((root / source).read_bytes())

    return spoil


def in_json(change: Callable[[dict[str, Any]], object], split: str = "train") -> Spoil:
    def spoil(root: Path) -> None:
        path = root / f"annotations/instances_{split}.json"
        document = json.loads(path.read_text())
        change(document)
        path.write_text(json.dumps(document))

    return spoil


def in_both(change: Callable[[dict[str, Any]], object]) -> Spoil:
    return lambda root: [in_json(change, split)(root) for split in ("train", "val")]


def set_all(part: str, key: str, value: Callable[[Any], object]) -> Callable[[dict[str, Any]], object]:
    return lambda document: [entry.update({key: value(entry[key])}) for entry in document[part]]


def lying(orientation: int) -> Spoil:
    """A phone's photograph, annotated by a tool that does not know of EXIF."""

    def spoil(root: Path) -> None:
        save(root / "JPEGImages/a.jpg", scene("a"), orientation)

    return spoil


def xml_of(text: str, stem: str = "a") -> Spoil:
    return lambda root: write(root / f"Annotations/{stem}.xml", text)


def many_cats(root: Path) -> None:
    boxes = [(4 + 3 * i, 4, 30 + 3 * i, 30 + i) for i in range(20)]
    for stem in "abc":
        write(root / f"train/labels/{stem}.txt", "".join(yolo_line(0, box) for box in boxes) + yolo_line(1, DOG))


def add_picture(document: dict[str, Any]) -> None:
    document["images"].append({"id": 9, "file_name": "z.jpg", "width": WIDTH, "height": HEIGHT})


def an_entry_each(document: dict[str, Any]) -> None:
    """Each annotation with an entry of its picture for itself."""
    by_id = {image["id"]: image for image in document["images"]}
    boxes = list(enumerate(document["annotations"]))
    document["images"] = [{**by_id[box["image_id"]], "id": number} for number, box in boxes]
    for number, box in boxes:
        box["image_id"] = number


def doubled() -> str:
    """An annotation of the picture as it was before it was halved."""
    return xml("a.jpg", [(name, [2 * v for v in box]) for name, box in BOXES.items()], (2 * WIDTH, 2 * HEIGHT))


# What is done to which clean set, which kinds are found how often, and what of the first: file, where.
DIRT: list[tuple[str, Spoil, dict[str, int], str, str]] = [
    # Pictures
    ("yolo", cut_short, {"picture-truncated": 1}, A, ""),
    ("yolo", lambda r: write(r / A, "x"), {"picture-unreadable": 1}, A, ""),
    ("yolo", lambda r: write(r / A, ""), {"picture-unreadable": 1}, A, ""),
    ("yolo", bomb, {"picture-huge": 1}, A, ""),
    ("yolo", replace_picture(A, scene("a"), format="PNG"), {"picture-suffix": 1}, A, ""),
    ("yolo", replace_picture(A, scene("a")[..., 0]), {"picture-gray": 1}, A, ""),
    ("yolo", replace_picture(A, scene("a")[..., :1].repeat(3, 2)), {"picture-gray": 1}, "", ""),
    ("yolo", replace_picture(A, scene("a"), orientation=3), {"picture-rotated": 1}, A, ""),
    ("voc", lying(6), {"picture-lying": 1}, "JPEGImages/a.jpg", ""),
    ("yolo", replace_picture("train/images/g.gif", scene("g")), {"picture-form": 1}, "train/images/g.gif", ""),
    ("yolo", replace_picture("train/images/g.jpg", scene("g")), {"picture-unannotated": 1}, "train/images/g.jpg", ""),
    ("voc", replace_picture("JPEGImages/g.jpg", scene("g")), {"picture-unannotated": 1}, "JPEGImages/g.jpg", ""),
    ("coco", replace_picture("train/g.jpg", scene("g")), {"picture-unannotated": 1}, "train/g.jpg", ""),
    ("yolo", replace_picture("test/images/g.jpg", scene("g")), {"folder-unlisted": 1}, "test/images", ""),
    ("voc", replace_picture("JPEGImages/extra/g.jpg", scene("g")), {"folder-unlisted": 1}, "JPEGImages/extra", ""),
    ("voc", replace_picture("SegmentationClass/a.png", scene("g")), {}, "", ""),
    ("coco", replace_picture(".cache/g.jpg", scene("g")), {}, "", ""),
    ("yolo", lambda r: (r / A).unlink(), {"picture-missing": 1}, FIRST, ""),
    ("voc", lambda r: (r / "JPEGImages/a.jpg").unlink(), {"picture-missing": 1}, "JPEGImages/a.jpg", ""),
    ("coco", lambda r: (r / "train/a.jpg").unlink(), {"picture-missing": 1}, "train/a.jpg", ""),
    ("yolo", lambda r: write(r / FIRST, ""), {"picture-empty": 1}, A, ""),
    ("yolo", copy_picture(A, H), {"picture-duplicate": 1}, H, ""),
    ("yolo", copy_picture(A, H, 60), {"picture-near-duplicate": 1}, H, ""),
    ("yolo", copy_picture(A, "valid/images/h.jpg"), {"split-leak": 1}, "valid/images/h.jpg", "in val"),
    ("yolo", copy_picture(A, "valid/images/h.jpg", 60), {"split-leak": 1}, "valid/images/h.jpg", "in val"),
    # Boxes
    ("yolo", add_line("0 .5 .5 0 .5\n"), {"box-without-area": 1}, A, "line 3"),
    ("yolo", add_line("0 .5 .5 -.2 .5\n"), {"box-inverted": 1}, A, "line 3"),
    ("yolo", add_line("0 1.8 .5 .2 .2\n"), {"box-outside": 1}, A, "line 3"),
    ("yolo", add_line("0 30 24 40 32\n"), {"box-in-pixels": 1}, A, "line 3"),
    ("yolo", add_line("0 .9 .5 .4 .4\n"), {"box-clipped": 1}, A, "line 3"),
    ("yolo", add_line("0 .5 .5 nan .2\n"), {"box-not-finite": 1}, A, "line 3"),
    ("yolo", add_line("0 .5 .5 .2\n"), {"box-malformed": 1}, FIRST, "line 3"),
    ("yolo", add_line("\n7 .5 .5 .2 .2\n"), {"class-unknown": 1}, A, "line 4"),
    ("yolo", add_line(yolo_line(0, CAT)), {"box-duplicate": 1}, A, "line 3"),
    ("yolo", add_line(yolo_line(1, CAT)), {"box-contradicted": 1}, A, "line 3"),
    ("yolo", add_line(yolo_line(0, (5, 5, 5.9, 30))), {"box-tiny": 1}, A, "line 3"),
    ("yolo", add_line("0 .1 .1 .5 .1 .5 .6\n"), {"box-polygon": 1}, FIRST, "line 3"),
    (
        "voc",
        xml_of(xml("a.jpg", [("cat", (50, 8, 10, 40)), ("dog", DOG)])),
        {"box-inverted": 1},
        "JPEGImages/a.jpg",
        "object 1",
    ),
    (
        "coco",
        in_json(lambda d: d["annotations"][1].update(bbox=[5, 5, 0, 9])),
        {"box-without-area": 1},
        "train/a.jpg",
        "annotation 2",
    ),
    ("coco", in_json(lambda d: d["annotations"][1].update(bbox=None)), {"box-malformed": 1}, JSON, "annotation 2"),
    ("coco", in_json(lambda d: d["annotations"][1].update(iscrowd=1)), {"box-crowd": 1}, "train/a.jpg", "annotation 2"),
    # Ids and labels
    ("coco", in_json(lambda d: d["annotations"][1].update(id=1)), {"id-repeated": 1}, JSON, "annotation 1"),
    ("coco", in_json(set_all("annotations", "id", lambda i: i - 1)), {"id-zero": 1}, JSON, "annotations"),
    ("coco", in_json(set_all("annotations", "id", lambda i: i + 2**31)), {"id-large": 1}, JSON, "annotations"),
    ("coco", in_json(set_all("annotations", "id", lambda i: f"x{i}")), {"id-text": 1}, JSON, "annotations"),
    (
        "coco",
        in_json(lambda d: d["images"].append({**d["images"][0], "file_name": "z.jpg"})),
        {"image-repeated": 2},
        "train/a.jpg",
        "image 1",
    ),
    ("coco", in_json(an_entry_each), {"picture-merged": 3, "id-zero": 1}, "train/a.jpg", "ids 0, 1"),
    ("coco", in_json(lambda d: d["annotations"][1].update(image_id=99)), {"image-unknown": 1}, JSON, "annotation 2"),
    ("coco", in_json(lambda d: d["annotations"][1].update(category_id=99)), {"class-unknown": 1}, JSON, "annotation 2"),
    ("coco", in_json(lambda d: d["images"].append({"id": 9})), {"image-malformed": 1}, JSON, "entry 3 of images"),
    (
        "coco",
        in_json(lambda d: d["images"].append({"id": 9, "file_name": "../../x.jpg"})),
        {"picture-outside": 1},
        JSON,
        "image 9",
    ),
    (
        "coco",
        lambda r: [save(r / f"{f}/z.jpg", scene(f)) for f in "xy"] and in_json(add_picture)(r),
        {"picture-ambiguous": 1, "folder-unlisted": 2},
        JSON,
        "image 9",
    ),
    (
        "coco",
        in_both(lambda d: d["categories"].append({"id": 3, "name": "dog"})),
        {"class-repeated": 1},
        JSON,
        "categories",
    ),
    ("coco", in_json(lambda d: [c.update(id=3 - c["id"]) for c in d["categories"]]), {"class-renumbered": 1}, "", ""),
    (
        "coco",
        in_json(lambda d: d["categories"][0].update(name="Cat"), "val"),
        {"class-renumbered": 1, "class-variant": 1},
        "annotations/instances_val.json",
        "categories",
    ),
    ("voc", xml_of(xml("a.jpg", [("Cat", CAT), ("dog", DOG)])), {"class-variant": 1}, "JPEGImages/a.jpg", ""),
    (
        "yolo",
        lambda r: write(r / "data.yaml", (r / "data.yaml").read_text().replace("dog]", "dog, cow]")),
        {"class-unused": 1},
        "",
        "",
    ),
    ("yolo", add_line("nc: 5\n", "data.yaml"), {"class-count": 1}, "data.yaml", "nc"),
    ("yolo", lambda r: write(r / "a.yaml", NAMES + "nc: 5\ntrain: train/images\n"), {}, "", ""),
    ("yolo", many_cats, {"class-imbalance": 1}, "", ""),
    (
        "yolo",
        lambda r: [write(r / f"train/labels/{s}.txt", yolo_line(0, CAT)) for s in "abc"],
        {"class-untaught": 1},
        "",
        "val",
    ),
    ("yolo", lambda r: (r / "data.yaml").unlink(), {"class-unnamed": 1}, "set", ""),
    (
        "yolo",
        lambda r: write(r / "data.yaml", "nc: 2\ntrain: train/images\nval: valid/images\n"),
        {"class-unnamed": 1},
        "set",
        "",
    ),
    # Sizes and paths
    ("voc", xml_of(xml("a.jpg", BOXES.items(), (0, 0))), {"size-missing": 1}, "Annotations/a.xml", "size"),
    ("voc", xml_of(xml("a.jpg", BOXES.items(), (640, 480))), {"size-differs": 1}, "JPEGImages/a.jpg", ""),
    ("voc", xml_of(doubled()), {"size-scaled": 1}, "JPEGImages/a.jpg", ""),
    ("voc", xml_of(xml("other.jpg", BOXES.items())), {"path-misleading": 1}, "Annotations/a.xml", "filename"),
    (
        "coco",
        in_json(lambda d: d["images"][0].update(file_name="/home/me/a.jpg")),
        {"path-misleading": 1},
        JSON,
        "image 1",
    ),
    (
        "voc",
        xml_of("<annotation><object>"),
        {"annotation-unreadable": 1, "annotation-missing": 1, "picture-unannotated": 1},
        "",
        "",
    ),
    (
        "voc",
        lambda r: (r / "Annotations/a.xml").unlink(),
        {"annotation-missing": 1, "picture-unannotated": 1},
        "ImageSets/Main/train.txt",
        "line 1",
    ),
    (
        "voc",
        lambda r: write(r / "ImageSets/Main/val.txt", "d\ne\na"),
        {"picture-repeated": 1},
        "ImageSets/Main/val.txt",
        "line 3",
    ),
    ("voc", lambda r: write(r / "ImageSets/Main/val.txt", "d"), {"picture-unlisted": 1}, "JPEGImages/e.jpg", ""),
    (
        "yolo",
        lambda r: write(r / "data.yaml", NAMES + "train: ../train/images\nval: ../valid/images"),
        {"path-corrected": 2},
        "data.yaml",
        "train",
    ),
    (
        "yolo",
        lambda r: write(r / "data.yaml", NAMES + "train: train/images\nval: valid/images\ntest: t"),
        {"split-missing": 1},
        "data.yaml",
        "test",
    ),
    ("yolo", lambda r: write(r / "data.yaml", "names: [cat, dog"), {"annotation-unreadable": 1}, "data.yaml", ""),
    # Names
    ("yolo", rename("a", "a b#1=x"), {"name-odd": 1}, "train/images/a b#1=x.jpg", ""),
    ("yolo", rename("a", "é\u4e2d"), {"name-odd": 1}, "train/images/é\u4e2d.jpg", ""),
    ("yolo", rename("a", "B"), {"name-collides": 1}, "train/images/b.jpg", ""),
    ("yolo", replace_picture("train/images/a.png", scene("h")), {"name-collides": 1}, "train/images/a.png", ""),
]


@pytest.mark.parametrize("form", FORMS)
def test_a_clean_set_is_clean(form: str, tmp_path: Path) -> None:
    found = check(FORMS[form](tmp_path / "set"))
    assert found.problems == ()
    assert found.to_json()["images"] == 5
    assert found.to_json()["annotations"] == 10
    assert found.to_json()["classes"] == ["cat", "dog"]


@pytest.mark.parametrize(
    ("form", "spoil", "expected", "file", "where"),
    [pytest.param(*row, id=f"{i}-{'+'.join(row[2])}") for i, row in enumerate(DIRT)],
)
def test_dirt_is_found_and_mended(
    form: str, spoil: Spoil, expected: dict[str, int], file: str, where: str, tmp_path: Path
) -> None:
    root = FORMS[form](tmp_path / "set")
    spoil(root)
    before = {p: p.read_bytes() for p in root.rglob("*") if p.is_file()}
    found = check(root)
    assert kinds(found) == expected
    if found.problems and file:
        assert (found.problems[0].file, found.problems[0].where) == (file, where)
    write_copy(found, tmp_path / "out" / "copy")
    again = check(tmp_path / "out" / "copy")
    assert {kind for kind in again.counts if KINDS[kind].fixed} == set(), again.problems
    assert {p: p.read_bytes() for p in root.rglob("*") if p.is_file()} == before, "the original is untouched"


def test_every_kind_has_its_row() -> None:
    known = {kind for row in DIRT for kind in row[2]}
    assert set(KINDS) - known == {"picture-large", "picture-unlabelled"}, "which their own tests have"


@pytest.mark.parametrize(
    ("copy", "kind"), [("train/images/A0.jpg", "picture-duplicate"), ("valid/images/z.jpg", "split-leak")]
)
@pytest.mark.parametrize("empty", [True, False])
def test_of_two_copies_the_annotated_one_stays(tmp_path: Path, copy: str, kind: str, empty: bool) -> None:
    root = FORMS["yolo"](tmp_path / "set")
    copy_picture(A, copy)(root)
    write(root / (A if empty else copy).replace("images", "labels").replace(".jpg", ".txt"), "")
    found = check(root)
    assert kinds(found) == {kind: 1, "picture-empty": 1}
    write_copy(found, tmp_path / "copy")
    table = read_table(tmp_path / "copy")
    assert [len(e.boxes) for e in table.examples] == [2] * 5
    assert sum(e.name.endswith(Path(copy).name) for e in table.examples) == empty


def test_folders_beside_and_above_the_listed_ones_are_seen(tmp_path: Path) -> None:
    for name in ("train/a", "extra/x", "extra/y", "z"):
        save(tmp_path / f"images/{name}.jpg", scene(name))
    write(tmp_path / "labels/train/a.txt", yolo_line(0, CAT))
    said = [(p.file, p.detail[:10]) for p in check(tmp_path).problems if p.kind == "folder-unlisted"]
    assert said == [("images", "1 picture,"), ("images/extra", "2 pictures")]


@pytest.mark.parametrize("name", ["classes.txt", "Labels.txt", "README.txt"])
def test_a_list_of_classes_among_the_labels_is_no_label(tmp_path: Path, name: str) -> None:
    root = FORMS["yolo"](tmp_path / "set")
    write(root / "train/labels" / name, "cat\ndog\n")
    assert kinds(check(root)) == {}


@pytest.mark.parametrize("name", ["-a.jpg", "-b/a.jpg", "train/-a.jpg"])
def test_names_like_options_are_odd_wherever_they_stand(name: str) -> None:
    assert oddity(name) == "begins with -, like an option" and not oddity(name.replace("-", "a-"))


def test_a_json_in_a_home_has_no_folders_looked_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = FORMS["coco"](tmp_path / "set")
    save(root / "holiday/x.jpg", scene("x"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for given in (root, tmp_path / "set/../set", Path("~/set"), "~/set", "set", "set/train/.."):
        assert kinds(check(given)) == {"folder-unlisted": 1}
    assert kinds(check(root / "annotations/instances_train.json")) == {}


def test_a_yaml_that_names_its_root_may_be_reached_by_any_way(tmp_path: Path) -> None:
    root = FORMS["yolo"](tmp_path / "set")
    save(root / "extra/x.jpg", scene("x"))
    write(root / "data.yaml", "path: .\n" + (root / "data.yaml").read_text())
    for given in (root, root / "extra/..", tmp_path / "set/../set"):
        assert kinds(check(given)) == {"folder-unlisted": 1}, given


def test_a_wrong_count_of_classes_is_that_of_the_yaml_that_was_given(tmp_path: Path) -> None:
    root = FORMS["yolo"](tmp_path / "set")
    text = (root / "data.yaml").read_text()
    write(root / "own.yaml", text + "nc: 9\n")
    assert [(p.kind, p.file) for p in check(root / "own.yaml").problems] == [("class-count", "own.yaml")]
    write(root / "data.yaml", text + "nc: 9\n")
    write(root / "own.yaml", text + "nc: 2\n")
    assert kinds(check(root / "own.yaml")) == {}


@pytest.mark.parametrize(("split", "kind"), [("train", "picture-near-duplicate"), ("valid", "split-leak")])
def test_a_sound_copy_of_a_damaged_picture_stays(tmp_path: Path, split: str, kind: str) -> None:
    """Else both would be lost, and a leak be told of a picture that no split holds."""
    root, copy = FORMS["yolo"](tmp_path / "set"), f"{split}/images/z.jpg"
    save(root / A, scene("a", 400, 300), progressive=True)
    copy_picture(A, copy, 60)(root)
    assert kinds(check(root)) == {kind: 1}, "while both are whole"
    data = (root / A).read_bytes()
    (root / A).write_bytes(data[: data.rindex(b"\xff\xda")] + b"\xff\xd9")
    found = check(root)
    assert kinds(found) == {"picture-truncated": 1}
    write_copy(found, tmp_path / "copy")
    names = [Path(e.name).name for e in read_table(tmp_path / "copy").examples]
    assert sorted(names) == ["b.jpg", "c.jpg", "d.jpg", "e.jpg", "z.jpg"]


@pytest.mark.parametrize(
    ("one", "other", "same", "reason"),
    [
        ("Hard-Hat", "hard hat", True, "case, - and a blank"),
        ("hard_hat", "hardhat.", True, "a joint and a dot"),
        ("caf\u00e9", "cafe\u0301", True, "an accent's two codings"),
        ("type 1", "type1", True, "a blank before a number"),
        ("\uff43\uff41\uff54", "cat", True, "letters of full width"),
        ("1.5", "15", False, "a dot in a number"),
        ("size 1.5", "size 15", False, "a dot in a number, with a word"),
        ("size 1  5", "size 15", False, "two numbers"),
        ("row 1 - 5", "row 15", False, "a range"),
        ("-1", "1", False, "a sign"),
        ("at -1", "at 1", False, "a sign, with a word"),
        ("a", "A", False, "letters of a plate are classes of their own"),
        ("\u00e9", "e\u0301", True, "but one letter in two codings is one"),
    ],
)
def test_names_of_one_class_are_words_written_otherwise(one: str, other: str, same: bool, reason: str) -> None:
    assert canonical_names([one, other], {one: 1, other: 2})[one] == (other if same else one), reason


@pytest.mark.parametrize(("high", "same"), [(94.9, []), (95, [(0, 1)]), (100, [(0, 1)])])
def test_boxes_are_one_from_an_iou_of_95_percent(high: float, same: list[tuple[int, int]]) -> None:
    boxes, labels = np.array([[0, 0, 100, 100], [0, 0, 100, high]], np.float64), np.zeros(2, np.int64)
    example = Example(Path("a.jpg"), "a.jpg", 200, 200, boxes, labels, np.zeros(2, bool), boxes[:, 3] * 100)
    assert same_boxes(example, labels) == same


@pytest.mark.parametrize(
    ("splits", "told", "reason"),
    [
        ({"train": [0] * 10, "test": [0, 1]}, {("class-untaught", "test"), ("class-imbalance", "")}, "of test, too"),
        ({"train": [0], "val": [0, 1]}, {("class-untaught", "val")}, "of val"),
        ({"val": [0, 1], "test": [0]}, set(), "where nothing is taught nothing is missing"),
        ({"train": [0] * 10 + [1]}, {("class-imbalance", "")}, "a tenth"),
        ({"train": [0] * 9 + [1]}, set(), "more than a tenth"),
    ],
)
def test_classes_that_are_rare_or_never_taught(
    splits: dict[str, list[int]], told: set[tuple[str, str]], reason: str
) -> None:
    examples = []
    for split, labels in splits.items():
        boxes, none = np.tile([0.0, 0, 9, 9], (len(labels), 1)), np.zeros(len(labels), bool)
        name = f"{split}.jpg"
        examples.append(Example(Path(name), name, 20, 20, boxes, np.array(labels), none, boxes[:, 2] * 9, split))
    notes = Findings(True, [])
    note_labels(Table(Path("set"), "yolo", ("cat", "dog"), tuple(examples)), notes)
    assert {(f.kind, f.where) for f in notes.found} == told, reason


@pytest.mark.parametrize(
    ("lines", "told", "kept", "reason"),
    [
        ([0] * 5, {"box-duplicate": ["line 1"] * 4}, 1, "each spare one once, with the first"),
        ([0, 1, 1], {"box-contradicted": ["line 1"], "box-duplicate": ["line 2"]}, 2, "the first of its class"),
        ([0, 1, 0], {"box-contradicted": ["line 1"], "box-duplicate": ["line 1"]}, 2, "which stands before another"),
    ],
)
def test_equal_boxes_are_told_once(
    tmp_path: Path, lines: list[int], told: dict[str, list[str]], kept: int, reason: str
) -> None:
    root = FORMS["yolo"](tmp_path / "set")
    write(root / FIRST, "".join(yolo_line(label, CAT) for label in lines))
    found = check(root)
    said = {
        kind: [p.detail.split(" of ")[-1].split(" in ")[-1] for p in found.problems if p.kind == kind] for kind in told
    }
    assert said == told, reason
    assert len(found.problems) == len(lines) - 1
    write_copy(found, tmp_path / "copy")
    assert len(read_table(tmp_path / "copy").examples[0].boxes) == kept


RNG = np.random.default_rng(0)
BITS, THUMB = RNG.random(127) < 0.5, RNG.choice([-100, 100], 1024).astype(np.int8)


def looked(content: str, bits: int = 0, thumb: int = 0, of: np.ndarray = BITS, flaw: str = "") -> Inspection:
    """What is seen of a picture whose signature differs from one in its first bits, and whose thumb in its first px."""
    seen, small = of.copy(), THUMB.copy()
    seen[:bits] = ~seen[:bits]
    small[:thumb] *= -1
    return Inspection("JPEG", (96, 64), 1, False, flaw, content.encode(), seen, small)


def listed(splits: str, boxes: Sequence[int] | None = None) -> list[Example]:
    """An example of each of these splits, by their first letters."""
    names, found = {"t": "train", "v": "val", "e": "test", "-": ""}, []
    for i, (letter, count) in enumerate(zip(splits, boxes or [1] * len(splits), strict=True)):
        given = np.tile([0.0, 0, 9, 9], (count, 1))
        labels, none = np.zeros(count, np.int64), np.zeros(count, bool)
        found.append(Example(Path(f"{i}"), f"{i}", 96, 64, given, labels, none, given[:, 2] * 9, names[letter]))
    return found


@pytest.mark.parametrize(
    ("bits", "thumb", "same"),
    [(22, 0, True), (23, 0, False), (0, 76, True), (0, 77, False), (22, 76, True), (127, 0, False), (0, 1024, False)],
)
def test_nearly_the_same_is_within_22_bits_and_a_correlation_of_85_percent(bits: int, thumb: int, same: bool) -> None:
    """Of 1024 px that are light or dark, 76 turned over leave .852, and 77 .850 less a trace."""
    found = find_duplicates(listed("tt"), [looked("a"), looked("b", bits, thumb)])
    assert found == ([Duplicate(1, 0, False)] if same else [])


@pytest.mark.parametrize(
    ("splits", "keeps"), [("vt", 1), ("tv", 0), ("evt", 2), ("ve", 0), ("ev", 1), ("-t", 1), ("-e", 1), ("tt", 0)]
)
@pytest.mark.parametrize("same", [True, False], ids=["the same file", "nearly"])
def test_of_twins_that_of_the_first_split_stays(splits: str, keeps: int, same: bool) -> None:
    """Wherever the splits stand in the list: train, val, test, and what is in none."""
    inspections = [looked("a" if same else f"{i}", i) for i in range(len(splits))]
    found = find_duplicates(listed(splits), inspections)
    assert {(twin.index, twin.other, twin.same_bytes) for twin in found} == {
        (i, keeps, same) for i in range(len(splits)) if i != keeps
    }


def test_what_is_nearly_the_same_through_others_is_one_group() -> None:
    """Each differs from the one before by 20 bits, from the one before that by 40; they may lie in any order."""
    chain = [looked(f"{i}", 20 * i) for i in range(6)]
    for order in list(itertools.permutations(range(6)))[::29]:
        found = find_duplicates(listed("tttttt"), [chain[i] for i in order])
        assert found == [Duplicate(i, 0, False) for i in range(1, 6)], order


def test_a_copy_of_a_twin_is_told_once() -> None:
    inspections = [looked("a"), looked("b", 5), looked("b", 5), looked("a")]
    assert find_duplicates(listed("tttt"), inspections) == [
        Duplicate(2, 1, True),
        Duplicate(3, 0, True),
        Duplicate(1, 0, False),
    ]


@pytest.mark.parametrize(("bits", "least"), [(12, 100), (22, 95)])
def test_twins_are_found_among_a_thousand(bits: int, least: int) -> None:
    """As the module says: pairs that differ in 12 bits always, in 22 nearly always; and no others."""
    ground = np.random.default_rng(1).random((1000, 127)) < 0.5
    inspections = [looked(f"{i}", of=of) for i, of in enumerate(ground)]
    inspections += [looked(f"{i} again", bits, of=of) for i, of in enumerate(ground[:100])]
    found = {(twin.index, twin.other) for twin in find_duplicates(listed("t" * 1100), inspections)}
    assert found <= {(1000 + i, i) for i in range(100)} and len(found) >= least


def test_many_of_one_signature_are_all_compared() -> None:
    """Pages of text are alike in light and dark, and only their thumbs tell which is which."""
    rng, inspections = np.random.default_rng(0), []
    thumbs = rng.choice([-100, 100], (50, 1024)).astype(np.int8)
    for i, thumb in enumerate([*thumbs, *thumbs]):
        inspections.append(replace(looked(f"{i}"), thumb=thumb))
    assert find_duplicates(listed("t" * 100), inspections) == [Duplicate(50 + i, i, False) for i in range(50)]


def test_flat_pictures_are_like_none() -> None:
    inspections = [replace(looked(f"{i}"), thumb=np.zeros(1024, np.int8)) for i in range(2)]
    assert find_duplicates(listed("tt"), inspections) == [], "and nothing is divided by 0"


def test_a_picture_too_large_to_be_looked_at_is_a_twin_of_the_same_file_only() -> None:
    inspections = [replace(looked(name), bits=None, thumb=None) for name in ("a", "b", "a")]
    assert find_duplicates(listed("ttt"), inspections) == [Duplicate(2, 0, True)]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([(1, 30, 20, 80, 60), (0, 10, 8, 50, 40)], ""),
        ([(0, 10, 8, 50, 40.01), (1, 30, 20, 80, 60)], ""),
        ([(0, 10, 8, 50, 41), (1, 30, 20, 80, 60)], ", but annotated differently (2 boxes and 2)"),
        ([(1, 10, 8, 50, 40), (1, 30, 20, 80, 60)], ", but annotated differently (2 boxes and 2)"),
        ([(0, 10, 8, 50, 40)], ", but annotated differently (1 box and 2)"),
    ],
    ids=["another order", "less than a tenth of a px", "a px", "another class", "a box less"],
)
def test_copies_that_are_annotated_differently_are_said(rows: list[tuple[int, ...]], said: str, tmp_path: Path) -> None:
    root = FORMS["yolo"](tmp_path / "set")
    copy_picture(A, H)(root)
    write(root / "train/labels/h.txt", "".join(yolo_line(label, box) for label, *box in rows))
    (problem,) = check(root).problems
    assert (problem.kind, problem.detail) == ("picture-duplicate", f"the same file as {A}{said}")


def test_the_page_shows_the_picture_of_the_label_file(tmp_path: Path) -> None:
    """Both splits have a picture of that stem; one has the bad line."""
    root = FORMS["yolo"](tmp_path / "set")
    copy_picture("train/images/b.jpg", "valid/images/a.jpg", 60)(root)
    write(root / FIRST, "no box\n")
    write_report(check(root), tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "train/images/a.jpg (train): line 1" in page
    assert "valid/images/a.jpg (val): line 1" not in page


def test_a_deep_picture_is_recognised_by_what_training_sees(tmp_path: Path) -> None:
    """16 bits cut to 8 are white all over, and every such picture like any other."""
    bright = scene("a", 400, 300)[..., 0].astype(np.uint16) * 200 + 9_000
    for name, pixels in (("deep", bright), ("other", bright[::-1]), ("plain", (bright >> 8).astype(np.uint8))):
        Image.fromarray(np.ascontiguousarray(pixels)).save(tmp_path / f"{name}.png")
    deep, other, plain = (inspect(tmp_path / f"{name}.png") for name in ("deep", "other", "plain"))
    assert deep.bits is not None and plain.bits is not None and other.bits is not None
    assert (deep.form, deep.gray, deep.flaw) == ("PNG", True, "")
    assert (deep.bits != plain.bits).sum() <= 2
    assert (deep.bits != other.bits).sum() > 22
