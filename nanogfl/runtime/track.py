"""Ids and steady boxes over time: detections are matched to boxes in constant motion, and each side is filtered.

Every side of a box has its own Kalman filter with position and velocity. Where the model says how sure it is of a side
(``side_sigma``), that is the filter's measurement noise: a sure side is followed, a vague one is smoothed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nanogfl import boxes as box_math
from nanogfl.detections import Detections
from nanogfl.errors import UsageError

Array = NDArray[np.float64]
FAINT = 0.1
"""Detections from this score on continue what is tracked, as ByteTrack does (Zhang et al., 2022, arXiv 2110.06864)."""

CONFIRMED = 3  # sightings after which an object gets its id
INSIDE = 0.7  # of a box inside a clearer one of its class: perhaps a part of the same object

ACCELERATION = 2.0  # box sides a second squared: a walking person stops within a few tenths of a second
SPEED = 2.0  # box sides a second: deviation of the unknown velocity of a box just seen
NOISE = 0.03  # of the box' side: deviation of a measured side where the model does not say
SHARE = 0.25  # of side_sigma: it tells how far off a side may be, of which most stays the same from frame to frame
USUAL_STEP = 0.1  # seconds between pictures that have no time


@dataclass(frozen=True)
class Tracked:
    """Detections of one frame with their ids, int64 [N]: from 1, or 0 for what was not seen often enough."""

    detections: Detections
    ids: NDArray[np.int64]


class Tracker:
    """Follows boxes from frame to frame.

    Args:
        smooth: give filtered boxes; else the detections' own.
        hold_s: how many seconds an unseen object keeps its id; from one frame to the next it always does.
        iou: least overlap of a box with where it was expected, above 0.

    Raises:
        UsageError: one of these numbers cannot be.
    """

    def __init__(self, *, smooth: bool = True, hold_s: float = 1.0, iou: float = 0.3) -> None:
        if not 0 <= hold_s < np.inf:
            raise UsageError(f"--hold {hold_s:g}: give seconds, 0 or more")
        if not 0 < iou <= 1:
            raise UsageError(f"a tracker with iou {iou:g}: give an overlap above 0, up to 1")
        self.smooth, self.hold_s, self.iou = smooth, hold_s, iou
        self.count = 0
        self._time: float | None = None
        self._ids, self._labels, self._sightings = np.zeros((3, 0), np.int64)
        self._seen = np.zeros(0)
        self._sides = _Filter.of(np.zeros((0, 4)), np.zeros((0, 4)))

    def update(
        self, found: Detections, size: tuple[int, int], *, score: float = 0.0, time_s: float | None = None
    ) -> Tracked:
        """Match one frame's detections.

        Args:
            found: the detections, faint ones included.
            size: (H, W) of the frame in px, to which filtered boxes are cut.
            score: lowest score that begins a track; fainter detections only continue one.
            time_s: of the frame in seconds, less than before counts as the same; None counts on by a tenth of a second.

        Returns:
            What was found of the tracked and the new objects, best first.
        """
        before, now = self._time, self._now(time_s)
        self._forget(now - self.hold_s if before is None else min(now - self.hold_s, before))
        detection, track = self._match(found, score)
        new = np.setdiff1d(np.flatnonzero(found.scores > score), detection)
        measured, noise = found.boxes.astype(np.float64), _noise(found)
        self._sides.correct(track, measured[detection], noise[detection])
        detection = np.concatenate([detection, new])
        track = np.concatenate([track, self._begin(measured[new], noise[new], found.labels[new])])
        order = np.argsort(detection)
        detection, track = detection[order], track[order]
        kept = found.select(detection)
        self._seen[track] = now
        self._name(track[_stands_alone(kept)])
        if self.smooth:
            low, high = self._sides.at[track, :2], self._sides.at[track, 2:]  # filtered alone, they may have crossed
            sides = np.concatenate([np.minimum(low, high), np.maximum(low, high)], axis=1)
            boxes = box_math.clip(sides, *size).astype(np.float32)
            kept = replace(kept, boxes=boxes)
        return Tracked(kept, self._ids[track])

    def restart(self) -> None:
        """Forget what is tracked: what comes is of another time and place. Numbers go on."""
        self._forget(np.inf)
        self._time = None

    def _now(self, time_s: float | None) -> float:
        """Move on to the frame's time; boxes move along."""
        before = self._time
        now = time_s if time_s is not None else USUAL_STEP + (0 if before is None else before)
        if before is not None:
            self._sides.predict(max(now - before, 0.0))
        self._time = now
        return now

    def _forget(self, since: float) -> None:
        """Drop what was not seen since that time."""
        keep = self._seen >= since - 1e-9
        self._ids, self._labels, self._sightings = self._ids[keep], self._labels[keep], self._sightings[keep]
        self._seen, self._sides = self._seen[keep], self._sides.select(keep)

    def _begin(self, boxes: Array, noise: Array, labels: NDArray[np.int64]) -> NDArray[np.intp]:
        """Start to follow new boxes; their places."""
        nothing = np.zeros(len(boxes), np.int64)
        self._ids, self._sightings = np.append(self._ids, nothing), np.append(self._sightings, nothing)
        self._labels, self._seen = np.append(self._labels, labels), np.append(self._seen, nothing)
        self._sides = self._sides.join(_Filter.of(boxes, noise))
        return np.arange(len(self._ids) - len(boxes), len(self._ids))

    def _name(self, track: NDArray[np.intp]) -> None:
        """Count a sighting of these, and give the next ids to those that were seen often enough."""
        self._sightings[track] += 1
        ready = track[(self._sightings[track] >= CONFIRMED) & (self._ids[track] == 0)]
        self._ids[ready] = self.count + 1 + np.arange(len(ready))
        self.count += len(ready)

    def _match(self, found: Detections, score: float) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Pairs of detection and track: the clear detections first, then the faint ones; the nearest pairs first."""
        overlap = box_math.iou(found.boxes.astype(np.float64), self._sides.at)
        overlap[found.labels[:, None] != self._labels[None]] = 0
        pairs: list[tuple[int, int]] = []
        for sure in (True, False):
            part = np.where((found.scores > score)[:, None] == sure, overlap, 0)
            while part.size and part.max() >= self.iou:
                row, column = np.unravel_index(part.argmax(), part.shape)
                pairs.append((int(row), int(column)))
                part[row] = part[:, column] = 0
                overlap[:, column] = 0
        detection, track = np.array(pairs, np.intp).reshape(-1, 2).T
        return detection, track


@dataclass
class _Filter:
    """A Kalman filter (constant velocity) for every side of T boxes; all arrays [T, 4], px and seconds.

    Attributes:
        at, speed: position and velocity.
        var, cov, speed_var: variance of the position, its covariance with the velocity, variance of the velocity.
    """

    at: Array
    speed: Array
    var: Array
    cov: Array
    speed_var: Array

    @classmethod
    def of(cls, boxes: Array, noise: Array) -> _Filter:
        """Filters of boxes seen for the first time; ``noise`` is the deviation of their sides."""
        zero = np.zeros_like(boxes)
        return cls(boxes.copy(), zero, noise**2, zero.copy(), (SPEED * _lengths(boxes)) ** 2)

    def select(self, keep: NDArray[np.bool_]) -> _Filter:
        return _Filter(self.at[keep], self.speed[keep], self.var[keep], self.cov[keep], self.speed_var[keep])

    def join(self, other: _Filter) -> _Filter:
        pairs = ((getattr(self, name), getattr(other, name)) for name in self.__dataclass_fields__)
        return _Filter(*(np.concatenate(pair) for pair in pairs))

    def predict(self, dt: float) -> None:
        """Where the sides are ``dt`` seconds later, and how much less is known of them."""
        push = (ACCELERATION * _lengths(self.at)) ** 2
        self.at = self.at + self.speed * dt
        self.var = self.var + 2 * dt * self.cov + dt**2 * self.speed_var + push * dt**4 / 4
        self.cov = self.cov + dt * self.speed_var + push * dt**3 / 2
        self.speed_var = self.speed_var + push * dt**2

    def correct(self, rows: NDArray[np.intp], measured: Array, noise: Array) -> None:
        """Take in the measured boxes of these rows."""
        total = self.var[rows] + noise**2
        gain, speed_gain = self.var[rows] / total, self.cov[rows] / total
        surprise = measured - self.at[rows]
        self.at[rows] += gain * surprise
        self.speed[rows] += speed_gain * surprise
        self.speed_var[rows] -= speed_gain * self.cov[rows]
        self.cov[rows] *= 1 - gain
        self.var[rows] *= 1 - gain


def _stands_alone(found: Detections) -> NDArray[np.bool_]:
    """Which detections, best first, are not largely inside a better one of their class: [N]."""
    part = box_math.coverage(found.boxes, found.boxes)
    rival = np.tri(len(found), k=-1, dtype=bool) & (found.labels[:, None] == found.labels[None])
    return ~((part > INSIDE) & rival).any(axis=1)


def _noise(found: Detections) -> Array:
    """Deviation of each measured side in px, [N, 4]; at least half a pixel."""
    if found.side_sigma is not None:
        return np.maximum(SHARE * found.side_sigma, 0.5).astype(np.float64)
    return np.maximum(NOISE * _lengths(found.boxes.astype(np.float64)), 0.5)


def _lengths(boxes: Array) -> Array:
    """The box' extent along each side's axis in px, [N, 4]; at least 1."""
    width, height = (boxes[:, 2:] - boxes[:, :2]).clip(1).T
    return np.stack([width, height, width, height], axis=1)
