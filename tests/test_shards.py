"""nanogfl.members, nanogfl.data.shards: pictures in tars are read, trained on and checked as files are."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from runs import Train, checkpoint, different, main

import nanogfl
from nanogfl import members
from nanogfl.data.headers import Header, read_header
from nanogfl.data.loader import TrainingSet
from nanogfl.data.order import OPEN, EpochOrder
from nanogfl.data.readers import read_table
from nanogfl.data.shards import Shards, shards_of
from nanogfl.data.splits import select
from nanogfl.deploy.calibrate import calibration_table
from nanogfl.doctor.check import check
from nanogfl.errors import DataError
from nanogfl.pictures import read_picture, write_picture
from nanogfl.recipe import AugmentRecipe


@pytest.fixture(scope="module")
def sharded(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny set in tars of five pictures."""
    out = tmp_path_factory.mktemp("sharded") / "set"
    assert main("check", tiny_set, "--fix", out, "--shards", 5) == 0
    return out


def test_the_copy_holds_the_same_set(tiny_set: Path, sharded: Path) -> None:
    before, after = read_table(tiny_set), read_table(sharded)
    assert [p.suffix for p in sharded.rglob("*") if p.is_file()].count(".tar") == 5 + 2 + 2  # of 24, 6 and 6 pictures
    assert {p.suffix for p in sharded.rglob("*") if p.is_file()} == {".tar", ".json"}
    assert (after.names, after.warnings, len(after)) == (before.names, [], len(before))
    for one, two in zip(before.examples, after.examples, strict=True):
        assert (one.width, one.height, one.split) == (two.width, two.height, two.split)
        assert one.path.read_bytes() == members.read_bytes(two.path)
        assert np.array_equal(read_picture(one.path), read_picture(two.path))
        assert np.allclose(one.boxes, two.boxes, atol=1e-3) and np.array_equal(one.labels, two.labels)


def test_tars_are_the_same_bytes_again(tiny_set: Path, sharded: Path, tmp_path: Path) -> None:
    assert main("check", tiny_set, "--fix", tmp_path / "again", "--shards", 5) == 0
    for tar in sharded.rglob("*.tar"):
        assert tar.read_bytes() == (tmp_path / "again" / tar.relative_to(sharded)).read_bytes()


def test_a_check_of_the_copy_finds_nothing(sharded: Path, tmp_path: Path) -> None:
    assert main("check", sharded, "--json", tmp_path / "found.json") == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert [p for p in found["problems"] if p["severity"] == "error"] == []
    assert "picture-missing" not in json.dumps(found) and "unlisted" not in json.dumps(found)


def test_files_come_back_out_of_tars(tiny_set: Path, sharded: Path, tmp_path: Path) -> None:
    assert main("check", sharded, "--fix", tmp_path / "files") == 0
    one, two = read_table(tiny_set), read_table(tmp_path / "files")
    assert [e.path.read_bytes() for e in one.examples] == [e.path.read_bytes() for e in two.examples]


def test_training_and_evaluation_are_the_same(tiny_set: Path, sharded: Path, tiny_train: Train, tmp_path: Path) -> None:
    """All pictures are in one window of tars, whose order is another draw: the scores are compared, not the weights."""
    summary = tiny_train(sharded, tmp_path / "run", "train.workers=1")
    assert summary["steps"] == 3
    scores = [
        nanogfl.evaluate(tmp_path / "run" / "best.ckpt", data, split="val").numbers for data in (tiny_set, sharded)
    ]
    assert scores[0] == scores[1]
    assert scores[0]["AP"] == pytest.approx(summary["best"]["AP"], abs=1e-6)


@pytest.mark.slow
def test_a_resumed_run_on_tars_is_the_uninterrupted_one(sharded: Path, tiny_train: Train, tmp_path: Path) -> None:
    plan = ("train.warmup=1", "train.average=0.9", "train.plain_epochs=0", "train.lr_end=0.001", "train.lr=0.001")
    tiny_train(sharded, tmp_path / "whole", *plan, epochs=2)
    tiny_train(sharded, tmp_path / "run", *plan, epochs=1)
    nanogfl.train(sharded, out=tmp_path / "run", resume=True, epochs=2)
    states = [checkpoint(tmp_path / run / "last.ckpt")["state_dict"] for run in ("whole", "run")]
    assert different(*states) == []


def test_an_epoch_reads_a_few_tars_at_a_time_and_every_picture_once() -> None:
    numbers = np.repeat(np.arange(40), 25)
    np.random.default_rng(0).shuffle(numbers)
    order = EpochOrder(len(numbers), 3, numbers)
    first = [index for _, index in order]
    assert sorted(first) == list(range(1000))
    windows = [{int(numbers[i]) for i in first[at : at + OPEN * 25]} for at in range(0, 1000, OPEN * 25)]
    assert [len(w) for w in windows] == [OPEN] * 5
    assert len(set().union(*windows)) == 40
    changes = np.count_nonzero(np.diff(numbers[first]))
    assert changes > 800  # mixed within a window, not tar after tar
    order.set_epoch(1)
    second = [index for _, index in order]
    assert second != first and sorted(second) == sorted(first)
    assert {int(numbers[i]) for i in second[: OPEN * 25]} != windows[0]


def test_a_mosaics_pictures_come_from_one_tar(sharded: Path) -> None:
    table = select(read_table(sharded), "train")
    shards = shards_of(table)
    assert shards is not None and len(set(shards.numbers.tolist())) == 5
    random = np.random.default_rng(0)
    for index in range(len(table)):
        others = shards.some(index, 30, random)
        assert {members.tar_of(table.examples[i].path) for i in others} == {members.tar_of(table.examples[index].path)}
    assert set(Shards(np.array([1, 0, 1])).some(0, 99, random)) == {0, 2}
    dataset = TrainingSet(table, (64, 64), "stretch", AugmentRecipe(mosaic=1.0), 0, shards=shards)
    asked: list[int] = []
    dataset._picture = lambda index: asked.append(index) or read_picture(table.examples[index].path)  # type: ignore[method-assign]
    dataset[0, 7]
    assert len(asked) == 4 and len({int(shards.numbers[i]) for i in asked}) == 1


def test_a_set_of_files_has_no_shards(tiny_set: Path) -> None:
    assert shards_of(read_table(tiny_set)) is None


def test_members_are_found_where_others_packed_them(tmp_path: Path) -> None:
    """``tar cf x.tar ./folder`` writes ./folder/name, folders and links beside."""
    source = tmp_path / "folder"
    source.mkdir()
    (source / "a.bin").write_bytes(b"first")
    (source / "b.bin").write_bytes(b"second" * 300)
    (source / "link.bin").symlink_to("a.bin")
    os.link(source / "a.bin", source / "same.bin")
    with tarfile.open(tmp_path / "x.TAR", "w") as tar:
        tar.add(source, "./folder")
    inside = tmp_path / "x.TAR" / "folder"
    assert members.read_bytes(inside / "a.bin") == b"first"
    assert members.read_bytes(inside / "b.bin") == b"second" * 300
    assert members.read_bytes(inside / "same.bin") == b"first"
    assert not members.is_file(inside / "link.bin") and not members.is_file(inside)
    with pytest.raises(FileNotFoundError):
        members.read_bytes(inside / "c.bin")
    folder = tmp_path / "no.tar"  # a folder of such a name is a folder
    folder.mkdir()
    (folder / "a.bin").write_bytes(b"plain")
    assert members.is_file(folder / "a.bin") and members.read_bytes(folder / "a.bin") == b"plain"


@pytest.mark.parametrize("damage", ["cut", "gzip", "noise"])
def test_a_damaged_tar_is_named_in_one_line(
    damage: str, sharded: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    shutil.copytree(sharded, tmp_path / "set")
    tar = tmp_path / "set" / "train" / "000001.tar"
    content = tar.read_bytes()
    bad = {"cut": content[: len(content) // 2 - 300], "gzip": b"\x1f\x8b\x08" + content, "noise": b"\xff" * 5000}
    tar.write_bytes(bad[damage])
    code = main("train", tmp_path / "set", "--out", tmp_path / "run", "--size", "s", "--input", 64, "--epochs", 1)
    said = capfd.readouterr().err
    assert code == 1 and len([line for line in said.splitlines() if line.startswith("error")]) == 1
    assert "000001.tar" in said and "complete, uncompressed tar" in said


def test_a_damaged_tar_does_not_end_a_check(sharded: Path, tmp_path: Path) -> None:
    shutil.copytree(sharded, tmp_path / "set")
    (tmp_path / "set/train/000001.tar").write_bytes(b"\xff" * 5000)
    found = check(tmp_path / "set")
    said = [p for p in found.problems if p.kind == "picture-unreadable"]
    assert [p.file.split("/")[:2] for p in said] == [["train", "000001.tar"]] * 5, "the pictures that it held"
    assert "complete, uncompressed tar" in said[0].detail
    assert len(found.table) == 24 + 6 + 6 - 5


def test_shards_without_fix_are_refused(tiny_set: Path, capfd: pytest.CaptureFixture) -> None:
    assert main("check", tiny_set, "--shards", 5) == 2
    assert "specify --fix FOLDER too" in capfd.readouterr().err


def test_a_member_is_read_in_pieces_as_a_file_is(tmp_path: Path) -> None:
    """Pillow reads heads, seeks, and asks from the end."""
    content = np.random.default_rng(0).bytes(100_000)
    for name in ("a.bin", "b.bin"):
        (tmp_path / name).write_bytes(content if name == "b.bin" else b"before" * 999)
    members.pack([tmp_path / "a.bin", tmp_path / "b.bin"], tmp_path / "x.tar")
    with members.open_bytes(tmp_path / "x.tar" / "b.bin") as file:
        assert file.read(10) == content[:10] and file.tell() == 10
        assert file.seek(-7, 2) == 99_993 and file.read() == content[-7:] and file.read(5) == b""
        assert file.seek(50_000) == 50_000 and file.read(30_000) == content[50_000:80_000]
        assert file.seek(5, 1) == 80_005 and file.read() == content[80_005:]
        assert file.seek(200_000) and file.read() == b""


def test_only_the_head_of_a_picture_is_read_for_its_size(
    sharded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (900, 1200, 3), dtype=np.uint8)
    write_picture(tmp_path / "a.png", noise)
    members.pack([tmp_path / "a.png"], tmp_path / "x.tar")
    read: list[int] = []
    original = members._Part.readinto

    def count(part: members._Part, buffer: memoryview) -> int:
        read.append(original(part, buffer))
        return read[-1]

    monkeypatch.setattr(members._Part, "readinto", count)
    head = read_header(tmp_path / "x.tar" / "a.png")
    assert isinstance(head, Header) and head.size == (1200, 900)
    assert 0 < sum(read) < 100_000 < (tmp_path / "x.tar").stat().st_size


def test_a_tar_that_was_packed_again_is_read_again(tmp_path: Path) -> None:
    for content in (b"first", b"second, and longer"):
        (tmp_path / "a.bin").write_bytes(content)
        members.pack([tmp_path / "a.bin"], tmp_path / "x.tar")
        os.utime(tmp_path / "x.tar", ns=(0, len(content)))
        assert members.read_bytes(tmp_path / "x.tar" / "a.bin") == content


@pytest.mark.parametrize("size", [-512, -(10**6), 2**70, 10**9])
def test_a_size_that_no_member_has_is_refused(size: int, tmp_path: Path) -> None:
    """tarfile takes steps backwards for ever, or raises what is no error of tars."""
    tar = tmp_path / "x.tar"
    for name in ("a.bin", "b.bin", "c.bin"):
        (tmp_path / name).write_bytes(b"x" * 600)
    members.pack([tmp_path / f"{letter}.bin" for letter in "abc"], tar)
    content = bytearray(tar.read_bytes())
    at = 512 + 1024  # the second header
    assert content[at : at + 5] == b"b.bin"
    number = bytes([0xFF if size < 0 else 0x80]) + (size % 256**11).to_bytes(11, "big")
    content[at + 124 : at + 136] = number
    content[at + 148 : at + 156] = b" " * 8
    content[at + 148 : at + 156] = b"%06o\0 " % sum(content[at : at + 512])
    tar.write_bytes(content)
    with pytest.raises(DataError, match=r"cannot read .*x\.tar"):
        members.members(tar)


def test_int8_is_calibrated_on_tars(sharded: Path) -> None:
    table = calibration_table(sharded)
    assert len(table) == 24 and members.is_file(table.examples[0].path)


def test_tars_of_the_set_are_never_written_over(sharded: Path, capfd: pytest.CaptureFixture) -> None:
    assert main("check", sharded, "--json", sharded / "train" / "000000.tar") == 2
    assert "is a file of the dataset" in capfd.readouterr().err


def test_a_damaged_tar_raises_from_python(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"\xff" * 5000)
    with pytest.raises(DataError, match=r"cannot read .*x\.tar"):
        members.read_bytes(tmp_path / "x.tar" / "a.jpg")
