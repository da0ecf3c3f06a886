"""Recording of the shown pictures as mp4 files that are complete, however the recording ends."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import cv2
import numpy as np

from nanogfl.pictures import Picture
from nanogfl.runtime.capture import STILLS
from nanogfl.runtime.video import VideoSink, write_video

LIVE_RATE = 20.0  # frames per second of a recording whose source has no rate
LONGEST_GAP = 1.0  # longest duration of one picture, in seconds


class Recorder:
    """A writer of pictures into one video; the file gets its final name when it is closed.

    Args:
        path: ends in ``.mp4``.
        rate: frames per second, with one frame per picture. None: pictures are repeated or left out so that the video
            plays in real time, and a still picture lasts 1 / STILLS s.
    """

    def __init__(self, path: Path, rate: float | None) -> None:
        self.path, self.rate = path, rate
        self._stack = ExitStack()
        self._sink: VideoSink | None = None
        self._length, self._last = 0.0, None

    def write(self, picture: Picture, time_s: float | None) -> None:
        """Append a picture; a picture of another size is fitted into the size of the first one, on black.

        Args:
            picture: uint8 BGR [H, W, 3].
            time_s: time at which it was taken, in seconds; None for a still picture.
        """
        if self._sink is None:
            sink = write_video(self.path, self.rate or LIVE_RATE, picture.shape[:2])
            self._sink = self._stack.enter_context(sink)
        fitted = fit(picture, self._sink.size)
        for _ in range(self._due(time_s)):
            self._sink.write(fitted)

    def close(self) -> None:
        """Finish the file; if no picture was written, there is no file."""
        self._stack.close()

    def _due(self, time_s: float | None) -> int:
        """Return the number of frames to write for a picture."""
        assert self._sink is not None
        if self.rate:
            return 1
        if time_s is None:
            self._last, begins = None, self._sink.count
            self._length = begins / LIVE_RATE + 1 / STILLS
            return round(self._length * LIVE_RATE) - begins
        if self._last is not None:
            self._length += min(max(time_s - self._last, 0.0), LONGEST_GAP)
        self._last = time_s
        return max(0, round(self._length * LIVE_RATE) + 1 - self._sink.count)


def fit(picture: Picture, size: tuple[int, int]) -> Picture:
    """Return the picture scaled into (H, W), aspect ratio kept, centred on black."""
    if picture.shape[:2] == size:
        return picture
    scale = min(size[0] / picture.shape[0], size[1] / picture.shape[1])
    high, wide = (max(1, round(side * scale)) for side in picture.shape[:2])
    canvas = np.zeros((*size, 3), np.uint8)
    y, x = (size[0] - high) // 2, (size[1] - wide) // 2
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    canvas[y : y + high, x : x + wide] = cv2.resize(picture, (wide, high), interpolation=way)
    return canvas


def free_name(path: Path) -> Path:
    """Return the path, or, if it exists, the path with the first free number after its stem."""
    number, free = 0, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.stem}_{number}{path.suffix}")
    return free
