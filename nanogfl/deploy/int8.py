"""``--int8``: the candidates of post-training quantization, each judged by its AP on the calibration pictures."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from nanogfl.data.table import Table
from nanogfl.decode import Thresholds
from nanogfl.deploy.calibrate import (
    METHODS,
    Statistics,
    calibration_table,
    correct_biases,
    equalise,
    observe,
    showing,
    spread,
)
from nanogfl.deploy.quantize import network_of, quantize
from nanogfl.errors import DataError, ExportError, UsageError
from nanogfl.evaluation.run import evaluate
from nanogfl.pictures import Picture
from nanogfl.runtime.session import OnnxDetector, open_session

log = logging.getLogger(__name__)
OBSERVED, FEW = 48, 20  # pictures for ranges; fewer for AP are warned of
GOOD = 0.005  # AP: no more is left float where no more than this is lost
FIRST, BLOCKS = 13, 8  # convolutions of the first block (stem, first unit), and blocks of the rest, left float together
SENSITIVE = 0.15  # of the square error: a block that causes more stays float at once
SLOWER = 0.03  # of a frame's time: a block by which int8 is slower stays float at once


@dataclass(frozen=True)
class Measured:
    """int8 beside float32, on the calibration pictures and on this machine.

    Attributes:
        pictures: how many.
        fp32_ap, int8_ap: on them.
        fp32_ms, int8_ms: a frame on one thread, CPU time, interleaved.
        fp32_mb, int8_mb: sizes of the files.
        method: how the ranges were taken, and what was done to the weights before.
        floats: convolutions left float, of all.
    """

    pictures: int
    fp32_ap: float
    int8_ap: float
    fp32_ms: float
    int8_ms: float
    fp32_mb: float
    int8_mb: float
    method: str
    floats: str

    def to_json(self) -> dict[str, Any]:
        """As it is stored in the file."""
        return {k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(self).items()}

    def to_text(self) -> str:
        """A table for people."""
        rows = [
            f"{name}  {ap:6.4f}  {ms:7.2f}  {mb:5.2f}"
            for name, ap, ms, mb in (
                ("fp32", self.fp32_ap, self.fp32_ms, self.fp32_mb),
                ("int8", self.int8_ap, self.int8_ms, self.int8_mb),
            )
        ]
        notes = f"AP on {self.pictures} calibration pictures; CPU ms a frame, one thread; {self.method}; {self.floats}"
        return "\n".join(["          AP       ms     MB", *rows, notes])


@dataclass(frozen=True)
class Candidate:
    """One way to quantize.

    Attributes:
        model: float, perhaps with other weights.
        seen: its activations.
        method: how ranges are taken from them.
        equalised, corrected: what was done to weights and biases.
        floats: convolutions that stay float.
    """

    model: onnx.ModelProto
    seen: Statistics
    method: str
    equalised: bool = False
    corrected: bool = False
    floats: tuple[str, ...] = ()

    def make(self) -> onnx.ModelProto:
        """The int8 model."""
        model = correct_biases(self.model, self.seen, self.floats) if self.corrected else self.model
        return quantize(model, self.seen.ranges(self.method), self.floats)

    def __str__(self) -> str:
        """What was done, for people."""
        done = [f"ranges by {self.method}", f"{len(self.floats)} inner convolutions float"]
        done += ["equalised"] * self.equalised + ["bias corrected"] * self.corrected
        return ", ".join(done)


def to_int8(model: onnx.ModelProto, calib: str | Path, max_drop: float) -> tuple[onnx.ModelProto, Measured]:
    """The best int8 model of a float one that ``deploy.build`` made.

    Raises:
        UsageError: a network that is not made of what can be quantized.
        DataError: no pictures to calibrate with, or nothing is found on them.
        ExportError: more than ``max_drop`` of AP is lost.
    """
    network, detector = network_of(model), opened(model)
    if len(network.last) < 2 * len(detector.card.strides):
        raise UsageError("--int8 quantizes mobile networks only, not model.family=resnet; leave it out, or use --fp16")
    table = calibration_table(calib)
    pictures = [e.picture() for e in spread(table.examples, OBSERVED)]
    float_ap = average_precision(model, table)
    if not float_ap:
        raise DataError(
            f"--calib {calib}: the float model finds nothing that is labelled there (AP 0), so that int8 "
            "cannot be judged; give labelled pictures of its classes"
        )
    if len(table) < FEW:
        log.warning("--calib %s: %d pictures say little about AP; give %d or more", calib, len(table), FEW)
    plain = Candidate(model, observe(model, detector, pictures), "mse")
    blocks = examine(plain, detector, pictures[:8])
    kept = [block for block in blocks if block.error >= SENSITIVE or block.time <= -SLOWER]
    best, ap = choose(replace(plain, floats=sum((block.names for block in kept), ())), pictures, table)
    log.info("float32: AP %.4f", float_ap)
    for block in sorted((b for b in blocks if b not in kept), key=lambda block: -block.error):
        if float_ap - ap <= GOOD:
            break
        best, ap = better(best, ap, replace(best, floats=best.floats + block.names), table)
    made = best.make()
    fp32_ms, int8_ms = latencies([model, made], pictures[0])
    fp32_mb, int8_mb = (len(m.SerializeToString()) / 1e6 for m in (model, made))
    convolutions = sum(node.op_type == "Conv" for node in model.graph.node)
    last, inner = len(network.last), sum(node.op_type == "Conv" for node in network.nodes)
    left = convolutions - inner + len(best.floats)
    floats = f"{left} of {convolutions} convolutions float ({last} of them give classes and sides)"
    measured = Measured(len(table), float_ap, ap, fp32_ms, int8_ms, fp32_mb, int8_mb, str(best), floats)
    if float_ap - ap > max_drop:
        raise ExportError(
            f"int8 has AP {ap:.4f} where float32 has {float_ap:.4f} on {len(table)} calibration pictures, more than "
            f"--max-drop {max_drop:g} below; nothing was kept: allow more, or calibrate on more and likelier pictures"
        )
    return made, measured


def average_precision(model: onnx.ModelProto, table: Table) -> float:
    """AP on all pictures of a table; 0 where nothing is to be found."""
    return evaluate(opened(model), table, split="all").numbers["AP"] or 0.0


def opened(model: onnx.ModelProto, threads: int | None = None) -> OnnxDetector:
    """A model in memory as a predictor."""
    return OnnxDetector(Path("the model"), session=open_session(model.SerializeToString(), threads))


@dataclass(frozen=True)
class Block:
    """Consecutive convolutions, and what it would change to leave them float.

    Attributes:
        names: of the nodes.
        error: share of the maps' square error that would go.
        time: by how much a frame would take longer, as a share; below 0 int8 is slower there on this machine.
    """

    names: tuple[str, ...]
    error: float
    time: float


def examine(plain: Candidate, detector: OnnxDetector, pictures: Sequence[Picture]) -> list[Block]:
    """Leave each block float in turn; the first one has the largest maps. ``detector`` prepares pictures."""
    names = [node.name for node in network_of(plain.model).nodes if node.op_type == "Conv"]
    size = -(-(len(names) - FIRST) // BLOCKS)
    blocks = [tuple(names[:FIRST]), *(tuple(names[i : i + size]) for i in range(FIRST, len(names), size))]
    maps = [node.output[0] for node in network_of(plain.model).last]
    images = [detector.prepare([picture] * detector.batch) for picture in pictures]
    expected = maps_of(plain.model, maps, images)
    models = [plain.make(), *(replace(plain, floats=block).make() for block in blocks)]
    errors = [_square_error(maps_of(model, maps, images), expected) for model in models]
    times = latencies(models, pictures[0])
    found = []
    for block, left, taken in zip(blocks, errors[1:], times[1:], strict=True):
        found.append(Block(block, 1 - left / errors[0] if errors[0] else 0.0, taken / times[0] - 1))
        log.info(
            "int8: %s to %s in float take %.0f %% of the error away and %+.1f %% of time",
            *(block[0], block[-1], 100 * found[-1].error, 100 * found[-1].time),
        )
    return found


def choose(plain: Candidate, pictures: Sequence[Picture], table: Table) -> tuple[Candidate, float]:
    """The best method for the ranges, with equalised weights and corrected biases where these gain AP."""
    best, ap = plain, average_precision(plain.make(), table)
    log.info("int8, %s: AP %.4f", best, ap)
    for method in METHODS:
        if method != plain.method:
            best, ap = better(best, ap, replace(plain, method=method), table)
    even = equalise(plain.model)
    equalised = replace(best, model=even, seen=observe(even, opened(even), pictures), equalised=True)
    best, ap = better(best, ap, equalised, table)
    return better(best, ap, replace(best, corrected=True), table)


def better(best: Candidate, ap: float, other: Candidate, table: Table) -> tuple[Candidate, float]:
    """The one with the higher AP, and its AP."""
    reached = average_precision(other.make(), table)
    log.info("int8, %s: AP %.4f", other, reached)
    return (other, reached) if reached > ap else (best, ap)


def maps_of(model: onnx.ModelProto, maps: Sequence[str], images: Sequence[Any]) -> list[Any]:
    """These tensors of a model, for each prepared picture."""
    session = showing(model, maps)
    return [session.run(maps, {"image": image}) for image in images]


def _square_error(found: list[Any], expected: list[Any]) -> float:
    pairs = [(f, e) for fs, es in zip(found, expected, strict=True) for f, e in zip(fs, es, strict=True)]
    return float(np.mean([np.square(f - e).mean() for f, e in pairs]))


def latencies(models: Sequence[onnx.ModelProto], picture: Picture, rounds: int = 25) -> list[float]:
    """CPU ms of each model for one picture on one thread, interleaved: the lower quartile, for other work disturbs."""
    detectors = [opened(model, 1) for model in models]
    images = [d.prepare([picture] * d.batch) for d in detectors]
    times: list[list[float]] = [[] for _ in models]
    for _ in range(rounds):
        for detector, image, taken in zip(detectors, images, times, strict=True):
            start = time.process_time()
            detector.run(image, Thresholds())
            taken.append(time.process_time() - start)
    return [
        1e3 * float(np.percentile(taken[rounds // 5 :], 25)) / detector.batch
        for detector, taken in zip(detectors, times, strict=True)
    ]
