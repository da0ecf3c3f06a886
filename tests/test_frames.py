"""Which files a command means, the frames in them, and videos written back."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import cv2
import numpy as np
import pytest

from nanogfl.errors import DataError, UsageError
from nanogfl.pictures import Picture, write_picture
from nanogfl.runtime.frames import Frame, expand, frame_rate, frames, is_video
from nanogfl.runtime.live import Live
from nanogfl.runtime.screen import Window
from nanogfl.runtime.video import write_video

IDENTITY = np.array([0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000], ">u4").tobytes()
QUARTER_TURN = np.array([0, 0x10000, 0, 0xFFFF0000, 0, 0, 0, 0, 0x40000000], ">u4").tobytes()


def grey(level: int, height: int = 48, width: int = 64) -> Picture:
    return np.full((height, width, 3), level, np.uint8)


def make_video(path: Path, pictures: Sequence[Picture], fps: float = 10) -> Path:
    """A video by OpenCV itself, so that reading is not tested against our own writing."""
    height, width = pictures[0].shape[:2]
    codec = "MJPG" if path.suffix == ".avi" else "mp4v"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), fps, (width, height))
    for picture in pictures:
        writer.write(picture)
    writer.release()
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as people have them; the working folder of the test."""
    for name in ("img10.jpg", "img2.jpg", "IMG1.JPG", ".hidden.jpg", "sub/deep/z.png", "sub/a.bmp", "[1].png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    for name in ("notes.txt", "clip.MP4", "sub/notes.txt", "photo.heic"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "odd.jpg").mkdir()  # a folder whose name looks like a picture
    monkeypatch.chdir(tmp_path)
    return tmp_path


LEVEL = ["[1].png", "clip.MP4", "IMG1.JPG", "img2.jpg", "img10.jpg"]


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        (["img10.jpg"], ["img10.jpg"]),
        (["img10.jpg", "img2.jpg", "img10.jpg"], ["img10.jpg", "img2.jpg"]),  # order kept, each once
        (["notes.txt"], ["notes.txt"]),  # named outright: the reader will say
        (["."], LEVEL),  # first level, natural order, any case, nothing hidden
        (["sub"], ["sub/a.bmp"]),  # not the folders below
        (["sub/**"], ["sub/a.bmp", "sub/deep/z.png"]),
        (["**/*.png"], ["[1].png", "sub/deep/z.png"]),
        (["img*"], ["img2.jpg", "img10.jpg"]),  # quoted: the shell did not expand it
        (["img?.jpg"], ["img2.jpg"]),
        (["[1].png"], ["[1].png"]),  # a name that looks like a glob is a name first
        (["su*"], ["sub/a.bmp"]),  # a matching folder gives its pictures, as if the shell had expanded it
        (["*.heic"], ["photo.heic"]),  # nothing better matches: the reader will say
        (["sub", "i*2.jpg"], ["sub/a.bmp", "img2.jpg"]),
        ([], []),
    ],
)
def test_expand(folder: Path, sources: list[str], expected: list[str]) -> None:
    assert expand(sources) == [Path(name) for name in expected]


def test_expand_takes_absolute_paths_and_globs(folder: Path) -> None:
    assert expand([str(folder)]) == [folder / name for name in LEVEL]
    assert expand([f"{folder}/**/*.bmp", str(folder / "img2.jpg")]) == [folder / "sub/a.bmp", folder / "img2.jpg"]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("img3.jpg", ["img3.jpg", "did you mean img2.jpg?"]),
        ("sbu/a.bmp", ["no sbu in", "did you mean sub?"]),  # the folder is what is wrong
        ("sub/b.bmp", ["no b.bmp in", "did you mean a.bmp?"]),
        ("notes.txt/a.jpg", ["notes.txt is a file, not a folder"]),
        ("nowhere/at/all.jpg", ["no nowhere in"]),
        ("empty", ["no picture or video in the folder empty", "another folder"]),
        ("*.tif", ["matches *.tif"]),
        ("empty/**", ["matches empty/**"]),
        ("", ["path is empty"]),
        ("http://camera/stream", ["not a file; for cameras", "nanogfl webcam --source"]),
        ("0", ["not a file; for cameras", "nanogfl webcam --source"]),
        ("x" * 5000, ["cannot read"]),  # longer than any file name
    ],
)
def test_expand_says_what_is_missing(folder: Path, source: str, said: list[str]) -> None:
    with pytest.raises(DataError) as error:
        expand([source])
    assert all(words in str(error.value) for words in said)


def test_a_folder_of_folders_names_the_glob(folder: Path) -> None:
    (folder / "outer/inner").mkdir(parents=True)
    with pytest.raises(DataError, match=r"outer/\*\*"):
        expand(["outer"])


@pytest.mark.parametrize(("name", "video"), [("a.mp4", True), ("A.MKV", True), ("a.jpg", False), ("mp4", False)])
def test_is_video_by_suffix(name: str, video: bool) -> None:
    assert is_video(name) is is_video(Path(name)) is video


def test_a_still_is_one_frame(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    write_picture(path, grey(90))
    (frame,) = frames(path)
    assert (frame.file, frame.index, frame.time_s) == (path, None, None)
    np.testing.assert_array_equal(frame.picture, grey(90))


def test_a_picture_is_known_by_its_content(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png", grey(90))
    named = (tmp_path / "a.png").rename(tmp_path / "download")
    assert [int(f.picture.mean()) for f in frames(named)] == [90]


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mov", ".mkv", ".m4v"])
def test_a_video_is_all_its_frames(tmp_path: Path, suffix: str) -> None:
    path = make_video(tmp_path / f"a{suffix}", [grey(level) for level in (20, 60, 100, 140)], fps=8)
    read = list(frames(path))
    assert [f.index for f in read] == [0, 1, 2, 3]
    assert [f.time_s for f in read] == pytest.approx([0, 0.125, 0.25, 0.375], abs=2e-3)
    assert {f.file for f in read} == {path}
    np.testing.assert_allclose([f.picture.mean() for f in read], [20, 60, 100, 140], atol=5)
    assert all(f.picture.shape == (48, 64, 3) and f.picture.dtype == np.uint8 for f in read)
    assert frame_rate(path) == pytest.approx(8)


def test_frames_of_a_video_are_upright(tmp_path: Path) -> None:
    picture = grey(20)
    picture[:, :20] = 220  # bright on the left
    path = make_video(tmp_path / "phone.mp4", [picture])
    data = path.read_bytes()
    at = data.index(IDENTITY, data.index(b"tkhd"))
    path.write_bytes(data[:at] + QUARTER_TURN + data[at + len(IDENTITY) :])
    (frame,) = frames(path)
    assert frame.picture.shape == (64, 48, 3)
    assert frame.picture[:16].mean() > 180 > 60 > frame.picture[24:].mean()  # bright on top after the turn


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("bad.mp4", b"nothing of the kind" * 50, "cannot open the video"),
        ("zero.avi", b"", "cannot open the video"),
        ("bad.jpg", b"nothing", "cannot decode the picture"),
        ("notes.txt", b"words", "cannot decode the picture"),
        ("gone.mp4", None, "no such file"),
        ("gone.jpg", None, "cannot read the picture"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said) as error:
        list(frames(tmp_path / name))
    assert name in str(error.value)


def test_a_video_that_breaks_off_is_noted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (20, 48, 64, 3), np.uint8)
    path = make_video(tmp_path / "cut.avi", list(noise))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with caplog.at_level(logging.WARNING):
        count = len(list(frames(path)))
    assert 5 <= count <= 12
    assert f"ends after {count} of 20 frames" in caplog.text


class Capture:
    """Stands for a decoder: what a header says, and the stamps of the frames that come, in ms."""

    def __init__(self, rate: float, announced: int, stamps: Sequence[float]) -> None:
        self.said = {cv2.CAP_PROP_FPS: rate, cv2.CAP_PROP_FRAME_COUNT: announced}
        self.stamps, self.at = stamps, -1

    def __call__(self, path: str) -> Capture:
        return self

    def isOpened(self) -> bool:  # noqa: N802  (OpenCV's name)
        return True

    def set(self, what: int, value: float) -> None: ...

    def release(self) -> None: ...

    def get(self, what: int) -> float:
        return self.stamps[self.at] if what == cv2.CAP_PROP_POS_MSEC else self.said[what]

    def read(self) -> tuple[bool, Picture | None]:
        self.at += 1
        return (True, grey(10)) if self.at < len(self.stamps) else (False, None)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A file that a stand-in decodes."""
    (tmp_path / "clip.mp4").touch()
    return tmp_path / "clip.mp4"


@pytest.mark.parametrize(
    ("said", "rate"), [(30, 30), (1000, 1000), (1001, 25), (90000, 25), (0, 25), (-1, 25), (float("nan"), 25)]
)
def test_a_rate_that_no_camera_has_is_25(clip: Path, said: float, rate: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", Capture(said, 3, [0, 0, 0]))
    assert frame_rate(clip) == rate
    assert [f.time_s for f in frames(clip)] == pytest.approx([0, 1 / rate, 2 / rate]), "of a decoder without stamps"


def test_times_are_the_frames_own_stamps(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", Capture(10, 4, [40, 80, 200, 0]))
    assert [f.time_s for f in frames(clip)] == pytest.approx([0.04, 0.08, 0.2, 0.3])
    monkeypatch.setattr(cv2, "VideoCapture", Capture(10, 1, [-40]))
    assert [f.time_s for f in frames(clip)] == [0]


@pytest.fixture
def crashing(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenCV, which would end the process."""

    def crash(name: str, *_: object) -> NoReturn:
        raise AssertionError(f"segmentation fault at {name!a}")

    for name in ("VideoCapture", "VideoWriter", "namedWindow"):
        monkeypatch.setattr(cv2, name, crash)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every file's name is Unicode")
def test_a_videos_name_must_be_utf8(tmp_path: Path, crashing: None) -> None:
    """As names in Latin-1 are not."""
    file = tmp_path / "\udce4.mp4"
    file.write_bytes(b"any")
    said = r"cannot open the video .*\.mp4: its name is not UTF-8, as OpenCV requires; rename it"
    with pytest.raises(DataError, match=said):
        list(frames(file))
    with pytest.raises(DataError, match=said), write_video(file, 25, (8, 8)):
        pass
    with pytest.raises(DataError, match=said):
        next(Live("http://h/\udce4.mp4", 1).pictures(threading.Event()))
    assert Window("model \udce4").title == "model ?"


@pytest.mark.parametrize(("read", "said"), [(90, False), (89, True)])
def test_a_tenth_less_than_announced_is_an_estimate(
    clip: Path, read: int, said: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", Capture(10, 100, [0] * read))
    assert len(list(frames(clip))) == read
    assert (f"ends after {read} of 100 frames" in caplog.text) is said


def test_a_video_without_a_frame_is_a_data_error(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", Capture(10, 0, []))
    with pytest.raises(DataError, match=r"no frame could be read from the video .*clip\.mp4"):
        list(frames(clip))


def test_a_written_video_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.mp4"
    with write_video(path, 12.5, (48, 64)) as video:
        for level in (10, 120, 240):
            video.write(grey(level))
        assert not path.exists()
    assert [p.name for p in path.parent.iterdir()] == ["a.mp4"]
    np.testing.assert_allclose([f.picture.mean() for f in frames(path)], [10, 120, 240], atol=5)
    assert frame_rate(path) == pytest.approx(12.5)


def test_a_video_of_odd_size_loses_its_last_row_and_column(tmp_path: Path) -> None:
    with write_video(tmp_path / "a.mp4", 10, (47, 65)) as video:
        video.write(grey(80, 47, 65))
    assert [f.picture.shape for f in frames(tmp_path / "a.mp4")] == [(46, 64, 3)]


def test_a_failure_leaves_the_old_video(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), write_video(path, 10, (48, 64)) as video:
        video.write(grey(10))
        raise RuntimeError
    with pytest.raises(DataError, match="received no frames"), write_video(path, 10, (48, 64)):
        pass
    with pytest.raises(ValueError, match="does not match"), write_video(path, 10, (48, 64)) as video:
        video.write(grey(10, 64, 48))
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]
    assert path.read_bytes() == b"old"


def test_a_disk_that_fills_leaves_no_broken_video(tmp_path: Path) -> None:
    """The writer does not say that the disk is full: a limit on the size of files stands for it, as in a shell."""
    path = tmp_path / "a.mp4"
    path.write_bytes(b"old")
    script = (
        "import resource, sys; import numpy as np; from nanogfl.runtime.video import write_video\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000)); rng = np.random.default_rng(0)\n"
        "with write_video(sys.argv[1], 10, (240, 320)) as video:\n"
        "    for _ in range(20): video.write(rng.integers(0, 256, (240, 320, 3), np.uint8))"
    )
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=False)
    said = done.stderr.splitlines()[-1]
    assert said == f"nanogfl.errors.DataError: the video {path} could not be finished; is the disk full?", done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"] and path.read_bytes() == b"old"


def test_a_video_behind_a_link_is_written_where_it_leads(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "a.mp4").symlink_to(tmp_path / "disk" / "b.mp4")
    with write_video(tmp_path / "a.mp4", 10, (48, 64)) as video:
        video.write(grey(10))
    assert (tmp_path / "a.mp4").is_symlink() and len(list(frames(tmp_path / "disk" / "b.mp4"))) == 1


def test_devices_and_pipes_are_not_read(folder: Path) -> None:
    """A read of a pipe that nobody writes to never ends."""
    os.mkfifo("pipe.jpg")
    for source in ("pipe.jpg", "/dev/zero"):
        with pytest.raises(DataError, match=f"cannot read {source}: it is a device or a pipe"):
            expand([source])
    with pytest.raises(DataError, match=r"no picture or video matches p\*pe.jpg"):
        expand(["p*pe.jpg"])


@pytest.mark.parametrize(
    ("name", "fps", "size", "said"),
    [
        ("a.avi", 10, (48, 64), "use a.mp4"),  # one form is written
        ("a.mp4", 0, (48, 64), "is not a valid video"),  # a rate that some broken files report
        ("a.mp4", float("nan"), (48, 64), "is not a valid video"),
        ("a.mp4", 10, (1, 64), "is not a valid video"),  # the codec needs two rows
    ],
)
def test_write_video_refuses(tmp_path: Path, name: str, fps: float, size: tuple[int, int], said: str) -> None:
    with pytest.raises(UsageError, match=said), write_video(tmp_path / name, fps, size):
        pass
    assert not list(tmp_path.iterdir())


def test_a_real_video(shared: Path) -> None:
    path = shared / "data/video/one-by-one-person-detection.mp4"
    source = frames(path)
    first, second = next(source), next(source)
    assert isinstance(first, Frame)
    assert first.picture.shape == (432, 768, 3)
    assert (first.index, first.time_s) == (0, 0.0)
    assert (second.index, second.time_s) == (1, pytest.approx(0.1))
    assert frame_rate(path) == pytest.approx(10)
