"""Comparison of two models' boxes on real or synthetic pictures; an export stores the result in its file."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from nanogfl.decode import Layout, Thresholds
from nanogfl.deploy.match import (
    Box,
    Kept,
    alike,
    assign_partners,
    cut_off,
    equal,
    explained,
    largest,
    same_position,
    same_prior,
)
from nanogfl.deploy.probe import Outputs, Probe, card_of
from nanogfl.deploy.tolerances import FLOAT16, FLOAT32, Tolerances
from nanogfl.detections import Detections
from nanogfl.errors import UsageError, counted
from nanogfl.pictures import Picture
from nanogfl.predictor import Predictor
from nanogfl.runtime.session import OnnxDetector

log = logging.getLogger(__name__)
ENOUGH_BOXES = 200
SILENCE_S = 30  # least interval between progress messages
LIMITS = Thresholds(score=0.05)


@dataclass
class Parity:
    """The result of a comparison.

    Attributes:
        pictures, boxes: number of pictures and of matched boxes.
        box_px, score: largest differences of matched boxes.
        one_sided: number of boxes that only one model has, without an explanation.
        ties: number of boxes that only one model has because two scores, or an overlap and its threshold, are nearly
            equal.
        raw: largest difference of the raw outputs; None if they cannot be compared.
        sigma_px: largest difference of the sides' standard deviations; None if one model does not give them.
        worst: descriptions of the differences beyond the tolerances.
        tolerances: within which the two models count as equal.
        best: the highest score of any prior.
        raised: value added to the class logits of both models because otherwise no box is above the threshold.
    """

    pictures: int = 0
    boxes: int = 0
    box_px: float = 0.0
    score: float = 0.0
    one_sided: int = 0
    ties: int = 0
    raw: float | None = None
    sigma_px: float | None = None
    worst: list[str] = field(default_factory=list)
    tolerances: Tolerances = FLOAT32
    best: float = 0.0
    raised: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether all differences are within the tolerances."""
        return not self.worst and (self.raw is None or self.raw <= self.tolerances.raw)

    @property
    def why(self) -> str:
        """The differences beyond the tolerances, as text."""
        return "; ".join(self.worst[:3]) or f"raw outputs differ by {self.raw:.2g}"

    @property
    def lift(self) -> float:
        """The value that, added to the best class logit, gives a score of .9."""
        return float(np.log(9 * (1 - self.best) / max(self.best, 1e-30)))

    def to_json(self) -> dict[str, Any]:
        """Return the numbers, rounded, as they are stored in the file."""
        rounded = {"box_px": round(self.box_px, 5), "score": round(self.score, 7)}
        raw = None if self.raw is None else round(self.raw, 7)
        counts = {"one_sided": self.one_sided, "ties": self.ties, "raw": raw}
        counts |= {} if self.sigma_px is None else {"sigma_px": round(self.sigma_px, 5)}
        limits = {"bar_px": self.tolerances.box_px, "bar_score": self.tolerances.score}
        limits |= {"bar_deviations": self.tolerances.deviations} if self.tolerances.deviations else {}
        limits |= {"raised": round(self.raised, 3)} if self.raised else {}
        return {"pictures": self.pictures, "boxes": self.boxes, **rounded, **counts, **limits}

    def to_text(self) -> str:
        """Return a readable summary in one line."""
        few = "" if self.boxes >= ENOUGH_BOXES else f" (fewer than {ENOUGH_BOXES}: use --data with more objects)"
        raised = f", none unless class logits are raised by {self.raised:.1f}" if self.raised else ""
        raw = "not compared" if self.raw is None else f"{self.raw:.2g}"
        ties = f", {self.ties} by near ties of NMS" if self.ties else ""
        sigma = "" if self.sigma_px is None else f", sigma {self.sigma_px:.4f} px"
        seen = f"{counted(self.pictures, 'picture')}, {counted(self.boxes, 'box')}"
        return (
            f"{seen} compared{raised}{few}: largest difference {self.box_px:.4f} px, "
            f"score {self.score:.2g}{sigma}, raw outputs {raw}, {self.one_sided} on one side only{ties}"
        )


def compare(
    a: Predictor,
    b: Predictor,
    pictures: Iterable[tuple[str, Picture]],
    limits: Thresholds = LIMITS,
    raised: float = 0.0,
) -> Parity:
    """Run both models once on each picture, match their boxes, and return the comparison.

    Args:
        a: a checkpoint or an exported file.
        b: the other one.
        pictures: names and pictures.
        limits: thresholds of both models; replaced by those of a file in which they are fixed.
        raised: value added to the class logits of both models.

    Raises:
        UsageError: the models have different classes.
    """
    if list(a.names) != list(b.names):
        raise UsageError(
            f"the two models have different classes ({', '.join(a.names[:4])}... and {', '.join(b.names[:4])}...)"
        )
    files = [m for m in (a, b) if isinstance(m, OnnxDetector)]
    half = any(m.card.precision == "fp16" for m in files)
    limits = next((m.card.thresholds for m in files if m.fixed), limits)
    rounds = any(m.rounds for m in files)
    probes = [Probe(model, rounds, raised) for model in (a, b)]
    wrong = [line for probe in probes for line in probe.wrong]
    parity = Parity(worst=wrong, tolerances=FLOAT16 if half else FLOAT32, raised=raised)
    one_view = a.input_size == b.input_size and card_of(a).resize == card_of(b).resize
    source, spoken = iter(pictures), time.monotonic()
    while some := list(islice(source, max(probe.batch for probe in probes))):
        names, views = zip(*some, strict=True)
        both = (probe.see(views, limits) for probe in probes)
        for name, first, second in zip(names, *both, strict=True):
            take(parity, name, first, second, probes[0].layout, limits, one_view)
            if half:
                parity.worst += _by_own_raw_outputs(probes, name, (first, second), limits)
        if time.monotonic() > spoken + SILENCE_S:
            spoken = time.monotonic()
            log.info("compared %s so far", counted(parity.pictures, "picture"))
    return parity


def _by_own_raw_outputs(probes: Sequence[Probe], name: str, sides: Sequence[Outputs], limits: Thresholds) -> list[str]:
    """Compare a file's boxes with its own raw outputs decoded by numpy, within FLOAT32: decoding is float32."""
    own = Parity()
    for probe, side in zip(probes, sides, strict=True):
        if isinstance(probe.model, OnnxDetector) and probe.model.card.form != "core":
            take(own, name, side, side.by_hand(probe.layout, limits), probe.layout, limits)
    return [f"{line} from its own raw outputs" for line in own.worst]


def take(
    parity: Parity, name: str, a: Outputs, b: Outputs, layout: Layout, limits: Thresholds, one_view: bool = True
) -> None:
    """Add one picture to the comparison, in place; near ties explain boxes only if the raw outputs are equal."""
    raw = a.difference(b) if one_view else None
    equal_raw = raw is not None and raw <= parity.tolerances.raw
    kept = (a.kept(layout), b.kept(layout)) if equal_raw else None
    sides = zip(a.view.picture, a.view.input, strict=True)
    zoom = max(1.0, *(own / seen for own, seen in sides)) if parity.tolerances.of_input else 1.0
    parity.pictures += 1
    parity.best = max(parity.best, float(a.scores.max(initial=0)))
    parity.raw = parity.raw if raw is None else max(parity.raw or 0.0, raw)
    match(parity, name, a.found, b.found, limits, kept, zoom)


def match(
    parity: Parity,
    name: str,
    a: Detections,
    b: Detections,
    limits: Thresholds,
    kept: tuple[Kept, Kept] | None,
    zoom: float = 1.0,
) -> None:
    """Match one picture's boxes and add the differences to the comparison, in place.

    Equal boxes are matched first. Of the others, those explained by near ties are counted, and the rest are matched by
    overlap to measure how much they differ.
    """
    tolerances = parity.tolerances
    allowed = tolerances.allowed(a, None if kept is None else kept[0], zoom)
    lowest = (d.scores[-1] for d in (a, b) if len(d) and len(d) == limits.max_boxes)
    floor = max(limits.score, *lowest, 0) + tolerances.score
    partner, reasons = np.full(len(a), -1, np.intp), set[Box]()
    if kept is not None:  # prior and input box first: in a one-pixel picture all boxes are equal
        for same in same_prior(kept), same_position(kept, tolerances.box_px):
            partner = assign_partners(partner, a, b, same & equal(a, b, allowed, tolerances.score))
        reasons = explained((a, b), partner, kept, limits, tolerances.score, tolerances.overlap)
        reasons |= cut_off((a, b), kept, floor)
    partner = assign_partners(partner, a, b, equal(a, b, tolerances.allowed(a, None, zoom), tolerances.score))
    free = alike(a, b)
    for side, i in reasons:
        free[(i, slice(None)) if side == 0 else (slice(None), i)] = False
    partner = assign_partners(partner, a, b, free)
    matched = np.flatnonzero(partner >= 0)
    pairs = partner[matched]
    moved = a.boxes[matched] - b.boxes[pairs]
    box, beside = largest(moved) / zoom, not (np.abs(moved) <= allowed[matched]).all()
    score = largest(a.scores[matched] - b.scores[pairs])
    alone = [(0, int(i)) for i in np.flatnonzero(partner < 0)]
    alone += [(1, int(i)) for i in np.setdiff1d(np.arange(len(b)), pairs)]
    above = [(side, i) for side, i in alone if np.nan_to_num((a, b)[side].scores[i], nan=np.inf) > floor]
    beyond = sum(lonely not in reasons for lonely in above)
    parity.boxes += len(matched)
    parity.box_px, parity.score = max(parity.box_px, box), max(parity.score, score)
    parity.one_sided += beyond
    parity.ties += len(above) - beyond
    if a.side_sigma is not None and b.side_sigma is not None:
        one = (a.boxes[matched, 2:] > a.boxes[matched, :2]).all(axis=1)  # others were clipped to a line at the edge
        if kept is not None:  # two priors at one place may be near ties with different deviations
            one &= kept[0].priors[matched] == kept[1].priors[pairs]
        off = (a.side_sigma[matched] - b.side_sigma[pairs])[one]
        sigma = largest(off) / zoom
        parity.sigma_px = max(parity.sigma_px or 0.0, sigma)
        if not (np.abs(off) <= allowed[matched][one]).all():
            parity.worst.append(f"{name}: standard deviations differ by {sigma:.3f} px")
    if beside or score > tolerances.score or beyond:
        parity.worst.append(f"{name}: boxes differ by {box:.3f} px, scores by {score:.2g}, {beyond} on one side only")
