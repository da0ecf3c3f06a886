"""Sources: every picture of files, the latest of what is live, streams that drop and come back, missing cameras."""

from __future__ import annotations

import functools
import logging
import math
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler
from pathlib import Path

import cv2
import numpy as np
import pytest
from servers import served

from nanogfl.errors import DataError, UsageError
from nanogfl.pictures import Picture, write_picture
from nanogfl.runtime import live
from nanogfl.runtime.capture import AHEAD, Capture, Files, Shot, open_source
from nanogfl.runtime.live import Live, cameras, without_password
from nanogfl.runtime.video import write_video


def grey(level: int) -> Picture:
    return np.full((48, 64, 3), level, np.uint8)


def level(shot: Shot) -> int:
    return round(float(shot.picture.mean()))


def everything(capture: Capture, limit_s: float = 30) -> Iterator[Shot]:
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        shot = capture.take(0.1)
        if shot is not None:
            yield shot
        elif capture.ended:
            return
    raise AssertionError("no end")


# --- files ---


def test_a_folder_gives_every_picture_in_order(tmp_path: Path) -> None:
    for i in (1, 2, 10):
        write_picture(tmp_path / f"{i}.png", grey(10 * i))
    with Capture(open_source(str(tmp_path))) as capture:
        shots = list(everything(capture))
    assert [level(shot) for shot in shots] == [10, 20, 100]
    assert [Path(shot.source).name for shot in shots] == ["1.png", "2.png", "10.png"]
    assert [shot.index for shot in shots] == [0, 1, 2] and {shot.time_s for shot in shots} == {None}
    assert capture.skipped == 0 and not capture.source.live and capture.source.rate == 2, "stills a second"


def test_a_slow_viewer_still_gets_every_frame_of_a_video(tmp_path: Path) -> None:
    with write_video(tmp_path / "a.mp4", 10, (48, 64)) as video:
        for i in range(20):
            video.write(grey(10 * i + 5))
    source = open_source(str(tmp_path / "a.mp4"))
    assert source.rate == pytest.approx(10)
    with Capture(source) as capture:
        while len(capture._shots) < AHEAD:
            time.sleep(0.01)
        time.sleep(0.1)
        assert len(capture._shots) == AHEAD, "the reader waits"
        shots = list(everything(capture))
    assert [level(shot) for shot in shots] == pytest.approx([10 * i + 5 for i in range(20)], abs=4.9)
    assert [shot.time_s for shot in shots] == pytest.approx([i / 10 for i in range(20)], abs=2e-3)
    assert all(shot.read_ms > 0 for shot in shots)


def test_several_videos_have_no_rate_in_common(tmp_path: Path) -> None:
    for name, rate in (("a.mp4", 10), ("b.mp4", 25)):
        with write_video(tmp_path / name, rate, (48, 64)) as video:
            video.write(grey(5))
    assert open_source(str(tmp_path)).rate is None
    assert open_source(str(tmp_path / "b.mp4")).rate == pytest.approx(25)


def test_a_viewer_who_leaves_ends_the_reader(tmp_path: Path) -> None:
    for i in range(30):
        write_picture(tmp_path / f"{i}.png", grey(i))
    with Capture(Files(str(tmp_path))) as capture:
        assert capture.take(5) is not None
    assert not capture._thread.is_alive()


def test_whoever_has_left_is_given_no_more_pictures(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        with write_video(tmp_path / name, 10, (48, 64)) as video:
            for i in range(6):
                video.write(grey(10 * i))
    left = threading.Event()
    pictures = Files(str(tmp_path)).pictures(left)
    next(pictures)
    left.set()
    assert list(pictures) == []


def test_after_leaving_no_further_file_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_picture(tmp_path / "a.png", np.zeros((4, 4, 3), np.uint8))
    (tmp_path / "b.png").write_bytes(b"broken")
    left = threading.Event()
    pictures = Files(str(tmp_path)).pictures(left)
    assert next(pictures)[0].endswith("a.png")
    left.set()
    with caplog.at_level(logging.WARNING, "nanogfl"):
        assert list(pictures) == [] and not caplog.records, "b.png would be a warning"


def test_a_broken_picture_is_left_out_with_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_picture(tmp_path / "1.png", grey(10))
    (tmp_path / "2.png").write_bytes(b"no picture")
    write_picture(tmp_path / "3.png", grey(30))
    with caplog.at_level(logging.WARNING, "nanogfl"), Capture(Files(str(tmp_path))) as capture:
        assert [level(shot) for shot in everything(capture)] == [10, 30]
    assert "skipped: cannot decode the picture" in caplog.text


def test_broken_pictures_alone_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "2.png").write_bytes(b"no picture")
    with Capture(Files(str(tmp_path))) as capture, pytest.raises(DataError, match="cannot decode the picture"):
        list(everything(capture))


@pytest.mark.parametrize("source", ["nowhere.mp4", "no/folder", "*.nothing", ""])
def test_missing_files_are_an_error(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError):
        open_source(source)


@pytest.mark.parametrize("broken", [MemoryError, ValueError])
def test_whatever_ends_the_reader_is_raised_where_pictures_are_taken(broken: type[Exception]) -> None:
    """It is no end of the source: nobody would know that the rest is missing."""

    class Breaks:
        live, rate = False, None

        def pictures(self, stop: threading.Event) -> Iterator[tuple[str, float | None, Picture]]:
            yield "a", None, grey(1)
            raise broken("in the reader")

    with Capture(Breaks()) as capture:
        shots = everything(capture)
        assert level(next(shots)) == 1
        with pytest.raises(broken, match="in the reader"):
            next(shots)


def test_the_device_of_a_camera_is_that_camera(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read as a file, it gives bytes for ever. A link to it, as in /dev/v4l/by-id, is the same."""
    monkeypatch.chdir(tmp_path)
    for name, device in (("by-id", "/dev/video97"), ("7", "/dev/null")):
        Path(name).symlink_to(device)
    for source, number in (("/dev/video7", 7), ("/dev/video42", 42), ("by-id", 97)):
        opened = open_source(source)
        assert isinstance(opened, Live) and opened.target == number, source
    with pytest.raises(DataError, match="it is a device or a pipe"):
        open_source("/dev/zero")


def test_a_file_named_like_a_camera_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_picture(tmp_path / "a.png", grey(1))
    (tmp_path / "a.png").rename("0")
    assert isinstance(open_source("0"), Files)
    assert isinstance(open_source("1"), Live)


# --- live: the latest ---


class Ticker:
    """A camera that counts: one picture each few milliseconds, whoever looks."""

    live, rate = True, None

    def __init__(self, count: int, step_s: float) -> None:
        self.count, self.step_s = count, step_s

    def pictures(self, stop: threading.Event) -> Iterator[tuple[str, float | None, Picture]]:
        for i in range(self.count):
            if stop.wait(self.step_s):
                return
            yield "ticker", i * self.step_s, np.full((2, 2, 3), i % 250, np.uint8)


def test_a_slow_viewer_of_a_camera_sees_the_latest() -> None:
    """The delay does not grow: what is shown was taken in the time of one look, at most."""
    delays, indices = [], []
    with Capture(Ticker(150, 0.004)) as capture:
        for shot in everything(capture):
            delays.append(time.perf_counter() - shot.read_at)
            indices.append(shot.index)
            time.sleep(0.03)
    assert len(indices) + capture.skipped == 150 and capture.skipped > 50
    assert indices == sorted(indices) and indices[-1] == 149, "the last one is not lost"
    assert np.median(delays[-10:]) < 0.03 + np.median(delays[:10]), "no queue"


def test_a_fast_viewer_of_a_camera_misses_nothing() -> None:
    with Capture(Ticker(20, 0.02)) as capture:
        assert [shot.index for shot in everything(capture)] == list(range(20))
    assert capture.skipped == 0


def test_nothing_in_time_is_none() -> None:
    with Capture(Ticker(1, 0.5)) as capture:
        assert capture.take(0.01) is None and not capture.ended


def test_a_drive_of_windows_is_no_scheme_of_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_picture(tmp_path / "C:/a.png", grey(9))
    assert isinstance(open_source("C://a.png"), Files)
    with pytest.raises(DataError, match="cannot find"):
        open_source("D:\\a.mp4")


# --- streams, served here ---


class Stream(BaseHTTPRequestHandler):
    """An MJPEG camera that hangs up after some pictures of each call, and refuses after some calls."""

    pictures, calls, answered = 8, 2, 0

    def do_GET(self) -> None:
        kind = type(self)
        kind.answered += 1
        if kind.answered > kind.calls:
            self.send_error(503)
            return
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        for i in range(kind.pictures):
            jpeg = cv2.imencode(".jpg", grey(100 * kind.answered + i))[1].tobytes()
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            self.wfile.write(head.encode() + jpeg + b"\r\n")
            time.sleep(0.02)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(live, "FIRST_WAIT", 0.05)
    monkeypatch.setattr(Stream, "answered", 0)
    with served(Stream) as address:
        yield address


def test_a_stream_that_drops_comes_back_and_then_is_given_up(stream: str, caplog: pytest.LogCaptureFixture) -> None:
    levels: list[int] = []
    address = stream.replace("//", "//anna:secret@") + "/video"
    with caplog.at_level(logging.WARNING, "nanogfl"), Capture(open_source(address, patience_s=1.0)) as capture:
        with pytest.raises(DataError) as lost:
            levels.extend(level(shot) for shot in everything(capture))
        assert capture.source.live
    assert {value // 100 for value in levels} == {1, 2}, "pictures of both calls"
    name = stream.replace("//", "//***@") + "/video"
    assert str(lost.value).startswith(f"{name} was lost and did not reconnect within 1 s")
    assert caplog.records[0].getMessage() == f"{name} was lost; retrying for 1 s"
    assert caplog.records[1].getMessage().startswith(f"{name} reconnected after ")
    assert "secret" not in caplog.text + str(lost.value)


@pytest.mark.parametrize(("patience_s", "attempts"), [(0.0, 0), (0.02, 1), (0.2, 2), (0.8, 3)])
def test_a_short_patience_is_one_attempt_at_its_end(
    monkeypatch: pytest.MonkeyPatch, patience_s: float, attempts: int
) -> None:
    """Less than the usual first wait (here 0.15 s) still is an attempt; each further wait is twice as long."""
    opened: list[float] = []
    monkeypatch.setattr(live, "FIRST_WAIT", 0.15)
    dropped = Live("rtsp://x/y", patience_s)
    monkeypatch.setattr(dropped, "_open", lambda: opened.append(time.perf_counter()))
    began = time.perf_counter()
    with pytest.raises(DataError, match=f"did not reconnect within {patience_s:g} s"):
        dropped._reopen(threading.Event())
    assert len(opened) == attempts and (not opened or opened[-1] - began >= patience_s)


def test_nobody_waits_longer_than_the_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "FIRST_WAIT", 5.0)
    dropped = Live("rtsp://x/y", 0.1)
    monkeypatch.setattr(dropped, "_open", lambda: None)
    began = time.perf_counter()
    with pytest.raises(DataError):
        dropped._reopen(threading.Event())
    assert time.perf_counter() - began < 3


@pytest.mark.parametrize(
    ("count", "rate", "kept_live"),
    [(100, 25, False), (100, 1000, False), (100, 90000, True), (0, 25, True), (100, 0, True), (math.inf, 25, True)],
)
def test_a_video_has_a_length_and_a_rate_that_can_be(count: float, rate: float, kept_live: bool) -> None:
    """Headers of streams say 90000 frames a second, and lengths that mean nothing."""

    class Told:
        def get(self, what: int) -> float:
            return {cv2.CAP_PROP_FRAME_COUNT: count, cv2.CAP_PROP_FPS: rate}[what]

    opened = Live("http://x/y", 1)
    opened._detect_video(Told())  # type: ignore[arg-type]
    assert opened.live is kept_live and opened.rate == (None if kept_live else rate)


def test_leaving_does_not_wait_for_a_dropped_stream(stream: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stream, "calls", 1)
    with Capture(open_source(stream, patience_s=600)) as capture:
        while capture.take(0.3) is not None or Stream.answered < 2:
            pass
    assert not capture._thread.is_alive()


def test_nobody_at_the_address_is_an_error() -> None:
    with Capture(open_source("http://127.0.0.1:9/video")) as capture, pytest.raises(DataError) as error:
        list(everything(capture))
    assert str(error.value).startswith("cannot open the stream http://127.0.0.1:9/video: ")


def test_a_video_behind_an_address_is_read_to_its_end(tmp_path: Path) -> None:
    """Every frame at its time, and no reconnecting at the end."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with write_video(tmp_path / "a.mp4", 10, (48, 64)) as video:
        for i in range(12):
            video.write(grey(10 * i + 5))
    with (
        served(functools.partial(Quiet, directory=str(tmp_path))) as address,
        Capture(open_source(f"{address}/a.mp4")) as capture,
    ):
        time.sleep(0.2)
        shots = list(everything(capture))
    assert [level(shot) for shot in shots] == pytest.approx([10 * i + 5 for i in range(12)], abs=4.9)
    assert [shot.time_s for shot in shots] == pytest.approx([i / 10 for i in range(12)])
    assert not capture.source.live


def test_a_video_behind_an_address_that_ends_early_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Short:
        """Thirty frames are announced, three come."""

        left = 3

        def get(self, what: int) -> float:
            return {cv2.CAP_PROP_FRAME_COUNT: 30, cv2.CAP_PROP_FPS: 10, cv2.CAP_PROP_POS_MSEC: 0}[what]

        def read(self) -> tuple[bool, Picture | None]:
            self.left -= 1
            return (True, grey(1)) if self.left >= 0 else (False, None)

        def release(self) -> None:
            pass

    opened = Live("http://anna:secret@x/y", 1)
    monkeypatch.setattr(opened, "_open", Short)
    with caplog.at_level(logging.WARNING, "nanogfl"):
        assert [time_s for _, time_s, _ in opened.pictures(threading.Event())] == [0, 0.1, 0.2]
    assert "http://***@x/y" in caplog.text and " 3 " in caplog.text and " 30 " in caplog.text


# --- cameras ---


def test_a_missing_camera_is_an_error_that_lists_those_here() -> None:
    here = ", ".join(map(str, cameras())) or "none"
    with Capture(open_source("97")) as capture, pytest.raises(DataError) as error:
        list(everything(capture))
    assert str(error.value) == f"camera 97 not found; available cameras: {here}; use one of them, an address or a file"


@pytest.mark.parametrize("source", ["123456789012345", "1000", "rtsp://", "http://"])
def test_sources_without_meaning_are_refused(source: str) -> None:
    with pytest.raises(UsageError, match="--source"):
        open_source(source)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("rtsp://anna:secret@10.0.0.2/a", "rtsp://***@10.0.0.2/a"),
        ("rtsp://10.0.0.2/a@b", "rtsp://10.0.0.2/a@b"),
        ("http://x:80/v?u=1", "http://x:80/v?u=1"),
        ("rtsp://a:p@ss@h/a", "rtsp://***@h/a"),
        ("rtsp://anna:a/b@10.0.0.2/x", "rtsp://***@10.0.0.2/x"),
        ("rtsp://10.0.0.2:554/a@b", "rtsp://10.0.0.2:554/a@b"),
        ("http://x:80/v.cgi?user=anna&pwd=secret&fps=5", "http://x:80/v.cgi?user=***&pwd=***&fps=5"),
        ("http://x/cgi?usr=anna&fps=5", "http://x/cgi?usr=***&fps=5"),
        ("http://x/v?pwd=a;b&fps=5", "http://x/v?pwd=***&fps=5"),
        ("http://x/cgi?User=anna&PASSWORD=secret", "http://x/cgi?User=***&PASSWORD=***"),
        ("http://h:8080/x;password=1", "http://h:8080/x;password=***"),
        ("rtsp://h:554/user=admin&password=secret&channel=1", "rtsp://h:554/user=***&password=***&channel=1"),
        ("rtsp://h/user=admin_password=tlJwpbo6_channel=1_stream=0.sdp", "rtsp://h/user=***"),
        ("rtsp://users.local/keys/a?size=3", "rtsp://users.local/keys/a?size=3"),
    ],
)
def test_passwords_are_not_shown(address: str, shown: str) -> None:
    assert without_password(address) == shown
