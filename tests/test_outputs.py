"""Where results may be written: never over what is read, and said before any work where they cannot be."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dirty import coco_document
from models import scene, write_models, write_scene
from runs import block_picture, write_coco

from nanogfl.errors import UsageError
from nanogfl.runtime.outputs import check_outputs, refuse_overwriting
from nanogfl.runtime.video import write_video


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: pictures in/cat.jpg and in/1_cat.jpg, a file named file, a set of names that reports take."""
    for name in ("cat", "1_cat"):
        write_scene(tmp_path / "in" / f"{name}.jpg")
    write_scene(tmp_path / "set" / "errors.png")
    write_scene(tmp_path / "set" / "images" / "a.png")
    document = coco_document(["errors", "a"])
    for image in document["images"]:
        image.update(file_name=image["file_name"].replace(".jpg", ".png"), width=0, height=0)
    (tmp_path / "set" / "report.json").write_text(json.dumps(document))
    (tmp_path / "file").write_text("a file")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "in" / "cat.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


READ = ["m.onnx", "in/cat.jpg"]
REFUSED = [
    ({"--json": "in/cat.jpg"}, "--json: in/cat.jpg would overwrite the input in/cat.jpg", "a source"),
    ({"--json": "in/../in/cat.jpg"}, "would overwrite the input in/cat.jpg", "the same by another way"),
    ({"--json": "link.jpg"}, "--json: link.jpg would overwrite the input in/cat.jpg", "a link to it"),
    ({"--json": "m.onnx"}, "would overwrite the input m.onnx", "the model is read, too"),
    ({"--record": "new", "--summary": "new"}, "--summary: new would overwrite the output of --record", "both"),
    ({"--json": "in"}, "--json in is a folder; specify a file", "a folder"),
    ({"--json": "."}, "--json . is a folder; specify a file", "the working folder"),
    ({"--a": "o/x", "--b": "o/x/y"}, "--b: o/x/y and the output of --a would be nested", "a file and its folder"),
    ({"--a": "o/x/y/z", "--b": "o/x"}, "--b: o/x and the output of --a would be nested", "the other way round"),
    ({"--json": "file/a/b.json"}, r"--json file/a/b.json: .*/file is a file, not a folder", "a file above it"),
]


@pytest.mark.parametrize(("files", "said", "reason"), REFUSED)
def test_what_cannot_be_written_is_refused(folder: Path, files: dict[str, str], said: str, reason: str) -> None:
    with pytest.raises(UsageError) as error:
        check_outputs(READ, {option: Path(path) for option, path in files.items()})
    assert re.search(said, str(error.value)), reason


def test_what_is_read_through_a_link_is_spared(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"--json: in/cat.jpg would overwrite the input link.jpg"):
        check_outputs(["link.jpg"], {"--json": Path("in/cat.jpg")})


def test_the_folder_of_drawn_pictures_is_no_file(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"--draw file is a file; specify a folder"):
        check_outputs(READ, {}, {"--draw": Path("file")})
    with pytest.raises(UsageError, match=r"--draw file/x: .*/file is a file, not a folder"):
        check_outputs(READ, {}, {"--draw": Path("file/x")})
    with pytest.raises(UsageError, match=r"--draw: in/cat.jpg would overwrite the input in/cat.jpg"):
        refuse_overwriting(READ, [("--draw", Path("in/1.jpg")), ("--draw", Path("in/cat.jpg"))])


def test_what_can_be_written_is_let_pass(folder: Path) -> None:
    """New files in new folders, files that are there, and a device, however often it is named."""
    files = {
        "--json": "deep/new.json",
        "--record": "file",
        "--plot": None,
        "--summary": "/dev/null",
        "--x": "/dev/null",
    }
    drawn = {"--draw": Path("deep/drawn"), "--fix": None}
    check_outputs(READ, {option: path and Path(path) for option, path in files.items()}, drawn)
    check_outputs(READ, {}, {"--draw": Path("in")})
    assert sorted(p.name for p in folder.iterdir()) == ["file", "in", "link.jpg", "set"], "nothing is made"


@pytest.mark.parametrize("denied", ["shut", "shut/a"])
def test_a_folder_without_rights_is_named(folder: Path, denied: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As access(2) says; root may write anywhere but on a read-only disk."""
    (folder / "shut").mkdir()
    real = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: not (mode & os.W_OK and Path(path).name == "shut") and real(path, mode)
    )
    with pytest.raises(UsageError, match=rf"--json {denied}/a.json: .*/shut is not writable; choose another path"):
        check_outputs(READ, {"--json": Path(denied) / "a.json"})


# --- the commands ---


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("outputs")
    write_models(folder, (64, 64))
    return folder / "model.onnx"


COMMANDS = [
    ("predict {m} in/cat.jpg --json in/cat.jpg", "--json: in/cat.jpg would overwrite the input"),
    ("predict {m} in --json in/1_cat.jpg", "--json: in/1_cat.jpg would overwrite the input"),
    ("predict {m} in --json in", "--json in is a folder"),
    ("predict {m} in --json {m}", "would overwrite the input"),
    ("predict {m} in --draw file", "--draw file is a file"),
    ("mine {m} in --json in/cat.jpg", "--json: in/cat.jpg would overwrite the input"),
    ("mine {m} in --top 1 --draw in", "--draw in contains input pictures, which"),
    ("webcam {m} --headless --source c.mp4 --summary c.mp4", "--summary: c.mp4 would overwrite the input"),
    ("webcam {m} --headless --source c.mp4 --record c.mp4", "--record: c.mp4 would overwrite the input"),
    ("webcam {m} --headless --source c.mp4 --record o.mp4 --summary o.mp4", "overwrite the output of --record"),
    ("bench {m} --json {m}", "would overwrite the input"),
    ("eval {m} set --json {m}", "would overwrite the input"),
    (
        "eval {m} set --json new --report new",
        "--report: new/report.json and the output of --json would be nested",
    ),
    ("eval {m} set --json new/x --report new/x/y", "and the output of --json would be nested"),
    ("eval {m} set --json new/report.json --report new", "would overwrite the output of --json"),
    ("eval {m} set --report file", "file is a file, not a folder"),
    ("eval {m} set --report set", "set is a folder of the dataset"),
    ("eval {m} set/report.json --report set", "would overwrite the input set/report.json"),
    ("eval {m} set --report set/images", "set/images is a folder of the dataset"),
    ("eval {m} set --report set/images/deep", "set/images/deep is a folder of the dataset"),
    ("eval {m} set --report set/annotations", "set/annotations is a folder of the dataset"),
    ("check set --json new --report new", "--report: new would overwrite the output of --json"),
    ("check set --json new --report new/x", "and the output of --json would be nested"),
    ("check set --json new/x --fix new", "--fix: new and the output of --json would be nested"),
    ("check set/report.json --report set/report.json", "would overwrite the input set/report.json"),
    ("bench {m} --plot in", "--plot in: the plot is a PNG"),
    ("bench {m} --data set/train.json --json set/train.json", "--json: set/train.json would overwrite the input"),
    ("bench {m} --data set --json set/train.json", "set/train.json would be read as annotations of the dataset"),
    ("bench {m} --config n.yml --markdown n.yml", "--markdown: n.yml would overwrite the input"),
]


@pytest.mark.parametrize(("line", "said"), COMMANDS, ids=[line for line, _ in COMMANDS])
def test_commands_refuse_before_any_work(
    model: Path, folder: Path, command: Callable[..., Any], line: str, said: str
) -> None:
    with write_video(folder / "c.mp4", 10, (48, 64)) as video:
        video.write(scene(48, 64))
    write_coco(folder / "set", {"train": [block_picture(np.random.default_rng(0))]})
    (folder / "n.yml").write_text("class_names: [a]")
    before = {path: path.read_bytes() for path in [model, *folder.rglob("*")] if path.is_file()}
    left = command(*(word.format(m=model) for word in line.split()))
    assert left.code == 2 and left.out == "" and said in left.err and left.err.count("\n") == 1, left
    after = {path: path.read_bytes() for path in [model, *folder.rglob("*")] if path.is_file()}
    assert after == before, "nothing changed, and nothing is new"
