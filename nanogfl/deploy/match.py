"""Which boxes of two models are the same, and why a box may be there on one side only although the models are equal."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nanogfl.boxes import iou
from nanogfl.decode import Thresholds
from nanogfl.detections import Detections

Box = tuple[int, int]  # side (0 or 1) and index there
Raw = tuple[NDArray[np.float32], NDArray[np.float32]]  # final scores of every prior, and side logits


@dataclass(frozen=True)
class Kept:
    """Where the boxes of one side come from.

    Attributes:
        priors: [N], row of the raw output.
        boxes: [N, 4] in px of the network's input, where they were suppressed; those of a frame are cut to it.
        deviations: [N, 4] of their sides, in px of the picture.
    """

    priors: NDArray[np.intp]
    boxes: NDArray[np.float32]
    deviations: NDArray[np.float32]


def one_prior(kept: tuple[Kept, Kept]) -> NDArray[np.bool_]:
    """Which boxes of two sides [N, M] come from the same row."""
    return np.equal(kept[0].priors[:, None], kept[1].priors[None])


def one_place(kept: tuple[Kept, Kept], px: float) -> NDArray[np.bool_]:
    """Which boxes of two sides [N, M] are at most so many px of the input apart."""
    return np.abs(kept[0].boxes[:, None] - kept[1].boxes[None]).max(axis=2, initial=0) <= px


def raw_difference(a: Raw, b: Raw) -> float:
    """Largest difference of any score, or of any side logit over ten; infinite where one is no number."""
    scores, sides = (largest(x - y) for x, y in zip(a, b, strict=True))
    return max(scores, sides / 10)


def largest(differences: NDArray[np.float32]) -> float:
    """Largest magnitude; infinite where one is no number, which compares as if it were small."""
    found = float(np.abs(differences).max(initial=0))
    return found if np.isfinite(found) else float("inf")


def more_partners(partner: NDArray[np.intp], a: Detections, b: Detections, same: NDArray[np.bool_]) -> NDArray[np.intp]:
    """For each box of ``a`` without a partner (-1) the nearest in place and score of those free in ``b``.

    Args:
        partner: [N], indices into ``b`` so far.
        a: N boxes.
        b: M boxes.
        same: [N, M], which may be partners.
    """
    distance = np.abs(a.boxes[:, None] - b.boxes[None]).max(axis=2, initial=0)
    cost = np.where(same, distance + 100 * np.abs(a.scores[:, None] - b.scores[None]), np.inf)
    cost[:, partner[partner >= 0]] = np.inf
    found = partner.copy()
    for i in np.flatnonzero(partner < 0).tolist():  # best scores first
        if len(b) and np.isfinite(cost[i].min()):
            found[i] = cost[i].argmin()
            cost[:, found[i]] = np.inf
    return found


def equal(a: Detections, b: Detections, px: NDArray[np.float32], score: float) -> NDArray[np.bool_]:
    """Which boxes of two sides [N, M] are of one class, at most ``px`` [N, 4] and ``score`` apart, area or not."""
    near = (np.abs(a.boxes[:, None] - b.boxes[None]) <= px[:, None]).all(axis=2)
    return _of_one_class(a, b) & near & (np.abs(a.scores[:, None] - b.scores[None]) <= score)


def alike(a: Detections, b: Detections) -> NDArray[np.bool_]:
    """Which boxes of two sides [N, M] are of one class and overlap by half."""
    return _of_one_class(a, b) & (iou(a.boxes, b.boxes) >= 0.5)


def _of_one_class(a: Detections, b: Detections) -> NDArray[np.bool_]:
    return a.labels[:, None] == b.labels[None]


def explained(
    both: tuple[Detections, Detections],
    partner: NDArray[np.intp],
    kept: tuple[Kept, Kept],
    limits: Thresholds,
    tie: float,
    slack: float,
) -> set[Box]:
    """The boxes on one side only that near ties of non-maximum suppression explain.

    Where a box is missing, another one suppressed it there: a rival that overlaps it and is not worse. Here the same
    rival did not; that takes an overlap at the threshold, or two scores so near that the order turned, or a rival that
    is itself here or there only, for such a reason. A box that both sides kept is never explained: they put it at
    different places.

    Args:
        both: the boxes of either side.
        partner: for each box of the first side its equal in the second, or -1.
        kept: where they come from.
        limits: of both sides.
        tie: how far apart two scores may be that are nearly equal.
        slack: the same of an overlap and its threshold.
    """
    back = np.full(len(both[1]), -1, np.intp)
    back[partner[partner >= 0]] = np.flatnonzero(partner >= 0)
    of = (partner, back)
    overlaps = [[iou(x.boxes, y.boxes) for y in kept] for x in kept]
    twice = one_prior(kept) & _of_one_class(*both)
    alone = [(0, int(i)) for i in np.flatnonzero((partner < 0) & ~twice.any(axis=1))]
    alone += [(1, int(i)) for i in np.flatnonzero((back < 0) & ~twice.any(axis=0))]
    reasons: set[Box] = set()
    for side, i in sorted(alone, key=lambda box: -float(both[box[0]].scores[box[1]])):
        own, other = both[side], both[1 - side]
        overlap = overlaps[side][1 - side][i]
        rivals = (other.labels == own.labels[i]) & (overlap > limits.iou - slack)
        rivals &= other.scores >= own.scores[i] - tie
        for rival in np.flatnonzero(rivals).tolist():
            here = int(of[1 - side][rival])
            turned = abs(float(other.scores[rival] - own.scores[i])) <= tie
            near = abs(overlap[rival] - limits.iou) <= slack
            if here >= 0:  # the rival is on this side too
                near |= abs(overlaps[side][side][i, here] - limits.iou) <= slack
            if turned or near or (here < 0 and (1 - side, rival) in reasons):
                reasons.add((side, i))
    return reasons
