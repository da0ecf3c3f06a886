"""Mistakes of a model on a set: kinds of errors and their costs, confusions, precision over recall, counts per picture.

All of these are computed from the set's pool of matched detections.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nanogfl.evaluation.matching import BACKGROUND, BOTH, CLASS, CORRECT, DUPLICATE, IGNORED, KINDS, LOCALIZATION, Pool

RECALLS = np.linspace(0, 1, 101)  # recall values at which COCO reads precision
MISSED = "missed"


@dataclass(frozen=True)
class Curve:
    """Precision over recall of one class, or of several together: [N] each, by descending score.

    Attributes:
        scores: scores of the detections.
        precision, recall: of all detections down to and including each.
    """

    scores: NDArray[np.float64]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]

    @property
    def f1(self) -> NDArray[np.float64]:
        """Harmonic mean of precision and recall: [N]."""
        total = self.precision + self.recall
        return np.divide(2 * self.precision * self.recall, total, out=np.zeros_like(total), where=total > 0)

    @property
    def best_score(self) -> float:
        """The score threshold with the highest F1; 1 if there is no detection."""
        return float(self.scores[self.f1.argmax()]) if len(self.scores) else 1.0

    def at_recalls(self) -> NDArray[np.float64]:
        """Return the highest precision at each recall of RECALLS or beyond, as COCO reads it: [101]."""
        best = np.maximum.accumulate(self.precision[::-1])[::-1]
        return np.append(best, 0.0)[np.searchsorted(self.recall, RECALLS)]


def curve(scores: NDArray[np.float64], hits: NDArray[np.bool_], labels: int) -> Curve:
    """Return the curve of detections by descending score, whose ``hits`` each found one of ``labels`` labels."""
    good = hits.cumsum()
    return Curve(scores, good / np.arange(1, len(hits) + 1), good / max(labels, 1))


def class_curves(data: Pool) -> dict[int, Curve]:
    """Return a curve for each class that has labels."""
    curves = {}
    for label, count in enumerate(data.counts()):
        if count:
            of_class = (data.labels == label) & (data.kinds != IGNORED)
            curves[label] = curve(data.scores[of_class], data.kinds[of_class] == CORRECT, int(count))
    return curves


def total_curve(data: Pool) -> Curve:
    """Return the curve of all classes together, for choosing a score threshold."""
    counted = data.kinds != IGNORED
    return curve(data.scores[counted], data.kinds[counted] == CORRECT, len(data.truth_labels))


def average_precision(
    labels: NDArray[np.int64], scores: NDArray[np.float64], hits: NDArray[np.bool_], counts: NDArray[np.int64]
) -> float:
    """Return the mean AP of the classes with labels, at the IoU that hits were matched at; 0 without labels."""
    values = [
        curve(scores[labels == label], hits[labels == label], int(count)).at_recalls().mean()
        for label, count in enumerate(counts)
        if count
    ]
    return float(np.mean(values)) if values else 0.0


@dataclass(frozen=True)
class ErrorKind:
    """One kind of error: how often it happens at the score threshold, and how much AP50 would rise without it."""

    count: int
    gain: float


def error_kinds(data: Pool, threshold: float) -> dict[str, ErrorKind]:
    """Return for each kind of error its count from the threshold up, and the gain in AP50 if all were corrected.

    A wrong class or location is corrected if no other detection finds its label. Otherwise, and for all other kinds,
    the detection is removed.
    """
    counted = data.kinds != IGNORED
    before = average_precision(
        data.labels[counted], data.scores[counted], data.kinds[counted] == CORRECT, data.counts()
    )
    shown = data.scores >= threshold
    result = {}
    for kind, name in KINDS.items():
        gain = _ap_without(data, kind) - before
        result[name] = ErrorKind(int((shown & (data.kinds == kind)).sum()), gain)
    result[MISSED] = ErrorKind(int((~found_at(data, threshold)).sum()), _ap_without_missed(data) - before)
    return result


def found_at(data: Pool, threshold: float) -> NDArray[np.bool_]:
    """Return which labels are found by a detection with at least this score: [M]."""
    scores = np.append(data.scores, -1.0)
    return scores[data.found_by] >= threshold


def _ap_without(data: Pool, kind: int) -> float:
    labels, kinds = data.labels.copy(), data.kinds.copy()
    mended = np.flatnonzero(kinds == kind) if kind in (CLASS, LOCALIZATION) else np.zeros(0, np.int64)
    mended = mended[data.found_by[data.truths[mended]] < 0]
    _, first = np.unique(data.truths[mended], return_index=True)  # the best one finds it, the others are duplicates
    mended = mended[first]
    kinds[mended], labels[mended] = CORRECT, data.truth_labels[data.truths[mended]]
    keep = (kinds != kind) & (kinds != IGNORED)
    return average_precision(labels[keep], data.scores[keep], kinds[keep] == CORRECT, data.counts())


def _ap_without_missed(data: Pool) -> float:
    """Return the AP without labels that no detection refers to, not even a wrong one."""
    about = np.isin(data.kinds, (CORRECT, CLASS, LOCALIZATION))
    known = np.unique(data.truths[about])
    counts = np.bincount(data.truth_labels[known], minlength=len(data.names))
    keep = data.kinds != IGNORED
    return average_precision(data.labels[keep], data.scores[keep], data.kinds[keep] == CORRECT, counts)


def confusion(data: Pool, threshold: float) -> NDArray[np.int64]:
    """Count labels (rows) by detections (columns) from the threshold up: [C + 1, C + 1]; the last is nothing.

    A label counts for the class that found it, else for the class of the best detection of another class, else for
    nothing. Detections that count for no label are in the last row.
    """
    classes = len(data.names)
    matrix = np.zeros((classes + 1, classes + 1), np.int64)
    shown = data.scores >= threshold
    found = found_at(data, threshold)
    wrong = np.flatnonzero(shown & (data.kinds == CLASS))
    wrong = wrong[~found[data.truths[wrong]]]
    _, first = np.unique(data.truths[wrong], return_index=True)
    wrong = wrong[first]
    taken = found.copy()
    taken[data.truths[wrong]] = True
    np.add.at(matrix, (data.truth_labels[found], data.truth_labels[found]), 1)
    np.add.at(matrix, (data.truth_labels[data.truths[wrong]], data.labels[wrong]), 1)
    matrix[:classes, classes] = np.bincount(data.truth_labels[~taken], minlength=classes)
    spare = shown & np.isin(data.kinds, (DUPLICATE, CLASS, LOCALIZATION, BOTH, BACKGROUND))
    spare[wrong] = False
    np.add.at(matrix, (np.full(spare.sum(), classes), data.labels[spare]), 1)
    return matrix


@dataclass(frozen=True)
class ByPicture:
    """Correct detections, wrong ones and missed labels per picture at the score threshold: int64 [P] each."""

    hits: NDArray[np.int64]
    wrong: NDArray[np.int64]
    missed: NDArray[np.int64]

    @property
    def f1(self) -> NDArray[np.float64]:
        """F1 of each picture; 1 if there is nothing to find and nothing was found."""
        errors = self.wrong + self.missed
        total = 2 * self.hits + errors
        return np.divide(2 * self.hits, total, out=np.ones(len(total)), where=total > 0)


def by_picture(data: Pool, pictures: int, threshold: float) -> ByPicture:
    """Count correct detections, wrong ones and missed labels in each picture from the threshold up."""
    shown = data.scores >= threshold
    hits = shown & (data.kinds == CORRECT)
    wrong = shown & (data.kinds != CORRECT) & (data.kinds != IGNORED)
    missed = data.truth_pictures[~found_at(data, threshold)]
    return ByPicture(
        *(np.bincount(at, minlength=pictures) for at in (data.pictures[hits], data.pictures[wrong], missed))
    )
