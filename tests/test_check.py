"""``nanogfl check`` as a command, its page and its copy, on hostile and on real sets."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from dirty import BOXES, FORMS, HEIGHT, WIDTH, coco, coco_document, save, scene, voc, write, xml, yolo
from PIL import Image, features

from nanogfl.data.findings import KINDS
from nanogfl.data.readers import read_table
from nanogfl.doctor.check import check
from nanogfl.doctor.fix import write_copy
from nanogfl.doctor.names import plain_name
from nanogfl.doctor.report import write_report
from nanogfl.errors import DataError, UsageError, counted
from nanogfl.evaluation.run import evaluate
from nanogfl.pictures import read_picture

AVIF = "avif" in features.modules and features.check("avif")  # Pillow before 11.3 has not heard of it
EVIL = "<script>alert(1)</script><svg onload=alert(2)>\"'"


# The command


def test_the_command_writes_what_it_promises(command: Callable[..., Any], tmp_path: Path) -> None:
    root = yolo(tmp_path / "set")
    (root / "train/images/a.jpg").unlink()
    json_file, page, copy = tmp_path / "deep/x.json", tmp_path / "deep/x.html", tmp_path / "copy"
    said = command("check", root, "--json", json_file, "--report", page, "--fix", copy)
    assert said.code == 0, "all was read, whatever was found"
    assert "picture-missing" in said.out
    assert "train/labels/a.txt" in said.out
    assert said.err == ""
    content = json.loads(json_file.read_text())
    assert set(content) == {"images", "annotations", "classes", "problems", "statistics", "recommended"}
    kind = KINDS["picture-missing"]
    told = {
        "kind": "picture-missing",
        "file": "train/labels/a.txt",
        "where": "",
        "detail": "a label file without a picture",
    }
    assert content["problems"] == [told | {"severity": kind.severity, "fix": kind.fix}]
    assert (content["images"], content["annotations"], content["classes"]) == (4, 8, ["cat", "dog"])
    assert content["recommended"]["input"] % 32 == 0
    assert set(content["recommended"]["reasons"]) == {"input", "recipe", "init"}
    assert content["statistics"]["pictures"]["splits"] == {"train": 2, "val": 2}
    assert content["statistics"]["boxes"]["per_class"] == {"cat": 4, "dog": 4}
    assert page.read_text("utf-8").startswith("<!doctype html>")
    assert read_table(copy).warnings == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["copy", "deep", "set"], "and leaves nothing half-written"


def test_the_gravest_problems_come_first(tmp_path: Path) -> None:
    root = yolo(tmp_path / "set")
    (root / "train/images/b.jpg").unlink()
    write(root / "train/labels/a.txt", "0 .5 .5 .005 .5\n1 .9 .5 .4 .4\n0 .5 .5 .2\n0 .5 .5 .2 .2\n0 .5 .5 .2 .2\n")
    said = [(KINDS[kind].severity, kind) for kind in check(root).counts]
    assert len({severity for severity, _ in said}) == 3 and len(said) >= 5
    assert said == sorted(said, key=lambda s: (["error", "warning", "note"].index(s[0]), s[1])), "then by their names"


def test_one_of_a_thing_is_no_plural(command: Callable[..., Any], tmp_path: Path) -> None:
    save(tmp_path / "set/JPEGImages/a.jpg", scene("a"))
    write(tmp_path / "set/Annotations/a.xml", xml("a.jpg", [("cat", BOXES["cat"])]))
    said = command("check", tmp_path / "set", "--fix", tmp_path / "copy").out
    assert said.startswith("voc dataset, 1 picture, 1 box, 1 class\n")
    assert said.endswith("copy, 1 of 1 picture, 1 box\n")
    words = {"epoch": "2 epochs", "box": "2 boxes", "more class": "2 more classes"}
    assert {one: counted(2, one) for one in words} == words and counted(0, "box") == "0 boxes"


@pytest.mark.parametrize(("spoilt", "code"), [(False, 0), (True, 1)])
def test_strict_fails_where_anything_was_found(
    command: Callable[..., Any], tmp_path: Path, spoilt: bool, code: int
) -> None:
    root = voc(tmp_path / "set")
    if spoilt:
        (root / "Annotations/a.xml").write_text("<annotation>")
    assert command("check", root, "--strict").code == code


@pytest.mark.parametrize(
    ("given", "code", "message"),
    [
        (["none"], 1, "none does not exist; "),
        (["."], 1, "an empty folder"),
        (["set", "--fix", "set/copy"], 2, "is inside the dataset"),
        (["set", "--fix", "set"], 2, "already exists"),
        (["set", "--fix", "."], 2, "already exists"),
        (["set", "--fix", "full"], 2, "already exists"),
    ],
)
def test_refusals_are_one_line(
    command: Callable[..., Any],
    tmp_path: Path,
    given: list[str],
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.chdir(place)
    if given[0] == "set":
        yolo(place / "set")
        write(place / "full/mine.txt", "x")
    said = command("check", *given)
    assert said.code == code
    assert said.err.startswith("error: ")
    assert message in said.err
    assert len(said.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--fix", "full"], 2, "already exists"),
        (["--fix", "set/copy"], 2, "is inside the dataset"),
        (["--fix", "full/mine.txt"], 2, "--fix full/mine.txt is a file; specify a folder"),
        (["--fix", "full/mine.txt/copy"], 2, "full/mine.txt is a file, not a folder; choose another path"),
        (["--report", "full"], 2, "full is a folder; specify a file"),
        (["--json", "full"], 2, "full is a folder; specify a file"),
    ],
)
def test_what_cannot_be_written_is_refused_before_the_pictures_are_looked_at(
    command: Callable[..., Any],
    tmp_path: Path,
    options: list[str],
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def too_early(*_: object) -> None:
        raise AssertionError("a look takes long")

    yolo(tmp_path / "set")
    write(tmp_path / "full/mine.txt", "x")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("nanogfl.doctor.check.inspect_all", too_early)
    said = command("check", "set", *options)
    assert (said.code, said.out, len(said.err.splitlines())) == (code, "", 1)
    assert message in said.err


@pytest.mark.parametrize("place", ["ds.partial", "ds.partial/inner"])
def test_the_copy_never_takes_the_folder_of_another(command: Callable[..., Any], tmp_path: Path, place: str) -> None:
    """Whatever lies beside the copy, under any name, stays: the set itself, or what somebody else keeps there."""
    root = yolo(tmp_path / place)
    write(tmp_path / "other.partial/thesis.txt", "x")
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    for out in ("ds", "other"):
        assert command("check", root, "--fix", tmp_path / out).code == 0
        assert len(read_table(tmp_path / out)) == 5
    assert {p: p.read_bytes() for p in before if p.is_file()} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ds", "ds.partial", "other", "other.partial"]
    assert (tmp_path / "ds").stat().st_mode == (tmp_path / "other.partial").stat().st_mode, "others may look into it"


def test_a_copy_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    root = yolo(tmp_path / "set")
    monkeypatch.setattr("nanogfl.doctor.fix.write_json", full)
    with pytest.raises(OSError, match="No space"):
        write_copy(check(root), tmp_path / "copy")
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize(
    ("form", "target", "said"),
    [
        ("coco", "annotations/instances_val.json", "would be read as annotations"),
        ("coco", "annotations/found.json", "would be read as annotations"),
        ("coco", "found.json", "would be read as annotations"),
        ("coco", "val/found.json", "would be read as annotations"),
        ("coco", "val/annotations/found.json", "would be read as annotations"),
        ("yolo", "data.yaml", "is a file of the dataset"),
        ("yolo", "train/labels/a.txt", "is a file of the dataset"),
        ("voc", "Annotations/a.xml", "is a file of the dataset"),
        ("voc", "JPEGImages/a.jpg", "is a file of the dataset"),
        ("yolo", "found.json", ""),
        ("voc", "found.json", ""),
        ("coco", "reports/found.json", ""),
        ("coco", "../found.json", ""),
    ],
)
def test_results_are_never_written_into_the_annotations(
    command: Callable[..., Any], tmp_path: Path, form: str, target: str, said: str
) -> None:
    root = FORMS[form](tmp_path / "set")
    before = {p: p.read_bytes() for p in root.rglob("*") if p.is_file()}
    for option in ("--json", "--report") if target.endswith((".yaml", ".txt")) else ("--json", "--json"):
        done = command("check", root, option, root / target)
        assert done.code == (2 if said else 0)
        assert said in done.err and len(done.err.splitlines()) == bool(said)
    assert {p: p.read_bytes() for p in before} == before
    assert check(root).problems == (), "and the next reading takes nothing for annotations"


def test_an_annotation_file_that_was_given_is_never_written_over(command: Callable[..., Any], tmp_path: Path) -> None:
    root = coco(tmp_path / "set")
    given = root / "annotations/instances_val.json"
    before = given.read_bytes()
    assert command("check", given, "--json", given).code == 2
    assert given.read_bytes() == before
    assert command("check", given, "--json", given.with_name("found.json")).code == 0, "which is not read with it"
    assert check(root).problems == (), "nor taken for annotations by the next reading"


def test_an_evaluation_is_never_written_over_the_set(tmp_path: Path) -> None:
    target = coco(tmp_path / "set") / "annotations/instances_val.json"
    with pytest.raises(UsageError, match="would be read as annotations"):
        evaluate("none.ckpt", tmp_path / "set", json_file=target)
    for folder in ("set", "set/val", "set/annotations"):
        with pytest.raises(UsageError, match=f"{folder} is a folder of the dataset"):
            evaluate("none.ckpt", tmp_path / "set", report=tmp_path / folder)
    (tmp_path / "link").symlink_to(tmp_path / "set/val")
    with pytest.raises(UsageError, match="link is a folder of the dataset"):
        evaluate("none.ckpt", read_table(tmp_path / "set"), report=tmp_path / "link")


def test_the_copy_says_which_split_is_gone(command: Callable[..., Any], tmp_path: Path) -> None:
    root = yolo(tmp_path / "set")
    for before, after in (("a", "d"), ("b", "e")):
        (root / f"valid/images/{after}.jpg").write_bytes((root / f"train/images/{before}.jpg").read_bytes())
    said = command("check", root, "--fix", tmp_path / "copy")
    assert "3 of 5 pictures, 6 boxes; no picture is left in val: all are damaged, or copies" in said.out


# Hostile sets


def test_the_page_escapes_what_a_set_says(tmp_path: Path) -> None:
    root = voc(tmp_path / "set")
    shown = EVIL.replace("<", "&lt;").replace(">", "&gt;")
    write(root / "Annotations/a.xml", xml(f"{shown}.jpg", [(shown, BOXES["cat"]), (shown, (5, 5, 5, 5))]))
    found = check(root)
    assert EVIL in found.table.names
    write_report(found, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text("utf-8")
    tags: list[str] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attrs: tags.extend([tag, *(name for name, _ in attrs)])  # type: ignore[method-assign]
    parser.feed(page)
    assert not {"script", "onload", "onerror", "iframe", "object"} & set(tags)
    assert "&lt;script&gt;alert(1)" in page, "it is there to read"
    assert re.findall(r'(?:src|href)="(?!data:image/|#part)', page) == []


def test_plots_say_what_their_bars_count(tmp_path: Path) -> None:
    write_report(check(yolo(tmp_path / "set")), tmp_path / "x.html")
    plots = re.findall(r"<b>([^<]*)</b><svg.*?</svg>", (tmp_path / "x.html").read_text("utf-8"))
    assert plots == [
        "Boxes by length in px, at each input (px)",
        "Boxes by length in the pictures",
        "Pictures by number of boxes",
        "Boxes by width / height",
        "Boxes by class",
        "Pictures by size in px, the ten most frequent",
    ]


def billion_laughs() -> str:
    lines = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, 10))
    return f'<!DOCTYPE a [<!ENTITY e0 "ha">{lines}]><annotation><filename>&e9;</filename></annotation>'


@pytest.mark.parametrize(
    "text",
    [
        billion_laughs(),
        '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation><filename>&x;</filename></annotation>',
        '<?xml version="1.0" encoding="no-such"?><annotation/>',
        "<annotation>" * 100_000,
        "\0",
        "<annotation/>" * 2,
    ],
)
def test_hostile_xml_is_one_finding(text: str, tmp_path: Path) -> None:
    root = voc(tmp_path / "set")
    write(root / "Annotations/a.xml", text)
    found = check(root)
    assert found.counts["annotation-unreadable"] == 1
    assert "root:" not in json.dumps(found.to_json())


def aliases() -> str:
    """A list of nine lists of nine lists ... by name: a few lines, nine to the eighth entries."""
    steps = zip("abcdefgh", "bcdefghi", strict=True)
    return "a: &a [x]\n" + "".join(f"{c}: &{c} [{', '.join([f'*{p}'] * 9)}]\n" for p, c in steps)


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system [touch pwned]",
        "names: !!python/name:os.system\ntrain: train/images",
        aliases(),
        "[" * 5_000,
        f"names: {{'{'9' * 5000}': x}}\ntrain: train/images",
        "names: [cat, dog]\ntrain: {a: b}",
    ],
)
def test_hostile_yaml_is_one_finding(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    root = yolo(tmp_path / "set")
    write(root / "data.yaml", text)
    found = check(root)
    assert found.to_json()["images"] == 5, "the folders are read without it"
    assert not (tmp_path / "pwned").exists()


JSONS: list[Any] = [
    {"images": {}, "annotations": [], "categories": []},
    {"images": [], "annotations": "x", "categories": []},
    {"images": [], "annotations": [], "categories": 7},
    {"images": [1, None, [], "x"], "annotations": [None, 3, []], "categories": [{"id": 1, "name": "cat"}]},
    {"images": [{"id": 10**300, "file_name": "a.jpg"}], "annotations": [], "categories": [{"id": 1, "name": "cat"}]},
    {"images": [], "annotations": [], "categories": [{"id": None, "name": []}]},
]


@pytest.mark.parametrize("document", JSONS)
def test_hostile_json_spoils_only_its_own_split(document: Any, tmp_path: Path) -> None:
    root = coco(tmp_path / "set")
    write(root / "annotations/instances_train.json", json.dumps(document))
    found = check(root)
    assert found.problems
    assert [e.name for e in found.table.examples if e.split == "val"] == ["val/d.jpg", "val/e.jpg"]
    assert sum(len(e.boxes) for e in found.table.examples if e.split == "val") == 4


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"images":' * 100_000, "[1,2", '{"images": [' + "9" * 5000 + "]}", "\ufeff{}"]
)
def test_a_json_that_is_none_spoils_only_its_own_split(text: str, tmp_path: Path) -> None:
    root = coco(tmp_path / "set")
    write(root / "annotations/instances_train.json", text)
    assert check(root).to_json()["images"] == 2


def test_names_that_climb_out_are_never_followed(tmp_path: Path) -> None:
    root = coco(tmp_path / "set")
    save(tmp_path / "secret.jpg", scene("secret"))
    document = coco_document("a")
    climbing = ["../secret.jpg", str(tmp_path / "secret.jpg"), "x/../../secret.jpg", "..\\..\\secret.jpg", "C:\\a.jpg"]
    document["images"] += [{"id": 50 + i, "file_name": name} for i, name in enumerate(climbing)]
    write(root / "annotations/instances_train.json", json.dumps(document))
    found = check(root)
    assert found.counts["picture-outside"] == len(climbing)
    write_copy(found, tmp_path / "copy")
    assert not list((tmp_path / "copy").rglob("*secret*"))


@pytest.mark.skipif(os.name == "nt", reason="names that only bytes can spell")
def test_a_name_that_is_no_text(command: Callable[..., Any], tmp_path: Path) -> None:
    root = yolo(tmp_path / "set")
    for folder, suffix in (("images", b".jpg"), ("labels", b".txt")):
        place = os.fsencode(root / f"train/{folder}")
        os.rename(place + b"/a" + suffix, place + b"/\xff\xfe" + suffix)  # noqa: PTH104
    said = command(
        "check", root, "--json", tmp_path / "x.json", "--report", tmp_path / "x.html", "--fix", tmp_path / "c"
    )
    assert said.code == 0
    assert [p["kind"] for p in json.loads((tmp_path / "x.json").read_text())["problems"]] == ["name-odd"]
    assert check(tmp_path / "c").problems == ()


# What turns, and what is copied


def test_large_pictures_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nanogfl.doctor.pictures.LARGE", WIDTH * HEIGHT - 1)
    assert check(yolo(tmp_path)).counts == {"picture-large": 5}


# Forms of pictures


def dressed_up(root: Path, forms: tuple[str, ...], **options: Any) -> Path:
    """A clean set, and a picture of each form under the suffix of another."""
    yolo(root)
    for form in forms:
        save(root / f"train/images/{form}.jpg", scene(form), format=form, **options)
        write(root / f"train/labels/{form}.txt", "0 .5 .5 .4 .4")
    return root


def test_a_cut_picture_is_named_with_what_finds_all_of_them(tmp_path: Path) -> None:
    """Its head is sound, so that the readers keep it; training and evaluation meet it when they decode it."""
    root = yolo(tmp_path / "set")
    picture = root / "train/images/a.jpg"
    data = picture.read_bytes()
    picture.write_bytes(data[: data.index(b"\xff\xda") + 14])  # the tables and no pixel
    (cut,) = (e for e in read_table(root).examples if e.path == picture)
    with pytest.raises(DataError, match=r"a\.jpg: it is damaged .*; 'nanogfl check DATA --fix OUT' writes a copy"):
        cut.picture()
    write_copy(check(root), tmp_path / "copy")
    copied = read_table(tmp_path / "copy").examples
    assert [e.picture().shape for e in copied] == [(HEIGHT, WIDTH, 3)] * 4


def test_forms_that_are_read_become_png_in_the_copy(tmp_path: Path) -> None:
    forms = ("GIF", "PPM", "JPEG2000", *(["AVIF"] if AVIF else []))
    found = check(dressed_up(tmp_path / "set", forms))
    assert found.counts == {"picture-suffix": len(forms)}
    write_copy(found, tmp_path / "copy")
    assert check(tmp_path / "copy").problems == ()
    for form in forms:
        before, after = tmp_path / f"set/train/images/{form}.jpg", tmp_path / f"copy/train/{form}.png"
        assert after.read_bytes().startswith(b"\x89PNG")
        np.testing.assert_array_equal(read_picture(before), read_picture(after))


def test_forms_that_only_pillow_reads_cannot_be_read(tmp_path: Path) -> None:
    """Training and evaluation would stop at them."""
    forms = ("ICO", "TGA", "PCX", "DDS", "SGI", "IM")
    root = dressed_up(tmp_path / "set", forms)
    found = check(root)
    assert found.counts == {"picture-unreadable": len(forms)}
    assert all(f"the format {Path(p.file).stem}, which is unsupported; convert" in p.detail for p in found.problems)
    assert [e.name for e in read_table(root).examples] == [e.name for e in found.table.examples]
    write_copy(found, tmp_path / "copy")
    assert sorted(p.stem for p in (tmp_path / "copy/train").iterdir()) == ["a", "b", "c"]


def test_a_tiff_that_only_pillow_reads_is_left_out(tmp_path: Path) -> None:
    root = yolo(tmp_path / "set")
    Image.fromarray(scene("f")[..., 0]).convert("F").save(root / "train/images/f.tif")
    write(root / "train/labels/f.txt", "0 .5 .5 .4 .4")
    found = check(root)
    assert [p.file for p in found.problems if p.kind == "picture-truncated"] == ["train/images/f.tif"]


def test_a_heic_is_called_one(tmp_path: Path) -> None:
    root = yolo(tmp_path / "set")
    (root / "train/images/a.jpg").write_bytes(b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(3000))
    (problem,) = check(root).problems
    assert problem.kind == "picture-unreadable"
    assert "it is a HEIC file, as written by phones; convert it" in problem.detail


@pytest.mark.skipif(not AVIF, reason="Pillow without AVIF")
@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_an_avif_has_the_size_that_decoding_gives(tmp_path: Path, orientation: int) -> None:
    root = dressed_up(tmp_path / "set", ())
    path = save(root / "train/images/a.jpg", scene("a"), orientation, format="AVIF")
    (example,) = [e for e in read_table(root).examples if e.path == path]
    assert (example.height, example.width) == read_picture(path).shape[:2]


@pytest.mark.parametrize("options", [{"quality": 95}, {"lossless": True}], ids=str)
def test_a_turned_webp_keeps_its_quality(tmp_path: Path, options: dict[str, Any]) -> None:
    root = yolo(tmp_path / "set")
    noise = np.random.default_rng(0).integers(-20, 20, (200, 300, 3))
    turned = np.clip(scene("w", 300, 200).astype(int) + noise, 0, 255).astype(np.uint8)
    before = save(root / "train/images/w.webp", turned, 6, **options)
    write(root / "train/labels/w.txt", "0 .5 .5 .4 .4")
    write_copy(check(root), tmp_path / "copy")
    after = tmp_path / "copy/train/w.webp"
    error = np.abs(read_picture(before).astype(int) - read_picture(after)).mean()
    assert error == 0 if "lossless" in options else error < 4 and after.stat().st_size > 0.8 * before.stat().st_size


def test_the_table_of_kinds_in_the_docs_is_whole() -> None:
    text = (Path(__file__).parents[1] / "docs" / "data.md").read_text()
    rows = re.findall(r"^\| `([a-z-]+)` \| (\w+) \| (.*?) \| (.*?) \| (yes|no) \|$", text, re.MULTILINE)
    said = [(kind, k.severity, k.phrase, k.fix, "yes" if k.fixed else "no") for kind, k in KINDS.items()]
    assert sorted(rows) == sorted(said)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_boxes_of_a_lying_picture_turn_with_it(tmp_path: Path, orientation: int) -> None:
    """A red block in the stored pixels lies under its box in the upright picture and in the copy's."""
    x1, y1, x2, y2 = 8, 16, 40, 32
    picture = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    picture[y1:y2, x1:x2] = (250, 10, 10)
    save(tmp_path / "set/JPEGImages/a.jpg", picture, orientation)
    write(tmp_path / "set/Annotations/a.xml", xml("a.jpg", [("block", (x1, y1, x2, y2))]))
    found = check(tmp_path / "set")
    assert "picture-lying" in found.counts
    write_copy(found, tmp_path / "copy")
    for root in (tmp_path / "set", tmp_path / "copy"):
        (example,) = read_table(root).examples
        assert (example.width, example.height) == (HEIGHT, WIDTH)
        seen = cv2.imread(str(example.path)).astype(int)
        assert seen.shape[:2] == (WIDTH, HEIGHT)
        left, top, right, bottom = example.boxes[0].astype(int)
        red = (seen[..., 2] > 170) & (seen[..., 1] < 90)
        assert red[top + 2 : bottom - 2, left + 2 : right - 2].all()
        assert red.sum() <= (right - left + 2) * (bottom - top + 2)
    with Image.open(example.path) as copied:
        assert copied.getexif().get(0x0112, 1) == 1


def test_boxes_that_only_fit_the_upright_picture_stay(tmp_path: Path) -> None:
    save(tmp_path / "JPEGImages/a.jpg", scene("a"), 6)
    write(tmp_path / "Annotations/a.xml", xml("a.jpg", [("cat", (10, 70, 50, 94))]))
    found = check(tmp_path)
    assert found.table.examples[0].boxes.tolist() == [[10, 70, 50, 94]]
    assert "size-differs" in found.counts


@pytest.mark.parametrize("form", FORMS)
def test_the_copy_says_the_same(form: str, tmp_path: Path) -> None:
    root = FORMS[form](tmp_path / "set")
    write_copy(check(root), tmp_path / "copy")
    one, other = read_table(root), read_table(tmp_path / "copy")
    assert other.names == one.names
    assert [e.split for e in other.examples] == [e.split for e in one.examples]
    for a, b in zip(one.examples, other.examples, strict=True):
        assert a.path.read_bytes() == b.path.read_bytes()
        np.testing.assert_allclose(a.boxes, b.boxes, atol=2e-3)
        assert a.labels.tolist() == b.labels.tolist()


def test_the_copy_keeps_crowd_regions_and_areas(tmp_path: Path) -> None:
    root = FORMS["coco"](tmp_path / "set")
    path = root / "annotations/instances_train.json"
    document = json.loads(path.read_text())
    for number, annotation in enumerate(document["annotations"]):
        annotation |= {"iscrowd": int(number == 1), "area": 7.5 + number}
    path.write_text(json.dumps(document))
    write_copy(check(root), tmp_path / "copy")
    one, other = ([e for e in read_table(d).examples if e.split == "train"] for d in (root, tmp_path / "copy"))
    for a, b in zip(one, other, strict=True):
        assert a.crowd.tolist() == b.crowd.tolist() and a.areas.tolist() == b.areas.tolist()
    assert sum(int(e.crowd.sum()) for e in other) == 1 and min(float(e.areas.min()) for e in other) == 7.5


def test_plain_names_are_plain() -> None:
    names = ["a b#1=x", "é\u4e2d", "-rf", "..", "", "x" * 400, "ok-1_2", "\udcff"]
    plain = [plain_name(n) for n in names]
    assert plain == ["a_b_1_x", "e", "rf", "_", "_", "x" * 180, "ok-1_2", "_"]


# Real sets


def test_blood_cells(shared: Path) -> None:
    found = check(shared / "data/bccd")
    assert found.counts == {"box-without-area": 2, "split-leak": 1, "class-imbalance": 1}
    named = {(p.kind, Path(p.file).stem) for p in found.problems}
    assert {("box-without-area", "BloodImage_00338"), ("box-without-area", "BloodImage_00343")} < named
    leak = next(p for p in found.problems if p.kind == "split-leak")
    pair = {Path(leak.file).stem, re.search(r"BloodImage_\d+", leak.detail)[0]}  # type: ignore[index]
    assert pair == {"BloodImage_00037", "BloodImage_00038"}, "which show one field of view, moved by nothing"


def test_helmets(shared: Path) -> None:
    found = check(shared / "data/helmet")
    lines = sum(int(p.detail.split(" of ")[0]) for p in found.problems if p.kind == "box-polygon")
    assert 0.35 < lines / 3940 < 0.45, "two of five"
    assert found.counts["box-tiny"] > 0
    assert found.counts["picture-near-duplicate"] == 4
    assert found.counts["split-leak"] == 1


def test_coco(shared: Path) -> None:
    found = check(shared / "data/coco_val")
    regions = sum(int(p.detail.split()[0]) for p in found.problems if p.kind == "box-crowd")
    assert (found.counts["picture-gray"], found.counts["picture-empty"], regions) == (11, 2, 18)
    assert found.counts["id-large"] == 1
    assert "picture-near-duplicate" not in found.counts
