"""Choice of the best int8 model by AP on the calibration pictures, and of the convolutions that stay float in it."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from nanogfl.data.table import Table
from nanogfl.decode import Thresholds
from nanogfl.deploy.calibrate import METHODS, Statistics, observe, showing
from nanogfl.deploy.equalise import correct_biases, equalise
from nanogfl.deploy.inner import network_of
from nanogfl.deploy.quantize import quantize
from nanogfl.evaluation.coco import score
from nanogfl.evaluation.run import EVALUATION, in_model_order, predict_all
from nanogfl.pictures import Picture
from nanogfl.runtime.session import OnnxDetector, open_session

log = logging.getLogger(__name__)
MAX_LOSS = 0.01  # AP loss up to which no further blocks are left float
FIRST, BLOCKS = 12, 8  # convolutions in the first block after the stem, and number of blocks that the others form
MIN_COST = 0.01  # least cost of a float block, as a share of a frame's time, when blocks are ordered by error / time
ERROR_PICTURES = 8  # pictures on which the error of the maps is measured
AP_CANDIDATES = 6  # number of candidates, those with the least error, whose AP is measured
AP_NOISE = 0.004  # AP difference on about 150 pictures that different rounding causes by chance, in either direction
ROUNDS = 25  # rounds of timing
SLOWDOWN = 0.03  # share of a frame's time: a block that int8 slows down by this much stays float from the start


@dataclass(frozen=True)
class Candidate:
    """One way to quantise the model.

    Attributes:
        model: the float model, with equalised weights if ``equalised``.
        seen: statistics of its activations.
        method: method that derives ranges from the statistics; one of METHODS.
        equalised, corrected: whether weights are equalised and biases corrected.
        floats: names of the convolutions that stay float.
    """

    model: onnx.ModelProto
    seen: Statistics
    method: str
    equalised: bool = False
    corrected: bool = False
    floats: tuple[str, ...] = ()

    def make(self) -> onnx.ModelProto:
        """Return the int8 model."""
        model = correct_biases(self.model, self.seen, self.floats) if self.corrected else self.model
        return quantize(model, self.seen.ranges(self.method), self.floats)

    def __str__(self) -> str:
        """Describe the candidate for log messages."""
        done = ["equalised"] * self.equalised + ["biases corrected"] * self.corrected
        return ", ".join([f"ranges by {self.method}", *done])


class Judge:
    """The measure of candidates: AP on all pictures of a table, and the mean square error of the maps on a few.

    ``detector`` is the opened float model; it prepares the pictures.

    Attributes:
        picture: the picture on which latencies are measured.
    """

    def __init__(
        self, model: onnx.ModelProto, detector: OnnxDetector, table: Table, pictures: Sequence[Picture]
    ) -> None:
        self.table, self.picture = in_model_order(table, detector.names), pictures[0]
        self.maps = [node.output[0] for node in network_of(model).last]
        self.images = [detector.prepare([picture] * detector.batch) for picture in pictures[:ERROR_PICTURES]]
        self.expected = self._maps_of(model)

    def average_precision(self, model: onnx.ModelProto) -> float:
        """Return AP on the table; 0 if it has no labelled objects."""
        found = list(predict_all(opened(model), self.table.examples, EVALUATION))
        return score(self.table, found).numbers["AP"] or 0.0

    def error(self, model: onnx.ModelProto) -> float:
        """Return the square error of the maps against the float model's, averaged over all maps."""
        both = list(zip(chain(*self._maps_of(model)), chain(*self.expected), strict=True))
        return float(np.mean([np.square(found - expected).mean() for found, expected in both]))

    def _maps_of(self, model: onnx.ModelProto) -> list[Any]:
        session = showing(model, self.maps)
        return [session.run(self.maps, {"image": image}) for image in self.images]


@dataclass(frozen=True)
class Block:
    """Consecutive convolutions, and the effect of leaving them float.

    Attributes:
        names: names of the nodes.
        error: share of the maps' square error that would be avoided.
        time: increase of a frame's time, as a share; negative if int8 is slower than float there on this machine.
    """

    names: tuple[str, ...]
    error: float
    time: float


def choose(plain: Candidate, judge: Judge, pictures: Sequence[Picture], float_ap: float) -> tuple[Candidate, float]:
    """Return the best candidate and its AP: leave float what int8 slows down, then more while too much AP is lost."""
    blocks = examine(plain, judge)
    slow, rest = [b for b in blocks if b.time <= -SLOWDOWN], [b for b in blocks if b.time > -SLOWDOWN]
    best, ap = best_method(replace(plain, floats=sum((b.names for b in slow), plain.floats)), judge, pictures)
    log.info("float32: AP %.4f", float_ap)
    wider = best
    for block in sorted(rest, key=lambda block: -block.error / max(block.time, MIN_COST)):
        if float_ap - ap <= MAX_LOSS:
            break
        wider = replace(wider, floats=wider.floats + block.names)
        reached = tried(wider, judge)
        best, ap = (wider, reached) if reached > ap else (best, ap)
    return best, ap


def examine(plain: Candidate, judge: Judge) -> list[Block]:
    """Measure the effect of leaving each block float, one at a time; the first block has the largest maps."""
    names = [node.name for node in network_of(plain.model).nodes if node.op_type == "Conv"]
    names = [name for name in names if name not in plain.floats]
    size = -(-(len(names) - FIRST) // BLOCKS)
    blocks = [tuple(names[:FIRST]), *(tuple(names[i : i + size]) for i in range(FIRST, len(names), size))]
    models = [plain.make(), *(replace(plain, floats=plain.floats + block).make() for block in blocks)]
    errors, times = [judge.error(model) for model in models], latencies(models, judge.picture)
    found = []
    for block, left, taken in zip(blocks, errors[1:], times[1:], strict=True):
        found.append(Block(block, 1 - left / errors[0] if errors[0] else 0.0, taken / times[0] - 1))
        log.info(
            "int8: %s to %s in float: %.0f %% of the error removed, %+.1f %% of time",
            *(block[0], block[-1], 100 * found[-1].error, 100 * found[-1].time),
        )
    return found


def best_method(plain: Candidate, judge: Judge, pictures: Sequence[Picture]) -> tuple[Candidate, float]:
    """Return the best combination of range method, equalised weights and corrected biases, and its AP.

    On so few pictures, AP varies by some thousandths by chance; among candidates this close, the least error decides.
    """
    even = equalise(plain.model)
    equalised = replace(plain, model=even, seen=observe(even, opened(even), pictures), equalised=True)
    every = [
        replace(base, method=method, corrected=corrected)
        for base in (plain, equalised)
        for method in METHODS
        for corrected in (False, True)
    ]
    likely = sorted(every, key=lambda candidate: judge.error(candidate.make()))[:AP_CANDIDATES]
    reached = [tried(candidate, judge) for candidate in likely]
    return next((c, ap) for c, ap in zip(likely, reached, strict=True) if ap >= max(reached) - AP_NOISE)


def tried(candidate: Candidate, judge: Judge) -> float:
    """Measure a candidate's AP and log it."""
    reached = judge.average_precision(candidate.make())
    log.info("int8, %s, %d float convolutions: AP %.4f", candidate, len(candidate.floats), reached)
    return reached


def opened(model: onnx.ModelProto, threads: int | None = None) -> OnnxDetector:
    """Open a model in memory as a predictor."""
    return OnnxDetector(Path("the model"), session=open_session(model.SerializeToString(), threads))


def latencies(models: Sequence[onnx.ModelProto], picture: Picture) -> list[float]:
    """Return each model's CPU ms per picture on one thread: the lower quartile of interleaved runs, to limit noise."""
    detectors = [opened(model, 1) for model in models]
    images = [d.prepare([picture] * d.batch) for d in detectors]
    times: list[list[float]] = [[] for _ in models]
    for _ in range(ROUNDS):
        for detector, image, taken in zip(detectors, images, times, strict=True):
            start = time.process_time()
            detector.run(image, Thresholds())
            taken.append(time.process_time() - start)
    return [
        1e3 * float(np.percentile(taken[ROUNDS // 5 :], 25)) / detector.batch
        for detector, taken in zip(detectors, times, strict=True)
    ]
