"""Videos with damaged places: reading goes on after frames that cannot be decoded."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterator

import cv2
import numpy as np

from nanogfl.errors import DataError
from nanogfl.pictures import Picture

log = logging.getLogger(__name__)
HIGHEST_RATE = 1000.0  # frames per second; a higher rate means a broken header (some give 90000)
# Failed reads in a row that end a video, whatever its header announces. Damage lasts until the next key frame, and
# encoders set one every 250 frames or sooner (x264, by default). At the end of a file, a failed read takes 10 us.
LONGEST_HOLE = 300


def readable(
    capture: cv2.VideoCapture, name: object, stop: threading.Event | None = None, silence_s: float = math.inf
) -> Iterator[tuple[int, Picture | None]]:
    """Yield (index in the video, picture) of each frame, with None for one that cannot be decoded; warn of these.

    A failed read is such a frame or the end. It is the end if the announced number of frames is reached, if
    ``LONGEST_HOLE`` reads in a row failed, or if reads failed for ``silence_s`` seconds. None is yielded only before a
    picture, so a file that is cut off ends with its last picture.

    Raises:
        DataError: no frame could be read.
    """
    announced = float(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    announced = announced if announced > 0 else math.inf  # not known
    stop, places = stop or threading.Event(), _Places(capture)
    read = due = failed = 0  # due: index of the next frame, if it can be read
    began = 0.0
    while failed < LONGEST_HOLE and not (failed and due + failed >= announced) and not stop.is_set():
        began = began if failed else time.perf_counter()
        ok, picture = capture.read()
        if not ok:
            failed += 1
            if time.perf_counter() - began >= silence_s:
                break
            continue
        index = places.index(due, failed)
        yield from ((lost, None) for lost in range(due, index))
        yield index, np.asarray(picture, np.uint8)
        read, due, failed = read + 1, index + 1, 0
    if stop.is_set():
        return
    if not read:
        raise DataError(f"no frame could be read from the video {name}; convert it to mp4 or omit it")
    _warn(name, read, due, announced)


class _Places:
    """Tells which frame of a video was read.

    Each failed read counts as a frame. Behind a hole, timestamps are more exact, because decoders also drop frames
    without a failed read (HEVC up to the next key frame) and fail some frames early (H.264 with reordering); they are
    used if all of those before the hole were those of a constant rate.
    """

    def __init__(self, capture: cv2.VideoCapture) -> None:
        rate = float(capture.get(cv2.CAP_PROP_FPS))
        self.capture, self.rate = capture, rate if 0 < rate <= HIGHEST_RATE else 0.0
        self.constant, self.holes = True, False

    def index(self, due: int, failed: int) -> int:
        """Return the index of the frame just read; ``failed`` reads after frame ``due - 1`` failed before it."""
        at = round(float(self.capture.get(cv2.CAP_PROP_POS_MSEC)) / 1000 * self.rate)
        self.holes = self.holes or failed > 0
        if not self.holes:
            self.constant = self.constant and at == due
        elif self.constant and max(due, 1) <= at < due + LONGEST_HOLE:  # 0: the backend gives no timestamps
            return at
        return due + failed


def _warn(name: object, read: int, due: int, announced: float) -> None:
    """Log a warning if frames before the last picture are lost, or if far fewer came than the header announces."""
    lost = due - read
    if due < 0.9 * announced < math.inf:  # counts in headers are estimates, but closer than this
        among = f", {lost} of which could not be read" if lost else ""
        log.warning(
            "%s ends after %d of %d frames%s; use a complete copy if there is one", name, due, int(announced), among
        )
    elif lost:
        total = due if announced == math.inf else max(due, int(announced))
        log.warning("%s: %d of %d frames could not be read; use an undamaged copy if there is one", name, lost, total)
