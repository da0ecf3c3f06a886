"""Cameras and streams: opened with a timeout, and opened again when they drop."""

from __future__ import annotations

import logging
import math
import re
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from nanogfl.errors import DataError
from nanogfl.pictures import Picture
from nanogfl.runtime.frames import utf8
from nanogfl.runtime.holes import HIGHEST_RATE, readable

log = logging.getLogger(__name__)
SILENCE_MS = 5000  # a stream that sends nothing for this long has dropped
SECRETS = "user|usr|login|pass|pwd|pw|auth|token|secret|key"  # in names of name=value pairs of a query or a path
FIRST_WAIT, LONGEST_WAIT = 0.5, 4.0  # seconds between attempts to reopen a source


class Live:
    """A source that reads a camera by its number, or a stream by its address.

    If the address leads to a video of known length, the video is read to its end.

    Attributes:
        name: name for logs and records, without the password.
        live: whether pictures arrive even if they are not taken; False for a video of known length.
    """

    def __init__(self, target: int | str, patience_s: float) -> None:
        self.target, self.patience_s = target, patience_s
        self.name = f"camera {target}" if isinstance(target, int) else without_password(target)
        self.live, self.rate = True, None

    def pictures(self, stop: threading.Event) -> Iterator[tuple[str, float | None, Picture | None]]:
        """Yield (name, seconds since the start, picture); None for a frame of a video that cannot be decoded.

        Raises:
            DataError: the source cannot be opened, dropped and did not return in time, or is a video without a frame.
        """
        capture = self._open()
        if capture is None:
            raise DataError(self._missing())
        self._detect_video(capture)
        yield from (self._video if self.rate else self._stream)(capture, stop)

    def _video(
        self, capture: cv2.VideoCapture, stop: threading.Event
    ) -> Iterator[tuple[str, float | None, Picture | None]]:
        assert self.rate
        try:
            for index, picture in readable(capture, self.name, stop, SILENCE_MS / 1000):
                yield self.name, index / self.rate, picture
        finally:
            capture.release()

    def _stream(
        self, capture: cv2.VideoCapture | None, stop: threading.Event
    ) -> Iterator[tuple[str, float | None, Picture | None]]:
        began = time.perf_counter()
        try:
            while capture is not None and not stop.is_set():
                ok, picture = capture.read()
                if not ok and stop.is_set():
                    return
                if not ok:
                    capture.release()
                    capture, picture = self._reopen(stop)
                if capture is not None:
                    yield self.name, time.perf_counter() - began, np.asarray(picture, np.uint8)
        finally:
            if capture is not None:
                capture.release()

    def _open(self) -> cv2.VideoCapture | None:
        if isinstance(self.target, int):
            capture = cv2.VideoCapture(self.target)
            capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        else:
            limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, SILENCE_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, SILENCE_MS]
            capture = cv2.VideoCapture(utf8(self.target), cv2.CAP_FFMPEG, limits)
        return capture if capture.isOpened() else None

    def _detect_video(self, capture: cv2.VideoCapture) -> None:
        """Set ``live`` and ``rate`` if the address leads to a video of known length."""
        count, rate = (float(capture.get(p)) for p in (cv2.CAP_PROP_FRAME_COUNT, cv2.CAP_PROP_FPS))
        if isinstance(self.target, str) and 0 < count < math.inf and 0 < rate <= HIGHEST_RATE:
            self.live, self.rate = False, rate

    def _reopen(self, stop: threading.Event) -> tuple[cv2.VideoCapture | None, Picture | None]:
        """Reopen the source and read a picture; return (None, None) if ``stop`` is set first."""
        log.warning("%s was lost; retrying for %g s", self.name, self.patience_s)
        began, wait = time.perf_counter(), FIRST_WAIT
        while (left := began + self.patience_s - time.perf_counter()) > 0:
            if stop.wait(min(wait, left)):
                return None, None
            capture = self._open()
            if capture is not None:
                ok, picture = capture.read()
                if ok:
                    log.warning("%s reconnected after %.1f s", self.name, time.perf_counter() - began)
                    return capture, np.asarray(picture, np.uint8)
                capture.release()
            wait = min(2 * wait, LONGEST_WAIT)
        raise DataError(
            f"{self.name} was lost and did not reconnect within {self.patience_s:g} s; check it, or wait longer "
            "with --patience"
        )

    def _missing(self) -> str:
        if isinstance(self.target, str):
            return f"cannot open the stream {self.name}: no response, or no video in it; check the address"
        found = ", ".join(map(str, cameras())) or "none"
        return f"camera {self.target} not found; available cameras: {found}; use one of them, an address or a file"


def cameras() -> list[int]:
    """Return the numbers of the cameras that can be opened now."""
    if sys.platform == "linux":
        known = [int(match[1]) for p in Path("/dev").glob("video*") if (match := re.fullmatch(r"video(\d+)", p.name))]
    else:
        known = list(range(4))
    found = []
    for number in sorted(known):
        capture = cv2.VideoCapture(number)
        if capture.isOpened():
            found.append(number)
        capture.release()
    return found


def without_password(address: str) -> str:
    """Return an address for display: ``user:password@``, and credentials in the query or the path, become ``***``."""
    hidden = re.sub(r"//([^/]*|[^/@]*:(?!\d+/).*)@", "//***@", address)
    return re.sub(rf"([?&;/][^=&;/?]*(?:{SECRETS})[^=&;/?]*=)[^&]*", r"\1***", hidden, flags=re.IGNORECASE)
