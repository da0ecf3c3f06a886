"""Matching of two models' boxes, and the reasons why equal models may still have a box on one side only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nanogfl.boxes import iou
from nanogfl.decode import Thresholds
from nanogfl.detections import Detections

Box = tuple[int, int]  # side (0 or 1), and index of a box of that side
Raw = tuple[NDArray[np.float32], NDArray[np.float32]]  # final scores of every prior, and side logits


@dataclass(frozen=True)
class Kept:
    """The origin of the boxes of one side.

    Attributes:
        priors: rows of the raw output [N].
        boxes: boxes [N, 4] as NMS compared them: in px of the network's input, clipped to it but not to the picture.
        deviations: standard deviations of their sides [N, 4], in px of the picture.
    """

    priors: NDArray[np.intp]
    boxes: NDArray[np.float32]
    deviations: NDArray[np.float32]


def same_prior(kept: tuple[Kept, Kept]) -> NDArray[np.bool_]:
    """Return which pairs of boxes of the two sides, [N, M], come from the same prior."""
    return np.equal(kept[0].priors[:, None], kept[1].priors[None])


def same_position(kept: tuple[Kept, Kept], px: float) -> NDArray[np.bool_]:
    """Return which pairs of boxes of the two sides, [N, M], are at most ``px`` apart in the network's input."""
    return np.abs(kept[0].boxes[:, None] - kept[1].boxes[None]).max(axis=2, initial=0) <= px


def raw_difference(a: Raw, b: Raw) -> float:
    """Return the largest difference of any score, or of any side logit divided by ten; infinity if one is NaN."""
    scores, sides = (largest(x - y) for x, y in zip(a, b, strict=True))
    return max(scores, sides / 10)


def largest(differences: NDArray[np.float32]) -> float:
    """Return the largest magnitude; infinity if one is NaN, since comparisons with NaN are false."""
    found = float(np.abs(differences).max(initial=0))
    return found if np.isfinite(found) else float("inf")


def assign_partners(
    partner: NDArray[np.intp], a: Detections, b: Detections, same: NDArray[np.bool_]
) -> NDArray[np.intp]:
    """Assign to each box of ``a`` without a partner (-1) the free box of ``b`` nearest to it in position and score.

    Args:
        partner: indices into ``b`` assigned so far, [N].
        a: N boxes.
        b: M boxes.
        same: which pairs may be partners, [N, M].
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
    """Return which pairs [N, M] have one class and differ by at most ``px`` [N, 4] and ``score``, even without area."""
    near = (np.abs(a.boxes[:, None] - b.boxes[None]) <= px[:, None]).all(axis=2)
    return _of_one_class(a, b) & near & (np.abs(a.scores[:, None] - b.scores[None]) <= score)


def alike(a: Detections, b: Detections) -> NDArray[np.bool_]:
    """Return which pairs of boxes [N, M] have the same class and an IoU of at least 0.5."""
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
    """Return the boxes on one side only that are explained by near ties of non-maximum suppression (NMS).

    A box is missing on a side because a rival suppressed it there: a box that overlaps it and has no lower score. The
    rival did not suppress it on the other side for one of three reasons: the overlap is close to the threshold, the
    scores are so close that their order changed, or the rival itself is on one side only for one of these reasons. A
    box that both sides kept without a match is never explained: the two sides put it at different positions.

    Args:
        both: the boxes of each side.
        partner: index of the matching box of the second side for each box of the first, or -1.
        kept: the origin of the boxes of each side.
        limits: thresholds of both sides.
        tie: difference up to which two scores are nearly equal.
        slack: difference up to which an overlap is nearly equal to the threshold.
    """
    back = np.full(len(both[1]), -1, np.intp)
    back[partner[partner >= 0]] = np.flatnonzero(partner >= 0)
    of = (partner, back)
    overlaps = [[iou(x.boxes, y.boxes) for y in kept] for x in kept]
    twice = _same_candidate(both, kept)
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
            if here >= 0:  # the rival also exists on this side
                near |= abs(overlaps[side][side][i, here] - limits.iou) <= slack
            if turned or near or (here < 0 and (1 - side, rival) in reasons):
                reasons.add((side, i))
    return reasons


def cut_off(both: tuple[Detections, Detections], kept: tuple[Kept, Kept], floor: float) -> set[Box]:
    """Return the boxes on one side only whose scores are at most ``floor``, where rounding decides which ones are kept.

    They have no counterpart, and boxes of other priors near them are not to be compared with them.
    """
    twice = _same_candidate(both, kept)
    return {
        (side, int(i))
        for side, found in enumerate(both)
        for i in np.flatnonzero((found.scores <= floor) & ~twice.any(axis=1 - side))
    }


def _same_candidate(both: tuple[Detections, Detections], kept: tuple[Kept, Kept]) -> NDArray[np.bool_]:
    """Return which pairs of boxes of the two sides, [N, M], come from the same prior and have the same class."""
    return same_prior(kept) & _of_one_class(*both)
