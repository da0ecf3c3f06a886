"""Capture of pictures from a camera, a stream, a video or a folder in a separate thread.

Cameras and streams deliver only the latest picture; older ones are dropped, so that the delay cannot grow. Files
deliver every picture; the reader waits when it is a few pictures ahead.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from nanogfl.errors import DataError, UsageError
from nanogfl.pictures import Picture
from nanogfl.runtime.frames import expand, frame_rate, frames, is_video
from nanogfl.runtime.live import Live

log = logging.getLogger(__name__)
STILLS = 2.0  # still pictures of a folder that are shown and recorded per second
AHEAD = 4  # pictures of files that are read in advance


@dataclass(frozen=True)
class Shot:
    """A picture, its source and its time.

    Attributes:
        picture: uint8 BGR [H, W, 3].
        source: the file, ``camera 0``, or the stream's address without its password.
        index: 0, 1, 2... within a video or a stream, including pictures that were dropped or cannot be decoded; still
            pictures continue the count.
        time_s: seconds since the start of the video or of the stream; None for a still picture.
        read_ms: time spent on reading it, in ms; for cameras and streams this includes waiting for it.
        read_at: ``time.perf_counter()`` when reading was complete.
    """

    picture: Picture
    source: str
    index: int
    time_s: float | None
    read_ms: float
    read_at: float


class Source(Protocol):
    """A source of pictures."""

    @property
    def live(self) -> bool:
        """Whether pictures arrive even if they are not taken; may change until the first one is read."""
        ...

    @property
    def rate(self) -> float | None:
        """Pictures per second of one video or of stills; None for several files with videos, and for live sources."""
        ...

    def pictures(self, stop: threading.Event) -> Iterator[tuple[str, float | None, Picture | None]]:
        """Yield (name, seconds, picture) until there are no more, or until soon after ``stop`` is set.

        The picture is None for a frame of a video that cannot be decoded: it is counted, but not shown.
        """
        ...


class Files:
    """All pictures of files, folders and globs; unreadable files are skipped with a warning."""

    live = False

    def __init__(self, source: str) -> None:
        self.files = expand([source])
        videos = [file for file in self.files if is_video(file)]
        self.rate = frame_rate(videos[0]) if len(self.files) == len(videos) == 1 else None if videos else STILLS

    def pictures(self, stop: threading.Event) -> Iterator[tuple[str, float | None, Picture | None]]:
        """Yield (name, seconds, picture) of each file in turn; raise DataError if no file could be read."""
        first: DataError | None = None
        count = 0
        for file in self.files:
            if stop.is_set():
                return
            error = yield from self._pictures_of(file, stop)
            first = first or error
            count += error is None
        if first and not count:
            raise first

    def _pictures_of(
        self, file: Path, stop: threading.Event
    ) -> Generator[tuple[str, float | None, Picture | None], None, DataError | None]:
        """Yield the pictures of one file; return the error that ended it early, if any."""
        due = 0
        try:
            for frame in frames(file):
                if stop.is_set():
                    break
                index = frame.index or 0
                yield from ((str(file), frame.time_s, None) for _ in range(due, index))
                yield str(file), frame.time_s, frame.picture
                due = index + 1
        except DataError as error:
            if len(self.files) > 1:
                log.warning("skipped: %s", error)
            return error
        return None


def open_source(source: str, patience_s: float = 30.0) -> Source:
    """Return the source of a camera (number or ``/dev/video0``), a stream (``rtsp://...``), or a file, folder or glob.

    Args:
        source: value of ``--source``.
        patience_s: seconds to wait for a camera or a stream that dropped.

    Raises:
        DataError: a file is missing.
        UsageError: the camera number or the address is invalid.
    """
    device = re.fullmatch(r"/dev/video(\d+)", str(Path(source).resolve()))
    if device or (source.isdecimal() and not Path(source).exists()):
        number = device[1] if device else source
        if int(number) > 999:
            raise UsageError(f"--source {source}: not a valid camera number; use 0, 1, ..., an address or a file")
        return Live(int(number), patience_s)
    scheme, mark, rest = source.partition("://")
    if mark and scheme.isalnum() and len(scheme) > 1:  # a single letter is a drive on Windows
        if not rest:
            raise UsageError(f"--source {source}: the address has no host; use for example rtsp://host/stream")
        return Live(source, patience_s)
    return Files(source)


def files_of(source: Source) -> list[Path]:
    """Return the files that a source reads; none for a camera or a stream."""
    return source.files if isinstance(source, Files) else []


class Capture:
    """A thread that reads a source: ``with Capture(source) as capture: capture.take(0.1)``.

    Attributes:
        skipped: number of pictures of a live source that were replaced before they were taken.
    """

    def __init__(self, source: Source) -> None:
        self.source, self.skipped = source, 0
        self._stop = threading.Event()
        self._change = threading.Condition()
        self._shots: deque[Shot] = deque()
        self._error: Exception | None = None
        self._done = False
        self._thread = threading.Thread(target=self._read, name="capture", daemon=True)

    def __enter__(self) -> Capture:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        with self._change:
            self._change.notify_all()
        self._thread.join(timeout=10)  # reading a silent stream blocks for a few seconds

    @property
    def ended(self) -> bool:
        """Whether no picture is left, none will come, and :meth:`take` has no error to raise."""
        with self._change:
            return self._done and not self._shots and self._error is None

    def take(self, patience_s: float) -> Shot | None:
        """Return the next picture, or None if none arrived within ``patience_s`` seconds.

        Raises:
            DataError: the source could not be opened, or was lost. Any other exception of the thread is raised too.
        """
        with self._change:
            self._change.wait_for(lambda: self._shots or self._done, patience_s)
            if self._shots:
                shot = self._shots.popleft()
                self._change.notify_all()
                return shot
            if self._error:
                raise self._error
            return None

    def _read(self) -> None:
        """Read the source; this is the body of the thread."""
        index, last, began = 0, "", time.perf_counter()
        try:
            for name, time_s, picture in self.source.pictures(self._stop):
                now = time.perf_counter()
                if name != last and time_s is not None:
                    index = 0  # the next video of a folder
                last = name
                if picture is not None:
                    self._put(Shot(picture, name, index, time_s, 1000 * (now - began), now))
                    began = time.perf_counter()
                index += 1
        except Exception as error:  # raised again by take()
            self._error = error
        finally:
            with self._change:
                self._done = True
                self._change.notify_all()

    def _put(self, shot: Shot) -> None:
        with self._change:
            if self.source.live:
                self.skipped += len(self._shots)
                self._shots.clear()
            else:
                self._change.wait_for(lambda: len(self._shots) < AHEAD or self._stop.is_set())
            self._shots.append(shot)
            self._change.notify_all()
