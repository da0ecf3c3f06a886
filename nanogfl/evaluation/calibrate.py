"""Calibration of sigma, the predicted deviation of a box side: rank correlation with the error, a table, one factor.

The errors of matched boxes have far longer tails than a normal or a Laplace distribution, so a maximum-likelihood fit
would be dominated by the few worst boxes. The factor is a percentile instead: with it, 68.3 % of the sides (as in a
normal distribution) lie within one sigma of the label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nanogfl.data.table import Table
from nanogfl.detections import Detections
from nanogfl.evaluation.matching import CORRECT, match

WITHIN_ONE = 0.6827  # fractions of a normal distribution within one and two standard deviations
WITHIN_TWO = 0.9545
SHOWN_SCORE = 0.3  # only boxes above it are usually shown, so only their sides count
BORDER_PX = 1.0  # a side that was clipped to the border is exact there, whatever its sigma
LEAST_SIDES = 200  # minimum number to fit a factor
LEAST_SIGMA = 1e-3  # px
BINS = 10


@dataclass(frozen=True)
class Sides:
    """Sides of matched boxes: float64 [N] each, in px.

    Attributes:
        sigma: predicted deviation.
        error: distance from the side of the label.
    """

    sigma: NDArray[np.float64]
    error: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.sigma)


@dataclass(frozen=True)
class Bin:
    """Statistics of sides with similar sigma, in px.

    Attributes:
        sides: number of sides.
        sigma: their mean sigma.
        error: their mean error.
        spread: error that 68.3 % of them do not exceed, to be compared with sigma.
        within_one, within_two: fraction of them whose error is within one sigma, and within two.
    """

    sides: int
    sigma: float
    error: float
    spread: float
    within_one: float
    within_two: float


@dataclass(frozen=True)
class Reliability:
    """How well sigma predicts the error.

    Attributes:
        spearman: rank correlation of sigma and error.
        whole: all sides as one bin.
        bins: bins by sigma, with equal numbers of sides.
        factor: factor by which sigma should still be multiplied; 1 if it is calibrated.
    """

    spearman: float
    whole: Bin
    bins: tuple[Bin, ...]
    factor: float


def matched_sides(table: Table, detections: Sequence[Detections]) -> Sides:
    """Return the sides of boxes above SHOWN_SCORE that match a label at IoU 0.5, except sides on the picture border."""
    sigmas, errors = [np.zeros(0)], [np.zeros(0)]
    for example, given in zip(table.examples, detections, strict=True):
        if given.side_sigma is None:
            continue
        shown = given.select(given.scores > SHOWN_SCORE)
        matched = match(example, shown)
        right = np.flatnonzero(matched.kinds == CORRECT)
        boxes = shown.boxes[right].astype(np.float64)
        border = np.array([0, 0, example.width, example.height])
        free = np.abs(boxes - border) > BORDER_PX
        assert shown.side_sigma is not None
        sigmas.append(shown.side_sigma[right][free].astype(np.float64))
        errors.append(np.abs(boxes - example.boxes[matched.truths[right]])[free])
    sigma, error = np.concatenate(sigmas), np.concatenate(errors)
    usable = np.isfinite(sigma) & np.isfinite(error)
    return Sides(sigma[usable].clip(LEAST_SIGMA), error[usable])


def fit_temperature(sides: Sides) -> float:
    """Return the factor on sigma that puts 68.3 % of the errors within it; 1 if there are too few sides."""
    if len(sides) < LEAST_SIDES:
        return 1.0
    factor = float(np.quantile(sides.error / sides.sigma, WITHIN_ONE))
    return factor if factor > 0 else 1.0


def reliability(sides: Sides) -> Reliability | None:
    """Return the table for the report; None if there are too few sides."""
    if len(sides) < LEAST_SIDES:
        return None
    order = np.argsort(sides.sigma, kind="stable")
    bins = tuple(_bin(sides, part) for part in np.array_split(order, BINS))
    return Reliability(spearman(sides.sigma, sides.error), _bin(sides, order), bins, fit_temperature(sides))


def _bin(sides: Sides, rows: NDArray[np.intp]) -> Bin:
    sigma, error = sides.sigma[rows], sides.error[rows]
    ratio = error / sigma
    return Bin(
        len(rows),
        float(sigma.mean()),
        float(error.mean()),
        float(np.quantile(error, WITHIN_ONE)),
        float((ratio <= 1).mean()),
        float((ratio <= 2).mean()),
    )


def spearman(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Return the rank correlation, -1 to 1; equal values share their mean rank; 0 if one input is constant."""
    first, second = _ranks(a), _ranks(b)
    if len(a) < 2 or not first.std() or not second.std():
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


def _ranks(values: NDArray[np.floating]) -> NDArray[np.float64]:
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    last = count.cumsum()
    return (last - (count - 1) / 2)[place]
