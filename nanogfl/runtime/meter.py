"""Statistics of a run on a video or a camera: frame rate, latency of each stage, detections, jitter of the boxes.

Memory is bounded: only the last thousand times, and the tracked boxes of the last two frames, are kept.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanogfl.detections import Detections

STAGES = ("capture", "inference", "drawing")
KEPT = 1000  # times that are kept for each stage
SHOWN = 30  # latest times that are averaged for the screen

Seen = dict[int, tuple[NDArray[np.float32], NDArray[np.float32] | None]]


class Meter:
    """A collector of measurements of each frame, which :meth:`summary` evaluates."""

    def __init__(self) -> None:
        self.frames, self.any = 0, 0
        self.frames_with: Counter[str] = Counter()
        self.ids: int | None = None
        self._stages = {stage: deque[float](maxlen=KEPT) for stage in STAGES}
        self._delays = deque[float](maxlen=KEPT)
        self._ends = deque[float](maxlen=SHOWN)
        self._began = time.perf_counter()
        self._last: Seen = {}  # by id: box in the last frame, and in the frame before it
        self._bends, self._bent = 0.0, 0

    def add(self, found: Detections, times_ms: Sequence[float], delay_ms: float) -> None:
        """Add one frame: its detections, the time of each stage, and the delay from capture to end, both in ms."""
        self.frames += 1
        classes = counts(found)
        self.any += bool(classes)
        self.frames_with.update(classes.keys())
        for stage, spent in zip(STAGES, times_ms, strict=True):
            self._stages[stage].append(spent)
        self._delays.append(delay_ms)
        self._ends.append(time.perf_counter())

    def follow(self, ids: NDArray[np.int64], boxes: NDArray[np.float32]) -> None:
        """Add the tracked boxes of a frame; jitter is the mean second difference of their sides in px."""
        self.ids = max(self.ids or 0, int(ids.max(initial=0)))
        now: Seen = {}
        for number, box in zip(ids.tolist(), boxes, strict=True):
            last, before = self._last.get(number, (None, None))
            if number and last is not None and before is not None:
                self._bends += float(np.abs(box - 2 * last + before).mean())
                self._bent += 1
            now[number] = (box, last)
        self._last = now

    @property
    def fps(self) -> float:
        """Frames per second over the latest frames; 0 before the second frame."""
        span = self._ends[-1] - self._ends[0] if len(self._ends) > 1 else 0.0
        return (len(self._ends) - 1) / span if span > 0 else 0.0

    def lately(self, stage: str) -> float:
        """Return the mean time of a stage over the latest frames, in ms."""
        last = list(self._stages[stage])[-SHOWN:]
        return sum(last) / len(last) if last else 0.0

    def summary(self) -> dict[str, Any]:
        """Return the statistics, JSON-serialisable; times are those of the last thousand frames."""
        seconds = time.perf_counter() - self._began
        figures: dict[str, Any] = {
            "frames": self.frames,
            "frames_with_objects": self.any,
            "frames_with": dict(self.frames_with.most_common()),
            "seconds": round(seconds, 2),
            "fps": round(self.frames / seconds, 2) if seconds else 0.0,
            "ms": {stage: _quantiles(spent) for stage, spent in self._stages.items()},
            "delay_ms": _quantiles(self._delays),
        }
        if self.ids is not None:
            figures |= {"ids": self.ids, "jitter_px": round(self._bends / max(self._bent, 1), 3)}
        return figures


def counts(found: Detections) -> Counter[str]:
    """Return the number of detections per class, in the order of the detections."""
    return Counter(found.names[label] for label in found.labels)


def _quantiles(values: Iterable[float]) -> dict[str, float]:
    kept = list(values) or [0.0]
    return {name: round(float(np.quantile(kept, q)), 2) for name, q in (("p50", 0.5), ("p90", 0.9))}
