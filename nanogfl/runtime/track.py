"""Tracking: detections are matched to boxes that move at constant velocity, and each side of a box is filtered.

Every side of a box has its own Kalman filter with position and velocity. If the model gives the deviation of each side
(``side_sigma``), it determines the measurement noise: precise sides are followed, uncertain sides are smoothed.
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
"""Minimum score of detections that continue a track, as in ByteTrack (Zhang et al., 2022, arXiv 2110.06864)."""

CONFIRMED = 3  # number of sightings after which an object gets its id
INSIDE = 0.7  # fraction of a box inside a better box of its class, above which it may be a part of the same object

ACCELERATION = 2.0  # box sides per second squared: a walking person stops within a few tenths of a second
SPEED = 2.0  # box sides per second: deviation of the unknown velocity of a new box
NOISE = 0.03  # box sides: deviation of a measured side if the model gives none
SHARE = 0.25  # fraction of side_sigma that is noise: most of a side's error stays the same from frame to frame
USUAL_STEP = 0.1  # seconds assumed between pictures without a time


@dataclass(frozen=True)
class Tracked:
    """The detections of one frame and their ids, int64 [N]: from 1, or 0 for objects not yet seen often enough."""

    detections: Detections
    ids: NDArray[np.int64]


class Tracker:
    """A tracker of boxes from frame to frame.

    Args:
        smooth: return filtered boxes instead of the detections' own.
        hold_s: seconds for which an unseen object keeps its id; it is always kept from one frame to the next.
        iou: minimum IoU of a detection with the predicted box, above 0.

    Raises:
        UsageError: ``hold_s`` or ``iou`` is out of range.
    """

    def __init__(self, *, smooth: bool = True, hold_s: float = 1.0, iou: float = 0.3) -> None:
        if not 0 <= hold_s < np.inf:
            raise UsageError(f"--hold {hold_s:g}: must be at least 0 seconds")
        if not 0 < iou <= 1:
            raise UsageError(f"iou {iou:g} of a tracker: must be above 0 and at most 1")
        self.smooth, self.hold_s, self.iou = smooth, hold_s, iou
        self.count = 0
        self._time: float | None = None
        self._ids, self._labels, self._sightings = np.zeros((3, 0), np.int64)
        self._seen = np.zeros(0)
        self._sides = _Filter.of(np.zeros((0, 4)), np.zeros((0, 4)))

    def update(
        self, found: Detections, size: tuple[int, int], *, score: float = 0.0, time_s: float | None = None
    ) -> Tracked:
        """Match one frame's detections to the tracks.

        Args:
            found: the detections, including those with low scores.
            size: (H, W) of the frame in px, to which filtered boxes are clipped.
            score: only detections with a score above this begin a track; the others may continue one.
            time_s: time of the frame in s. If it is less than before, boxes do not move; None adds a tenth of a second.

        Returns:
            The detections of tracked and new objects, best first.
        """
        before, now = self._time, self._now(time_s)
        self._drop_stale(now - self.hold_s if before is None else min(now - self.hold_s, before))
        detection, track = self._match(found, score)
        new = np.setdiff1d(np.flatnonzero(found.scores > score), detection)
        measured, noise = found.boxes.astype(np.float64), _noise(found)
        self._sides.correct(track, measured[detection], noise[detection])
        detection = np.concatenate([detection, new])
        track = np.concatenate([track, self._start_tracks(measured[new], noise[new], found.labels[new])])
        order = np.argsort(detection)
        detection, track = detection[order], track[order]
        kept = found.select(detection)
        self._seen[track] = now
        self._assign_ids(track[_stands_alone(kept)])
        if self.smooth:
            low, high = self._sides.at[track, :2], self._sides.at[track, 2:]  # separately filtered sides may cross
            sides = np.concatenate([np.minimum(low, high), np.maximum(low, high)], axis=1)
            boxes = box_math.clip(sides, *size).astype(np.float32)
            kept = replace(kept, boxes=boxes)
        return Tracked(kept, self._ids[track])

    def restart(self) -> None:
        """Drop all tracks, because the next frame is unrelated to the last one; ids continue to count up."""
        self._drop_stale(np.inf)
        self._time = None

    def _now(self, time_s: float | None) -> float:
        """Advance the tracked boxes to the frame's time; return this time."""
        before = self._time
        now = time_s if time_s is not None else USUAL_STEP + (0 if before is None else before)
        if before is not None:
            self._sides.predict(max(now - before, 0.0))
        self._time = now
        return now

    def _drop_stale(self, since: float) -> None:
        """Drop the tracks that were last seen before this time."""
        keep = self._seen >= since - 1e-9
        self._ids, self._labels, self._sightings = self._ids[keep], self._labels[keep], self._sightings[keep]
        self._seen, self._sides = self._seen[keep], self._sides.select(keep)

    def _start_tracks(self, boxes: Array, noise: Array, labels: NDArray[np.int64]) -> NDArray[np.intp]:
        """Start tracks for new boxes; return their indices."""
        nothing = np.zeros(len(boxes), np.int64)
        self._ids, self._sightings = np.append(self._ids, nothing), np.append(self._sightings, nothing)
        self._labels, self._seen = np.append(self._labels, labels), np.append(self._seen, nothing)
        self._sides = self._sides.join(_Filter.of(boxes, noise))
        return np.arange(len(self._ids) - len(boxes), len(self._ids))

    def _assign_ids(self, track: NDArray[np.intp]) -> None:
        """Count a sighting of these tracks, and assign the next ids to those seen often enough."""
        self._sightings[track] += 1
        ready = track[(self._sightings[track] >= CONFIRMED) & (self._ids[track] == 0)]
        self._ids[ready] = self.count + 1 + np.arange(len(ready))
        self.count += len(ready)

    def _match(self, found: Detections, score: float) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Match by IoU, greedily, detections above ``score`` first; return indices of detections and of tracks."""
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
    """Kalman filters (constant velocity), one for every side of T boxes; all arrays [T, 4], in px and seconds.

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
        """Return filters for new boxes; ``noise`` is the deviation of their sides."""
        zero = np.zeros_like(boxes)
        return cls(boxes.copy(), zero, noise**2, zero.copy(), (SPEED * _lengths(boxes)) ** 2)

    def select(self, keep: NDArray[np.bool_]) -> _Filter:
        return _Filter(self.at[keep], self.speed[keep], self.var[keep], self.cov[keep], self.speed_var[keep])

    def join(self, other: _Filter) -> _Filter:
        pairs = ((getattr(self, name), getattr(other, name)) for name in self.__dataclass_fields__)
        return _Filter(*(np.concatenate(pair) for pair in pairs))

    def predict(self, dt: float) -> None:
        """Advance the positions and the covariances of the sides by ``dt`` seconds."""
        push = (ACCELERATION * _lengths(self.at)) ** 2
        self.at = self.at + self.speed * dt
        self.var = self.var + 2 * dt * self.cov + dt**2 * self.speed_var + push * dt**4 / 4
        self.cov = self.cov + dt * self.speed_var + push * dt**3 / 2
        self.speed_var = self.speed_var + push * dt**2

    def correct(self, rows: NDArray[np.intp], measured: Array, noise: Array) -> None:
        """Update these rows with measured boxes; ``noise`` is the deviation of the measured sides."""
        total = self.var[rows] + noise**2
        gain, speed_gain = self.var[rows] / total, self.cov[rows] / total
        surprise = measured - self.at[rows]
        self.at[rows] += gain * surprise
        self.speed[rows] += speed_gain * surprise
        self.speed_var[rows] -= speed_gain * self.cov[rows]
        self.cov[rows] *= 1 - gain
        self.var[rows] *= 1 - gain


def _stands_alone(found: Detections) -> NDArray[np.bool_]:
    """Return which detections, best first, are not largely inside a better one of their class: [N]."""
    part = box_math.coverage(found.boxes, found.boxes)
    rival = np.tri(len(found), k=-1, dtype=bool) & (found.labels[:, None] == found.labels[None])
    return ~((part > INSIDE) & rival).any(axis=1)


def _noise(found: Detections) -> Array:
    """Return the deviation of each measured side in px, [N, 4]; at least half a pixel."""
    if found.side_sigma is not None:
        return np.maximum(SHARE * found.side_sigma, 0.5).astype(np.float64)
    return np.maximum(NOISE * _lengths(found.boxes.astype(np.float64)), 0.5)


def _lengths(boxes: Array) -> Array:
    """Return the extent of each box along each side's axis in px, [N, 4]; at least 1."""
    width, height = (boxes[:, 2:] - boxes[:, :2]).clip(1).T
    return np.stack([width, height, width, height], axis=1)
