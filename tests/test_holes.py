"""Videos with damaged places: what can be read is read, at its own index and time, and a warning counts the rest."""

from __future__ import annotations

import functools
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from models import write_models
from servers import served

from nanogfl.errors import DataError
from nanogfl.pictures import Picture
from nanogfl.runtime import live
from nanogfl.runtime.capture import Capture, open_source
from nanogfl.runtime.frames import frames
from nanogfl.runtime.holes import LONGEST_HOLE, readable

ADVICE = "use an undamaged copy if there is one"


def make_video(path: Path, count: int = 20) -> Path:
    codec = "MJPG" if path.suffix == ".avi" else "mp4v"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 10, (64, 48))
    for picture in np.random.default_rng(0).integers(0, 255, (count, 48, 64, 3), np.uint8):
        writer.write(picture)
    writer.release()
    return path


def spoil(path: Path, *places: int) -> Path:
    """Zeros in place of these frames' JPEGs."""
    data = bytearray(path.read_bytes())
    at, end = data.index(b"movi") + 4, data.rindex(b"idx1")
    for number in range(20):
        at = data.index(b"00dc", at, end)
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        if number in places:
            data[at + 8 : at + 8 + size] = bytes(size)
        at += 8 + size
    path.write_bytes(data)
    return path


def announce(path: Path, count: int) -> Path:
    """Another number of frames in both headers of an AVI."""
    data = bytearray(path.read_bytes())
    for at in (data.index(b"avih") + 8 + 16, data.index(b"strh") + 8 + 32):
        data[at : at + 4] = count.to_bytes(4, "little")
    path.write_bytes(data)
    return path


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def without(*lost: int, count: int = 20) -> list[int]:
    return [i for i in range(count) if i not in lost]


@pytest.mark.parametrize(
    ("lost", "numbers"),
    [
        ([8], "1 of 20"),
        ([18], "1 of 20"),  # in the last tenth, which headers' estimates do not explain
        ([0, 1], "2 of 20"),
        ([3, 10, 11, 12], "4 of 20"),
    ],
)
def test_frames_that_cannot_be_decoded_are_counted(
    tmp_path: Path, lost: list[int], numbers: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = spoil(make_video(tmp_path / "a.avi"), *lost)
    read = list(frames(path))
    assert [f.index for f in read] == without(*lost)
    assert [f.time_s for f in read] == pytest.approx([i / 10 for i in without(*lost)])
    whole = list(frames(make_video(tmp_path / "whole.avi")))
    assert all((f.picture == whole[f.index or 0].picture).all() for f in read)
    assert warnings(caplog) == [f"{path}: {numbers} frames could not be read; {ADVICE}"]


def test_a_hole_in_an_mp4_lasts_until_it_can_be_decoded_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = make_video(tmp_path / "a.mp4", 60)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 20_000] = bytes(20_000)
    path.write_bytes(data)
    read = list(frames(path))
    assert 20 < len(read) < 60 and (read[0].index, read[-1].index) == (0, 59)
    assert [f.time_s for f in read] == pytest.approx([(f.index or 0) / 10 for f in read], abs=2e-3)
    assert warnings(caplog) == [f"{path}: {60 - len(read)} of 60 frames could not be read; {ADVICE}"]


def test_a_file_cut_off_behind_a_hole_says_both(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = spoil(make_video(tmp_path / "a.avi"), 3)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    read = list(frames(path))
    end = (read[-1].index or 0) + 1
    assert 5 <= end <= 12 and [f.index for f in read] == without(3, count=end)
    assert warnings(caplog) == [
        f"{path} ends after {end} of 20 frames, 1 of which could not be read; use a complete copy if there is one"
    ]


@pytest.mark.parametrize("count", [1000, 2**31 - 1])
def test_a_header_that_announces_too_much_ends_soon(
    tmp_path: Path, count: int, caplog: pytest.LogCaptureFixture
) -> None:
    path = announce(spoil(make_video(tmp_path / "a.avi"), 8), count)
    began = time.perf_counter()
    assert [f.index for f in frames(path)] == without(8)
    assert time.perf_counter() - began < 5
    assert warnings(caplog) == [
        f"{path} ends after 20 of {count} frames, 1 of which could not be read; use a complete copy if there is one"
    ]


class Decoder:
    """Stands for a decoder: the stamps of the frames that come, in ms, None for a failed read, and so for ever."""

    def __init__(self, announced: float, stamps: Sequence[float | None], rate: float = 10) -> None:
        self.said = {cv2.CAP_PROP_FPS: rate, cv2.CAP_PROP_FRAME_COUNT: announced}
        self.stamps, self.reads = stamps, 0

    def get(self, what: int) -> float:
        return float(self._stamp or 0) if what == cv2.CAP_PROP_POS_MSEC else self.said[what]

    @property
    def _stamp(self) -> float | None:
        return self.stamps[self.reads - 1] if self.reads <= len(self.stamps) else None

    def read(self) -> tuple[bool, Picture | None]:
        self.reads += 1
        return (True, np.zeros((4, 4, 3), np.uint8)) if self._stamp is not None else (False, None)


def indices(decoder: Decoder) -> list[int]:
    return [i for i, picture in readable(decoder, "clip") if picture is not None]  # type: ignore[arg-type]


@pytest.mark.parametrize("announced", [0, -1, 1e9, float("inf"), float("nan")])
def test_a_decoder_that_always_fails_ends(announced: float, caplog: pytest.LogCaptureFixture) -> None:
    """Of a header without a number, the end is where many reads in a row fail."""
    decoder = Decoder(announced, [0, None, 200])
    assert indices(decoder) == [0, 2] and decoder.reads == 3 + LONGEST_HOLE
    (said,) = warnings(caplog)
    if announced == 1e9:
        assert said.startswith("clip ends after 3 of 1000000000 frames, 1 of which could not be read; ")
    else:
        assert said == f"clip: 1 of 3 frames could not be read; {ADVICE}"


@pytest.mark.parametrize(("hole", "passed"), [(LONGEST_HOLE - 1, True), (LONGEST_HOLE, False)])
def test_the_longest_hole(hole: int, passed: bool) -> None:
    decoder = Decoder(1e6, [0, *[None] * hole, 100 * (hole + 1)])
    assert indices(decoder) == ([0, hole + 1] if passed else [0])


def test_nothing_is_read_beyond_the_announced_number() -> None:
    decoder = Decoder(3, [0, 100, 200])
    assert indices(decoder) == [0, 1, 2] and decoder.reads == 4
    decoder = Decoder(5, [0, None, 200])
    assert indices(decoder) == [0, 2] and decoder.reads == 5


def test_none_stands_for_a_hole_only_before_a_picture() -> None:
    read = readable(Decoder(9, [0, None, None, 300, None]), "clip")  # type: ignore[arg-type]
    assert [(i, picture is None) for i, picture in read] == [(0, False), (1, True), (2, True), (3, False)]


@pytest.mark.parametrize(
    ("stamps", "expected", "rate"),
    [
        ([0, 100, None, 200, 300, 500], [0, 1, 2, 3, 5], 10),  # a failed read before its time, as of H.264
        ([0, 100, None, 700, 800], [0, 1, 7, 8], 10),  # frames dropped without a failed read, as of HEVC
        ([0, 100, None, 300, 700], [0, 1, 3, 7], 10),
        ([0, 130, None, 700, 800], [0, 1, 3, 4], 100),  # no constant rate: failed reads count
        ([0, 0, None, 0, 0], [0, 1, 3, 4], 10),  # no timestamps
        ([None, None, 0, 0], [2, 3], 10),
        ([None, None, 200, 300], [2, 3], 10),
        ([0, None, 9e9, 300], [0, 2, 3], 10),  # a broken timestamp
        ([0, 0, None, 50, 60], [0, 1, 3, 4], 90000),  # a broken rate
    ],
)
def test_the_place_behind_a_hole(stamps: list[float | None], expected: list[int], rate: float) -> None:
    assert indices(Decoder(20, stamps, rate)) == expected


def test_a_video_without_a_readable_frame_is_a_data_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = spoil(make_video(tmp_path / "a.avi"), *range(20))
    with pytest.raises(DataError, match=r"no frame could be read from the video .*a\.avi; convert it"):
        list(frames(path))
    assert warnings(caplog) == []


# --- behind an address ---


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """The folder of the test, served; of a file in ``slow/`` half comes, and then nothing."""
    left = threading.Event()

    class Server(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            if not self.path.startswith("/slow/"):
                super().do_GET()
                return
            data = (tmp_path / self.path.removeprefix("/slow/")).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            left.wait(60)

        def log_message(self, *_: object) -> None:
            pass

    with served(functools.partial(Server, directory=str(tmp_path))) as address:
        yield address
        left.set()


def shots(source: str) -> list[tuple[int, float | None]]:
    found = []
    with Capture(open_source(source)) as capture:
        while not capture.ended:
            if shot := capture.take(0.2):
                found.append((shot.index, shot.time_s))
    return found


def test_frames_of_a_video_behind_an_address_keep_their_places(
    tmp_path: Path, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    spoil(make_video(tmp_path / "a.avi"), 8, 18)
    assert shots(f"{address}/a.avi") == [(i, pytest.approx(i / 10)) for i in without(8, 18)]
    assert warnings(caplog) == [f"{address}/a.avi: 2 of 20 frames could not be read; {ADVICE}"]


def test_a_server_that_falls_silent_is_waited_for_once(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(live, "SILENCE_MS", 500)
    make_video(tmp_path / "a.avi")
    began = time.perf_counter()
    count = len(shots(f"{address}/slow/a.avi"))
    assert time.perf_counter() - began < 8 and 3 <= count <= 12
    assert warnings(caplog) == [
        f"{address}/slow/a.avi ends after {count} of 20 frames; use a complete copy if there is one"
    ]


def test_a_silence_is_not_waited_for_at_each_frame_that_is_still_announced() -> None:
    class Silent(Decoder):
        def read(self) -> tuple[bool, Picture | None]:
            time.sleep(0.05 if self.reads > 1 else 0)
            return super().read()

    decoder = Silent(200, [0, 100])
    assert [i for i, _ in readable(decoder, "clip", silence_s=0.12)] == [0, 1]  # type: ignore[arg-type]
    assert 3 <= decoder.reads <= 5


def test_leaving_within_a_hole_is_the_end(caplog: pytest.LogCaptureFixture) -> None:
    stop = threading.Event()

    class Left(Decoder):
        def read(self) -> tuple[bool, Picture | None]:
            if self.reads == 5:
                stop.set()
            return super().read()

    decoder = Left(1e6, [0, 100])
    assert [i for i, _ in readable(decoder, "clip", stop)] == [0, 1]  # type: ignore[arg-type]
    assert decoder.reads == 6 and warnings(caplog) == []


# --- the commands ---


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("holes")
    write_models(folder, (64, 96))
    return folder / "model.onnx"


@pytest.mark.parametrize(("lost", "numbers"), [((8,), "1 of 20"), ((5, 18), "2 of 20")])
def test_predict_keeps_every_readable_frame(
    model: Path, tmp_path: Path, lost: tuple[int, ...], numbers: str, command: Callable[..., Any]
) -> None:
    path, json_path = spoil(make_video(tmp_path / "a.avi"), *lost), tmp_path / "found.json"
    said = command("predict", model, path, "--json", json_path)
    assert said.code == 0
    assert said.err.splitlines() == [f"warning: {path}: {numbers} frames could not be read; {ADVICE}"]
    records = json.loads(json_path.read_text())
    assert [r["frame"] for r in records] == without(*lost)
    assert [r["time"] for r in records] == pytest.approx([i / 10 for i in without(*lost)])
    assert said.out.splitlines()[-1].endswith(f" in {20 - len(lost)} frames -> {json_path}")


def test_webcam_keeps_every_readable_frame(model: Path, tmp_path: Path, command: Callable[..., Any]) -> None:
    """Of two videos, each counted for itself."""
    folder = tmp_path / "in"
    folder.mkdir()
    spoil(make_video(folder / "a.avi"), 8)
    spoil(make_video(folder / "b.avi"), 0, 18)
    said = command("webcam", model, "--source", folder, "--headless")
    assert said.code == 0
    records = [json.loads(line) for line in said.out.splitlines()]
    assert [r["frame"] for r in records] == without(8) + without(0, 18)
    assert [r["time"] for r in records] == pytest.approx([i / 10 for i in without(8) + without(0, 18)])
    assert [line for line in said.err.splitlines() if line.startswith("warning: ")] == [
        f"warning: {folder}/a.avi: 1 of 20 frames could not be read; {ADVICE}",
        f"warning: {folder}/b.avi: 2 of 20 frames could not be read; {ADVICE}",
    ]
