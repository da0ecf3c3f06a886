"""Live detection in a camera, a stream, a video or a folder: a window with keys, a recording, a record per frame."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nanogfl.detections import Detections, class_indices
from nanogfl.errors import UsageError
from nanogfl.pictures import Picture, write_picture
from nanogfl.runtime.capture import STILLS, Capture, Shot, Source, files_of
from nanogfl.runtime.draw import draw_panel
from nanogfl.runtime.frames import USUAL_RATE
from nanogfl.runtime.meter import STAGES, Meter, counts
from nanogfl.runtime.outputs import refuse_overwriting
from nanogfl.runtime.overlay import SCORE_KEYS, Overlay
from nanogfl.runtime.predict import NO_SIGMA, Predicts
from nanogfl.runtime.record import LONGEST_GAP, Recorder, free_name
from nanogfl.runtime.screen import QUIT, Screen
from nanogfl.runtime.track import FAINT, Tracker

log = logging.getLogger(__name__)
PATIENCE_S = 0.1  # between two checks for keys and Ctrl-C while no picture arrives
NOTICE_S = 3.0  # how long a notice stays on the screen
KEYS = "keys: q quit, space pause, s snapshot, r record, + - score; toggle: b boxes, l labels, u sigma, f figures"


class Webcam:
    """One run on one source.

    Args:
        predictor: from ``nanogfl.load``.
        source: from ``open_source``.
        screen: the window; None for no window.
        overlay: the initial display options.
        classes: only these classes; all if None.
        tracker: adds ids and smooths boxes; None for no tracking.
        record: ``.mp4`` file to record from the start.
        report: called with the record of each frame: ``{source, frame, time, width, height, detections, ms}``.
    """

    def __init__(
        self,
        predictor: Predicts,
        source: Source,
        *,
        screen: Screen | None = None,
        overlay: Overlay | None = None,
        classes: Sequence[str] | None = None,
        tracker: Tracker | None = None,
        record: Path | None = None,
        report: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        if classes is not None:
            class_indices(classes, predictor.names)
        self.predictor, self.source, self.screen, self.overlay = predictor, source, screen, overlay or Overlay()
        self.classes, self.tracker, self.record_path, self.report = classes, tracker, record, report
        self.meter, self.capture = Meter(), Capture(source)
        self.stopped = self._paused = False
        self._recorder: Recorder | None = None
        self._notice, self._notice_at = "", 0.0
        self._last: tuple[Shot, Detections, list[int] | None] | None = None
        self._drawn: Picture | None = None

    def stop(self) -> None:
        """End after the current frame; may be called from a signal handler."""
        self.stopped = True

    def run(self) -> dict[str, Any]:
        """Run until the source ends, ``q`` is pressed, or :meth:`stop` is called; return the statistics.

        Raises:
            DataError: the source cannot be opened, or was lost (the recording is kept).
            UsageError: the recording would replace the source, or the model lacks the sigma that is to be shown.
        """
        if self.screen:
            log.info(KEYS)
        if self.record_path:
            refuse_overwriting(files_of(self.source), [("--record", self.record_path)])
        try:
            with self.capture:
                self._loop(self.capture)
            return self.summary()
        finally:
            if self.screen:
                self.screen.close()
            if self._recorder:
                self._recorder.close()

    def summary(self) -> dict[str, Any]:
        """Return the statistics so far, also after an error."""
        return self.meter.summary() | {"skipped": self.capture.skipped}

    def _loop(self, capture: Capture) -> None:
        while not self.stopped:
            shot = None if self._paused else capture.take(PATIENCE_S / 2)
            if shot is not None:
                self._frame(shot)
            elif self.screen:
                self._press(self.screen.wait(PATIENCE_S))
            if not self._paused and capture.ended:
                return

    def _frame(self, shot: Shot) -> None:
        """Process one picture: detect, track, draw, record, report and show it."""
        began, before = time.perf_counter(), self._last
        self._begin(shot, before and before[0])
        found, ids = self._detect(shot, self.tracker)
        if ids is not None:
            self.meter.follow(np.array(ids, np.int64), found.boxes)
        if self.overlay.sigma and not self.meter.frames and found.side_sigma is None:
            raise UsageError(NO_SIGMA)
        self._last = (shot, found, ids)
        detected = time.perf_counter()
        if self.screen or self._recorder:
            self._drawn = self._draw(shot.picture, found, ids)
            if self._recorder:
                self._recorder.write(self._drawn, shot.time_s)
        done = time.perf_counter()
        times = (shot.read_ms, 1000 * (detected - began), 1000 * (done - detected))
        self.meter.add(found, times, 1000 * (done - shot.read_at))
        if self.report:
            self.report(record_of(shot, found if self.overlay.sigma else replace(found, side_sigma=None), ids, times))
        if self.screen and self._drawn is not None:
            left = self._length(shot, before and before[0]) - (time.perf_counter() - began)
            self._press(self.screen.show(self._drawn, max(0.0, left)))

    def _begin(self, shot: Shot, before: Shot | None) -> None:
        """Start the recording with the first picture; restart the tracker with the first picture of another video."""
        if before is None:
            if self.record_path and not self._recorder:  # only now is the source open and its rate known
                self._recorder = Recorder(self.record_path, self.source.rate)
        elif self.tracker and before.source != shot.source and (before.time_s, shot.time_s) != (None, None):
            self.tracker.restart()

    def _detect(self, shot: Shot, tracker: Tracker | None) -> tuple[Detections, list[int] | None]:
        """Return the detections of the chosen classes, and their ids if they are tracked."""
        score = self.overlay.score
        if tracker is None:
            return self.predictor.predict(shot.picture, score).of_classes(self.classes), None
        everything = self.predictor.predict(shot.picture, min(FAINT, score)).of_classes(self.classes)
        tracked = tracker.update(everything, shot.picture.shape[:2], score=score, time_s=shot.time_s)
        return tracked.detections, tracked.ids.tolist()

    def _draw(self, picture: Picture, found: Detections, ids: list[int] | None) -> Picture:
        drawn = self.overlay.draw(picture, found, ids)
        return draw_panel(drawn, self._lines(found)) if self.overlay.figures else drawn

    def _lines(self, found: Detections) -> list[str]:
        """Return the lines of the panel: speed, latencies, counts, and the effect of the last key."""
        spent = ", ".join(f"{stage} {self.meter.lately(stage):.1f}" for stage in STAGES)
        found_text = ", ".join(f"{count} {name}" for name, count in counts(found).items()) or "nothing"
        state = "paused" if self._paused else f"{self.meter.fps:.1f} fps"
        lines = [f"{state}, {spent} ms", f"{found_text} (score > {self.overlay.score:.2f})"]
        if self.screen and self._recorder:
            lines.append(f"recording {self._recorder.path.name}")
        if self._notice and time.perf_counter() - self._notice_at < NOTICE_S:
            lines.append(self._notice)
        return lines

    def _press(self, key: str) -> None:
        """Perform the action of a key, and show its effect on the screen."""
        if said := self.overlay.press(key):
            lacking = key == "u" and self._last and self._last[1].side_sigma is None
            self._say("this file has no sigma" if lacking else said)
        elif key in self._actions:
            self._actions[key]()
        if key and self._paused and self._last and self.screen:
            if key in SCORE_KEYS:  # detecting again in the same picture changes no track, and assigns no id
                shot, known = self._last[0], self.tracker.count if self.tracker else 0
                found, ids = self._detect(shot, deepcopy(self.tracker))
                self._last = shot, found, ids and [number if number <= known else 0 for number in ids]
            self._drawn = self._draw(self._last[0].picture, *self._last[1:])
            self.screen.show(self._drawn, 0.001)

    @property
    def _actions(self) -> dict[str, Callable[[], None]]:
        return {QUIT: self.stop, " ": self._pause, "p": self._pause, "s": self._snapshot, "r": self._record}

    def _pause(self) -> None:
        self._paused = not self._paused
        self._say("")

    def _snapshot(self) -> None:
        """Save the picture on the screen as a PNG in the working directory."""
        if self._drawn is not None:
            path = free_name(Path(time.strftime("snapshot-%Y%m%d-%H%M%S.png")))
            write_picture(path, self._drawn)
            self._say(f"saved {path}")

    def _record(self) -> None:
        """Start a recording, or finish the current one; a recording after --record OUT.mp4 is OUT_1.mp4."""
        if self._recorder:
            self._recorder.close()
            self._say(f"saved {self._recorder.path}")
            self._recorder = None
        else:
            path = free_name(self.record_path or Path(time.strftime("recording-%Y%m%d-%H%M%S.mp4")))
            self._recorder = Recorder(path, self.source.rate)
            self._say(f"recording {path}")

    def _say(self, text: str) -> None:
        self._notice, self._notice_at = text, time.perf_counter()
        if text.startswith("saved"):
            log.info(text)

    def _length(self, shot: Shot, before: Shot | None) -> float:
        """Return how many seconds to show a picture, so that files play at their own speed: as long as the last one."""
        if self.source.live:
            return 0.0
        if shot.time_s is None:
            return 1 / STILLS
        if before is None or before.source != shot.source or before.time_s is None:
            return 1 / (self.source.rate or USUAL_RATE)
        return min(shot.time_s - before.time_s, LONGEST_GAP)


def record_of(
    shot: Shot, found: Detections, ids: Sequence[int] | None, times_ms: tuple[float, float, float]
) -> dict[str, Any]:
    """Return the JSON-serialisable record of a frame; ``track`` is a detection's id, null before it has one."""
    height, width = shot.picture.shape[:2]
    detections = list(found.records())
    for detection, number in zip(detections, ids or (), strict=False):
        detection["track"] = number or None
    return {
        "source": shot.source,
        "frame": shot.index,
        "time": None if shot.time_s is None else round(shot.time_s, 3),
        "width": width,
        "height": height,
        "detections": detections,
        "ms": {stage: round(spent, 2) for stage, spent in zip(STAGES, times_ms, strict=True)},
    }
