"""Atomic writing of mp4 videos: a file is created only if it is complete and can be read."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from nanogfl.errors import DataError, UsageError
from nanogfl.pictures import Picture
from nanogfl.runtime.frames import utf8


class VideoSink:
    """A writer of the frames of one video, created by :func:`write_video`."""

    def __init__(self, path: Path, fps: float, size: tuple[int, int]) -> None:
        self.path, self.size, self.count = path, size, 0
        height, width = size
        self._writer = cv2.VideoWriter(utf8(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, (width, height))
        if not self._writer.isOpened():
            raise DataError(
                f"cannot write the video {path}: {width} x {height} at {fps:g} fps was refused; "
                "check the size, rate and folder permissions"
            )

    def write(self, picture: Picture) -> None:
        """Append one frame, uint8 BGR [H, W, 3] of the video's size."""
        if picture.shape != (*self.size, 3) or picture.dtype != np.uint8:  # OpenCV would drop it silently
            raise ValueError(
                f"frame {picture.dtype} {picture.shape} does not match the video's uint8 {(*self.size, 3)}"
            )
        self._writer.write(np.ascontiguousarray(picture))
        self.count += 1

    def release(self) -> None:
        """Finish the file; a second call is a no-op."""
        self._writer.release()


@contextmanager
def write_video(path: str | Path, fps: float, size: tuple[int, int]) -> Iterator[VideoSink]:
    """Write an mp4 (MPEG-4 part 2) atomically.

    ``with write_video(path, 25, picture.shape[:2]) as video: video.write(picture)``

    Args:
        path: ends in ``.mp4``; parent folders are created.
        fps: frames per second.
        size: (height, width) of every frame; the codec crops an odd last row or column.

    Raises:
        UsageError: the path does not end in ``.mp4``, or the size or rate is invalid.
        DataError: the file cannot be written or finished, or no frame was written.
    """
    path = Path(path)
    if path.suffix.lower() != ".mp4":
        raise UsageError(f"cannot write a video as {path.name}: only mp4 is supported; use {path.stem}.mp4")
    if min(size) < 2 or not (0 < fps < math.inf):
        raise UsageError(f"cannot write {path.name}: {size[1]} x {size[0]} at {fps} fps is not a valid video")
    path.parent.mkdir(parents=True, exist_ok=True)
    place = path.resolve()  # a symbolic link is kept; its target is replaced
    partial = place.with_name(f"{place.stem}.partial.mp4")  # OpenCV chooses the container by the suffix
    try:
        sink = VideoSink(partial, fps, size)
        try:
            yield sink
        finally:
            sink.release()
        if not sink.count:
            raise DataError(f"the video {path} received no frames; check its source")
        if not _plays(partial):  # the writer does not report a full disk
            raise DataError(f"the video {path} could not be finished; is the disk full?")
        partial.replace(place)
    finally:
        partial.unlink(missing_ok=True)


def _plays(path: Path) -> bool:
    """Return whether the first frame can be read."""
    capture = cv2.VideoCapture(str(path))
    try:
        return capture.isOpened() and capture.read()[0]
    finally:
        capture.release()
