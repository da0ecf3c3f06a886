"""nanogfl webcam: the window and its keys, recordings however they end, JSON lines without a window."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from models import scene, write_models

from nanogfl.detections import Detections
from nanogfl.errors import DataError, UsageError
from nanogfl.pictures import Picture, read_picture, write_picture
from nanogfl.runtime import screen as screen_room
from nanogfl.runtime.capture import Shot, open_source
from nanogfl.runtime.meter import KEPT, Meter
from nanogfl.runtime.overlay import Overlay
from nanogfl.runtime.record import LIVE_RATE, Recorder, fit, free_name
from nanogfl.runtime.track import Tracker
from nanogfl.runtime.video import write_video
from nanogfl.runtime.webcam import Webcam

GROUND, THING = 40, 220
HIGH, WIDE = 120, 160


def picture_of(x: int, y: int = 30, size: int = 40, height: int = HIGH, width: int = WIDE) -> Picture:
    """A light square on dark ground."""
    picture = np.full((height, width, 3), GROUND, np.uint8)
    picture[y : y + size, x : x + size] = THING
    return picture


class Finder:
    """Finds the light square; the score is 0.5."""

    names, input_size = ["cat", "square"], (64, 64)

    def predict(self, source: Any, score: float = 0.3, *, iou: float = 0.6, max_boxes: int = 100) -> Detections:
        rows, columns = np.nonzero(source.mean(axis=2) > 150)
        found = len(rows) > 0 and score < 0.5
        box = [[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]] if found else []
        count = len(box)
        sigma = np.full((count, 4), 4, np.float32)
        return Detections(
            np.array(box, np.float32).reshape(count, 4), np.full(count, 0.5, np.float32), np.ones(count, np.int64),
            self.names, sigma,
        )  # fmt: skip


class Script:
    """A screen that presses keys: what is pressed after the n-th picture, or while nothing new comes."""

    def __init__(self, keys: dict[int, str], idle: Sequence[str] = ()) -> None:
        self.keys, self.idle = keys, list(idle)
        self.shown: list[Picture] = []
        self.waits: list[float] = []
        self.closed = False

    def show(self, picture: Picture, wait_s: float) -> str:
        self.shown.append(picture)
        self.waits.append(wait_s)
        return self.keys.get(len(self.shown), "")

    def wait(self, wait_s: float) -> str:
        return self.idle.pop(0) if self.idle else ""

    def close(self) -> None:
        self.closed = True


class Camera:
    """Pictures as they come, each some milliseconds after the other; then it is lost, or ends."""

    live, rate = True, None

    def __init__(self, pictures: Sequence[Picture], step_s: float = 0.005, lost: bool = False) -> None:
        self.made, self.step_s, self.lost = pictures, step_s, lost

    def pictures(self, stop: threading.Event) -> Iterator[tuple[str, float | None, Picture]]:
        for i, picture in enumerate(self.made):
            if stop.wait(self.step_s):
                return
            yield "camera 0", i * 0.05, picture
        if self.lost:
            raise DataError("camera 0 dropped")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: in/ with 12 pictures of a square that walks right."""
    for i in range(12):
        write_picture(tmp_path / "in" / f"{i}.png", picture_of(4 * i))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def video(path: Path, count: int = 12) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (WIDE, HIGH))
    for i in range(count):
        writer.write(picture_of(4 * i))
    writer.release()
    return path


def frames_in(path: Path | str) -> list[Picture]:
    capture, found = cv2.VideoCapture(str(path)), []
    while (read := capture.read())[0]:
        found.append(np.asarray(read[1], np.uint8))
    return found


def rate_of(path: Path | str) -> float:
    return cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FPS)


def changed(picture: Picture, plain: Picture, where: tuple[slice, slice] = (slice(None), slice(None))) -> int:
    return int((np.abs(picture[where].astype(int) - plain[where]).max(axis=2) > 40).sum())


BELOW = (slice(68, 76), slice(None))  # the lower side of the box, far from the panel and the label


# --- one record a frame ---


def test_a_record_for_each_picture_of_a_folder(folder: Path) -> None:
    records: list[dict[str, Any]] = []
    figures = Webcam(Finder(), open_source("in"), report=records.append).run()
    assert [r["frame"] for r in records] == list(range(12))
    assert [r["detections"][0]["box"] for r in records] == [[4 * i, 30, 4 * i + 40, 70] for i in range(12)]
    assert list(records[0]) == ["source", "frame", "time", "width", "height", "detections", "ms"]
    assert (records[0]["source"], records[0]["width"], records[0]["height"]) == ("in/0.png", WIDE, HIGH)
    assert set(records[0]["ms"]) == {"capture", "inference", "drawing"} and records[0]["time"] is None
    assert json.loads(json.dumps(records)) == records
    assert figures["frames"] == figures["frames_with_objects"] == 12 and figures["frames_with"] == {"square": 12}
    assert figures["skipped"] == 0 and figures["fps"] > 0 and set(figures["ms"]) == {"capture", "inference", "drawing"}


def test_records_hold_sigma_where_it_is_asked_for(folder: Path) -> None:
    for sigma in (False, True):
        records: list[dict[str, Any]] = []
        Webcam(Finder(), open_source("in"), overlay=Overlay(sigma=sigma), report=records.append).run()
        assert ("side_sigma" in records[0]["detections"][0]) is sigma


def test_tracked_records_have_ids_and_the_figures_say_how_steady(folder: Path) -> None:
    records: list[dict[str, Any]] = []
    video(folder / "a.mp4")
    figures = Webcam(Finder(), open_source("a.mp4"), tracker=Tracker(), report=records.append).run()
    assert [r["detections"][0]["track"] for r in records] == [None, None] + [1] * 10
    assert figures["ids"] == 1 and 0 < figures["jitter_px"] < 1
    assert [r["time"] for r in records] == pytest.approx([i / 10 for i in range(12)], abs=2e-3)


def test_only_some_classes(folder: Path) -> None:
    assert Webcam(Finder(), open_source("in"), classes=["cat"]).run()["frames_with_objects"] == 0
    with pytest.raises(UsageError, match="no class 'squar'"):
        Webcam(Finder(), open_source("in"), classes=["squar"])


def test_jitter_by_hand() -> None:
    """Sides of the one box go 0 1 0 1: second differences of 2 px; the other id is seen twice only."""
    meter = Meter()
    box = np.array([[10, 10, 20, 20]], np.float32)
    for i in range(4):
        meter.follow(np.array([7], np.int64), box + i % 2)
    for i in range(2):
        meter.follow(np.array([8], np.int64), box * i)
    assert meter.summary()["jitter_px"] == 2 and meter.summary()["ids"] == 8


def test_jitter_is_of_three_frames_in_a_row() -> None:
    """Where an id is missing for a frame, or a box has none yet, nothing is known of how it shakes."""
    meter = Meter()
    box = np.array([[10, 10, 20, 20]], np.float32)
    for i, ids in enumerate(([7], [7], [8], [7], [0], [0], [0])):
        meter.follow(np.array(ids, np.int64), box * (i % 3))
    assert meter.summary()["jitter_px"] == 0 and meter.summary()["ids"] == 8


def test_a_video_of_a_folder_begins_anew(folder: Path) -> None:
    (folder / "two").mkdir()
    video(folder / "two" / "a.mp4")
    video(folder / "two" / "b.mp4")
    records: list[dict[str, Any]] = []
    Webcam(Finder(), open_source("two"), tracker=Tracker(), report=records.append).run()
    assert [r["frame"] for r in records] == [*range(12), *range(12)]
    ids = [r["detections"][0]["track"] for r in records]
    assert ids == [None, None, *[1] * 10, None, None, *[2] * 10]


def test_stills_beside_a_video_are_no_part_of_it(folder: Path) -> None:
    """Tracks end where a video begins or ends, and go on from still to still."""
    (folder / "mix").mkdir()
    video(folder / "mix" / "b.mp4")
    for name in ("a1", "a2", "c1", "c2", "c3", "c4"):
        write_picture(folder / "mix" / f"{name}.png", picture_of(44))
    records: list[dict[str, Any]] = []
    Webcam(Finder(), open_source("mix"), tracker=Tracker(), report=records.append).run()
    ids = [r["detections"][0]["track"] for r in records]
    assert ids == [None, None, None, None, *[1] * 10, None, None, 2, 2]


def test_the_figures_of_a_source_that_is_lost_are_kept(folder: Path) -> None:
    class Lost:
        live, rate = True, None

        def pictures(self, stop: threading.Event) -> Iterator[tuple[str, float | None, Picture]]:
            yield "lost", 0.0, picture_of(0)
            time.sleep(0.3)
            raise DataError("lost was lost and did not reconnect")

    webcam = Webcam(Finder(), Lost())
    with pytest.raises(DataError):
        webcam.run()
    assert webcam.summary()["frames"] == 1


# --- the window ---


def test_every_frame_is_shown_with_its_box_at_the_videos_own_speed(folder: Path) -> None:
    video(folder / "a.mp4")
    screen = Script({})
    Webcam(Finder(), open_source("a.mp4"), screen=screen).run()
    assert len(screen.shown) == 12 and screen.closed
    assert all(changed(shown, picture_of(4 * i), BELOW) > 60 for i, shown in enumerate(screen.shown))
    assert all(0 <= wait <= 0.1 for wait in screen.waits) and max(screen.waits) > 0.01


def test_videos_of_a_folder_play_at_the_speed_of_each(folder: Path) -> None:
    """Ten and four frames a second; the first of each has none before it, and stands for the usual 40 ms."""
    (folder / "two").mkdir()
    for name, rate in (("a", 10), ("b", 4)):
        with write_video(folder / "two" / f"{name}.mp4", rate, (HIGH, WIDE)) as sink:
            for i in range(3):
                sink.write(picture_of(4 * i))
    webcam = Webcam(Finder(), open_source("two"))
    shots = [Shot(picture_of(1), name, i, i * step, 0, 0) for name, step in (("a", 0.1), ("b", 0.25)) for i in range(3)]
    lengths = [webcam._length(shot, before) for shot, before in zip(shots, [None, *shots], strict=False)]
    assert lengths == pytest.approx([0.04, 0.1, 0.1, 0.04, 0.25, 0.25])
    late = Shot(picture_of(1), "b", 3, 60.0, 0, 0)
    assert webcam._length(late, shots[-1]) == 1, "a gap in a video is not waited for"
    screen = Script({})
    Webcam(Finder(), open_source("two"), screen=screen).run()
    assert len(screen.waits) == 6 and 0.04 < max(screen.waits[1:3]) <= 0.11 < max(screen.waits[4:]) <= 0.26


def test_q_ends_it(folder: Path) -> None:
    screen = Script({3: "q"})
    assert Webcam(Finder(), open_source("in"), screen=screen).run()["frames"] == 3
    assert len(screen.shown) == 3 and screen.closed


def test_keys_change_what_is_drawn(folder: Path) -> None:
    """Boxes off at the third picture, labels at the fourth, figures at the fifth: then nothing is drawn at all."""
    screen = Script({2: "b", 3: "l", 4: "f", 5: "u", 6: "b", 7: "f"})
    Webcam(Finder(), open_source("in"), screen=screen).run()
    lower = [changed(shown, picture_of(4 * i), BELOW) for i, shown in enumerate(screen.shown)]
    assert min(lower[:2]) > 60 and lower[2:5] == [0, 0, 0]
    top = [changed(shown, picture_of(4 * i)) for i, shown in enumerate(screen.shown)]
    assert top[2] > top[3] > top[4] == 0
    assert lower[5] > 0, "soft edges"
    assert lower[6] > 0 and top[7] > top[6]


def test_keys_change_the_score(folder: Path) -> None:
    records: list[dict[str, Any]] = []
    webcam = Webcam(
        Finder(), open_source("in"), screen=Script({2: "+", 3: "+", 4: "+", 5: "=", 8: "-"}), overlay=Overlay(0.35)
    )
    webcam.report = records.append
    webcam.run()
    assert [len(r["detections"]) for r in records] == [1] * 4 + [0] * 4 + [0] * 4
    assert webcam.overlay.score == pytest.approx(0.5)


@pytest.mark.parametrize(("key", "end"), [("+", 0.95), ("-", 0.05)])
def test_the_score_stays_a_score(folder: Path, key: str, end: float) -> None:
    webcam = Webcam(Finder(), open_source("in"), screen=Script({}), overlay=Overlay(0.5))
    for _ in range(30):
        webcam._press(key)
    assert webcam.overlay.score == end


def test_pause_holds_the_picture_and_keys_still_work(folder: Path) -> None:
    screen = Script({2: " "}, idle=["", "b", "l", "f", "z", " "])
    webcam = Webcam(Finder(), open_source("in"), screen=screen)
    assert webcam.run()["frames"] == 12
    assert changed(screen.shown[2], picture_of(4), BELOW) > 60, "paused"
    assert changed(screen.shown[3], picture_of(4), BELOW) == 0, "boxes off, same picture"
    assert changed(screen.shown[5], picture_of(4)) == 0, "labels and figures off, too"
    assert len(screen.shown) == 12 + 5


@pytest.mark.parametrize("tracker", [None, Tracker()], ids=["plain", "tracked"])
def test_the_score_changes_the_boxes_of_a_paused_picture(folder: Path, tracker: Tracker | None) -> None:
    """At 0.35 the square (0.5) is there; three steps up it is gone, unless a track goes on; one down it is back."""
    screen = Script({4: " "}, idle=["+", "+", "+", "-", " "])
    webcam = Webcam(Finder(), open_source("in"), screen=screen, overlay=Overlay(0.35), tracker=tracker)
    webcam.run()
    shown = [changed(picture, picture_of(12), BELOW) > 60 for picture in screen.shown[3:9]]
    assert shown == [True, True, True, True, tracker is not None, True]
    assert tracker is None or tracker._sightings.tolist() == [12], "no picture is counted twice"


def test_a_second_look_gives_no_id(folder: Path) -> None:
    """The second picture's object gets its id with the third."""
    webcam = Webcam(Finder(), open_source("in"), screen=Script({2: " "}, idle=["-", "q"]), tracker=Tracker())
    webcam.run()
    assert webcam._last is not None and webcam._last[2] == [0]
    webcam = Webcam(Finder(), open_source("in"), screen=Script({3: " "}, idle=["-", "q"]), tracker=Tracker())
    webcam.run()
    assert webcam._last is not None and webcam._last[2] == [1]


def test_q_ends_a_pause(folder: Path) -> None:
    assert Webcam(Finder(), open_source("in"), screen=Script({2: "p"}, idle=["", "q"])).run()["frames"] == 2


def test_snapshots_are_what_is_shown(folder: Path) -> None:
    screen = Script({2: "s", 3: "s"})
    Webcam(Finder(), open_source("in"), screen=screen).run()
    saved = sorted(folder.glob("snapshot-*.png"), key=lambda path: path.stat().st_mtime_ns)
    assert len(saved) == 2
    for path, shown in zip(saved, screen.shown[1:3], strict=True):
        np.testing.assert_array_equal(read_picture(path), shown)


# --- recordings ---


def test_a_recording_holds_every_frame_of_a_file(folder: Path) -> None:
    video(folder / "a.mp4")
    Webcam(Finder(), open_source("a.mp4"), record=Path("deep/out.mp4")).run()
    recorded = frames_in("deep/out.mp4")
    assert len(recorded) == 12 and rate_of("deep/out.mp4") == pytest.approx(10)
    assert all(changed(frame, picture_of(4 * i), BELOW) > 40 for i, frame in enumerate(recorded))
    assert [path.name for path in Path("deep").iterdir()] == ["out.mp4"]


def test_a_recording_of_a_camera_runs_as_time_did(folder: Path) -> None:
    """Twelve pictures 50 ms apart at 20 frames a second, with a gap that counts as a second at most."""
    recorder = Recorder(Path("a.mp4"), None)
    for time_s in (0.0, 0.05, 0.1, 0.3, 0.31, 60.0):
        recorder.write(picture_of(10), time_s)
    recorder.close()
    assert len(frames_in("a.mp4")) == round(1.31 * LIVE_RATE) + 1
    assert rate_of("a.mp4") == pytest.approx(LIVE_RATE)


def test_a_second_video_in_a_recording_takes_no_time_from_the_first(folder: Path) -> None:
    """Its seconds begin at 0 again."""
    recorder = Recorder(Path("a.mp4"), None)
    for grey, time_s in [(10, i / 20) for i in range(11)] + [(200, i / 20) for i in range(11)]:
        recorder.write(np.full((64, 64, 3), grey, np.uint8), time_s)
    recorder.close()
    levels = [round(float(frame.mean())) for frame in frames_in("a.mp4")]
    assert [sum(abs(level - grey) < 15 for level in levels) for grey in (10, 200)] == [11, 10]


def test_stills_and_videos_in_one_recording(folder: Path) -> None:
    """Each still stands for half a second, each frame of a video for its own time, the first ones too."""
    recorder = Recorder(Path("a.mp4"), None)
    plan = [(10, None)] * 3 + [(200, i / 20) for i in range(15)] + [(90, None)] + [(250, i / 10) for i in range(4)]
    for grey, time_s in plan:
        recorder.write(np.full((64, 64, 3), grey, np.uint8), time_s)
    recorder.close()
    levels = [round(float(frame.mean())) for frame in frames_in("a.mp4")]
    counts = [sum(abs(level - grey) < 15 for level in levels) for grey in (10, 200, 90, 250)]
    assert counts == [30, 15, 10, 7] and len(levels) == 62, "of 100 ms each are two frames, of the last one"


def test_a_recording_of_a_video_behind_an_address_holds_every_frame(folder: Path) -> None:
    """Its rate is known when it is open, and no earlier."""

    class Late(Camera):
        live, rate = True, None

        def pictures(self, stop: threading.Event) -> Iterator[tuple[str, float | None, Picture]]:
            self.live, self.rate = False, 30.0
            for i, picture in enumerate(self.made):
                yield "http://x/a.mp4", i / 30, picture

    Webcam(Finder(), Late([picture_of(i) for i in range(45)]), record=Path("out.mp4")).run()
    assert len(frames_in("out.mp4")) == 45 and rate_of("out.mp4") == pytest.approx(30)


def test_pictures_of_other_sizes_are_fitted_in(folder: Path) -> None:
    recorder = Recorder(Path("a.mp4"), 5)
    for picture in (picture_of(10), np.full((300, 300, 3), 200, np.uint8), np.full((10, 80, 3), 200, np.uint8)):
        recorder.write(picture, None)
    recorder.close()
    first, square, wide = frames_in("a.mp4")
    assert first.shape == square.shape == wide.shape == (HIGH, WIDE, 3)
    assert square[:, 30:130].mean() > 190 and square[:, :16].mean() < 10
    assert wide[52:68].mean() > 190 and wide[:40].mean() < 10
    assert fit(picture_of(1), (HIGH, WIDE)).shape == (HIGH, WIDE, 3)


def test_fine_stripes_become_grey_and_a_line_stays_one() -> None:
    stripes = np.zeros((128, 128, 3), np.uint8)
    stripes[:, ::2] = 255
    assert set(fit(stripes, (64, 64)).ravel().tolist()) <= {127, 128}
    assert (fit(np.full((1000, 1, 3), 200, np.uint8), (50, 50)) == 200).any(axis=(1, 2)).all()


def test_what_was_recorded_is_kept_when_the_camera_is_lost(folder: Path) -> None:
    camera = Camera([picture_of(i) for i in range(30)], lost=True)
    with pytest.raises(DataError, match="dropped"):
        Webcam(Finder(), camera, record=Path("out.mp4")).run()
    assert len(frames_in("out.mp4")) >= 5 and [p.name for p in folder.glob("*.mp4")] == ["out.mp4"]


def test_what_was_recorded_is_kept_when_something_breaks(folder: Path) -> None:
    class Breaks(Finder):
        calls = 0

        def predict(self, *arguments: Any, **options: Any) -> Detections:
            self.calls += 1
            if self.calls > 5:
                raise MemoryError
            return super().predict(*arguments, **options)

    with pytest.raises(MemoryError):
        Webcam(Breaks(), open_source("in"), record=Path("out.mp4")).run()
    assert len(frames_in("out.mp4")) == 5


def test_the_record_key_begins_and_ends_recordings(folder: Path) -> None:
    Path("out_1.mp4").write_bytes(b"another's")
    webcam = Webcam(
        Finder(), open_source("in"), screen=Script({3: "r", 5: "r", 9: "r", 10: "r"}), record=Path("out.mp4")
    )
    webcam.run()
    assert {name: len(frames_in(name)) for name in ("out.mp4", "out_2.mp4", "out_3.mp4")} == {
        "out.mp4": 3, "out_2.mp4": 4, "out_3.mp4": 2,
    }  # fmt: skip
    assert Path("out_1.mp4").read_bytes() == b"another's"


def test_a_key_alone_makes_a_recording_with_a_name_of_its_own(folder: Path) -> None:
    Webcam(Finder(), open_source("in"), screen=Script({3: "r", 4: "r", 5: "r"})).run()
    names = sorted(path.name for path in folder.glob("*.mp4"))
    assert len(names) == 2 and all(re.fullmatch(r"recording-\d{8}-\d{6}(_1)?\.mp4", name) for name in names)


def test_a_recording_that_cannot_be_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="only mp4"):
        Webcam(Finder(), open_source("in"), record=Path("out.avi")).run()
    assert not list(folder.glob("out*"))


def test_a_recording_never_takes_the_place_of_its_source(folder: Path) -> None:
    before = video(folder / "a.mp4").read_bytes()
    with pytest.raises(UsageError, match=r"--record: x/../a.mp4 would overwrite the input a.mp4"):
        Webcam(Finder(), open_source("a.mp4"), record=Path("x/../a.mp4")).run()
    assert (folder / "a.mp4").read_bytes() == before


def test_free_name(tmp_path: Path) -> None:
    for name in ("a.mp4", "a_1.mp4"):
        (tmp_path / name).touch()
    assert free_name(tmp_path / "a.mp4").name == "a_2.mp4" and free_name(tmp_path / "b.mp4").name == "b.mp4"


# --- the command ---


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("webcam")
    write_models(folder, (64, 96))
    return folder / "model.onnx"


@pytest.fixture
def no_display(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)


def test_headless_gives_json_lines_and_a_video(model: Path, folder: Path, command: Callable[..., Any]) -> None:
    video(folder / "a.mp4")
    said = command(
        "webcam", model, "--source", "a.mp4", "--headless", "--record", "out.mp4", "--track",
        "--score", 0.1, "--summary", "figures/run.json",
    )  # fmt: skip
    assert said.code == 0 and said.err == "", said
    records = [json.loads(line) for line in said.out.splitlines()]
    assert [r["frame"] for r in records] == list(range(12))
    assert len(frames_in("out.mp4")) == 12
    figures = json.loads(Path("figures/run.json").read_text())
    assert figures["frames"] == 12 and figures["ids"] >= 0


@pytest.mark.skipif(sys.platform != "linux", reason="displays are told by the environment on Linux only")
def test_without_a_display_it_goes_on_headless_with_a_word(
    model: Path, folder: Path, command: Callable[..., Any], no_display: None
) -> None:
    said = command("webcam", model, "--source", "in")
    assert said.code == 0 and len(said.out.splitlines()) == 12
    assert said.err == "warning: no display found; printing one JSON line per frame\n"


@pytest.mark.skipif(sys.platform != "linux", reason="displays are told by the environment on Linux only")
def test_a_display_that_does_not_answer_is_none(monkeypatch: pytest.MonkeyPatch, no_display: None) -> None:
    assert not screen_room.has_display()
    monkeypatch.setenv("DISPLAY", ":4711")  # the toolkit would end the process
    assert not screen_room.has_display()


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--source", "97"], 1, r"error: camera 97 not found; available cameras: (none|[\d, ]+); use one of them, "),
        (["--source", "nowhere.mp4"], 1, r"error: cannot find nowhere.mp4: "),
        (["--source", "rtsp://127.0.0.1:9/x"], 1, r"error: cannot open the stream rtsp://127.0.0.1:9/x: "),
        (["--source", "in", "--classes", "rde"], 2, r"error: --classes: the model has no class 'rde'"),
        (["--source", "in", "--sigma"], 2, r"error: --sigma: this file has no sigma"),
        (["--source", "in", "--record", "x.avi"], 2, r"error: cannot write a video as x.avi"),
    ],
)
def test_mistakes_are_one_line(
    model: Path, folder: Path, command: Callable[..., Any], options: list[str], code: int, said: str
) -> None:
    left = command("webcam", model, "--headless", *options)
    assert left.code == code and re.match(said, left.err) and left.err.count("\n") == 1 and left.out == "", left


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_a_playable_recording(model: Path, folder: Path, number: signal.Signals) -> None:
    for i in range(3):
        write_picture(folder / "many" / f"{i}.png", scene(64, 96, seed=i))
    for i in range(3, 4000):
        os.link("many/0.png", f"many/{i}.png")
    code = "from nanogfl.cli import main; main()"
    options = ["webcam", model, "--source", "many", "--headless", "--record", "out.mp4"]
    with Path("lines.jsonl").open("w") as lines:
        running = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, options)], stdout=lines, stderr=subprocess.PIPE, text=True
        )
        while running.poll() is None and Path("lines.jsonl").read_text().count("\n") < 5:
            time.sleep(0.02)
        running.send_signal(number)
        _, errors = running.communicate(timeout=60)
    assert running.returncode == 0 and errors == ""
    records = [json.loads(line) for line in Path("lines.jsonl").read_text().splitlines()]
    assert 5 <= len(records) < 4000
    assert len(frames_in("out.mp4")) == len(records)
    assert not list(folder.glob("*.partial*"))


def test_nobody_reading_the_lines_is_no_traceback(model: Path, folder: Path) -> None:
    code = "from nanogfl.cli import main; main()"
    options = f"webcam {model} --source in --headless --record out.mp4"
    shell = f"{sys.executable} -c '{code}' {options} | head -n 1"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=60, check=False)
    assert len(done.stdout.splitlines()) == 1 and "Traceback" not in done.stderr
    assert frames_in("out.mp4")


# --- long runs ---


def long_run(count: int) -> tuple[int, float]:
    """Bytes held after a run over a camera of so many pictures, and its delay at the end."""
    rng = np.random.default_rng(0)
    made = [picture_of(int(x), int(y), 20) for x, y in rng.integers(0, 90, (50, 2))]
    camera = Camera([made[i % 50] for i in range(count)], step_s=0.001)
    webcam = Webcam(Finder(), camera, screen=Script({}), tracker=Tracker())
    webcam.screen.shown = _Nothing()  # type: ignore[union-attr, assignment]
    webcam.screen.waits = _Nothing()  # type: ignore[union-attr, assignment]
    tracemalloc.start()
    try:
        figures = webcam.run()
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert figures["frames"] + figures["skipped"] == count
    return held, figures["delay_ms"]["p90"]


class _Nothing(list[Any]):
    def append(self, item: Any) -> None:
        pass


@pytest.mark.slow
def test_neither_memory_nor_delay_grows_over_a_long_run() -> None:
    short, long = long_run(1200), long_run(4000)
    assert long[0] < short[0] + 200_000, "a thousand times of each stage are kept, nothing else"
    assert long[1] < 3 * short[1] + 5


def test_figures_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """100 frames, one every half second, then every tenth; two cats in the even ones, a dog too in each tenth."""
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    meter = Meter()
    assert meter.fps == 0 and meter.summary()["fps"] == 0
    for i in range(100):
        clock[0] += 0.5 if i < 50 else 0.1
        labels = [0, 0] * (i % 2 == 0) + [1] * (i % 10 == 0)
        count = len(labels)
        boxes = np.zeros((count, 4), np.float32)
        found = Detections(boxes, np.ones(count, np.float32), np.array(labels, np.int64), ["cat", "dog"])
        meter.add(found, (i + 1, 1, 1), 2 * (i + 1))
    made = meter.summary()
    assert (made["frames"], made["frames_with_objects"]) == (100, 50)
    assert list(made["frames_with"].items()) == [("cat", 50), ("dog", 10)]
    assert (made["seconds"], made["fps"]) == (30.0, 3.33)
    assert meter.fps == pytest.approx(10), "of the last thirty"
    assert meter.lately("capture") == pytest.approx(np.arange(71, 101).mean())
    assert made["ms"]["capture"] == {"p50": 50.5, "p90": 90.1} and made["delay_ms"] == {"p50": 101, "p90": 180.2}


def test_figures_are_bounded() -> None:
    meter = Meter()
    nothing = Finder().predict(np.zeros((4, 4, 3), np.uint8))
    for _ in range(KEPT + 500):
        meter.add(nothing, (1, 2, 3), 4)
    assert all(len(kept) == KEPT for kept in meter._stages.values()) and len(meter._delays) == KEPT
    assert meter.summary()["frames"] == KEPT + 500
    assert meter.summary()["ms"] == {
        "capture": {"p50": 1, "p90": 1}, "inference": {"p50": 2, "p90": 2}, "drawing": {"p50": 3, "p90": 3},
    }  # fmt: skip
    assert meter.lately("inference") == 2 and time.perf_counter() > 0
