"""``--int8``: an int8 model of a float one, and what it measured beside it."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

from nanogfl.deploy.calibrate import calibration_table, observe
from nanogfl.deploy.candidates import Candidate, Judge, choose, latencies, opened
from nanogfl.deploy.inner import network_of
from nanogfl.deploy.pictures import spread
from nanogfl.errors import DataError, ExportError, UsageError

log = logging.getLogger(__name__)
OBSERVED, FEW = 48, 20  # pictures for ranges; fewer for AP are warned of


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
        notes += "\nint8 was chosen by this AP, which flatters it: measure it with nanogfl eval on val"
        return "\n".join(["          AP       ms     MB", *rows, notes])


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
    judge = Judge(model, detector, table, pictures)
    float_ap = judge.average_precision(model)
    if not float_ap:
        raise DataError(
            f"--calib {calib}: the float model finds nothing that is labelled there (AP 0), so that int8 "
            "cannot be judged; give labelled pictures of its classes"
        )
    if len(table) < FEW:
        log.warning("--calib %s: %d pictures say little about AP; give %d or more", calib, len(table), FEW)
    stem = next(node.name for node in network.nodes if node.op_type == "Conv")  # half of the error, and no faster
    plain = Candidate(model, observe(model, detector, pictures), "mse", floats=(stem,))
    best, ap = choose(plain, judge, pictures, float_ap)
    made = best.make()
    fp32_ms, int8_ms = latencies([model, made], pictures[0])
    fp32_mb, int8_mb = (len(m.SerializeToString()) / 1e6 for m in (model, made))
    floats = float_share(model, made)
    measured = Measured(len(table), float_ap, ap, fp32_ms, int8_ms, fp32_mb, int8_mb, str(best), floats)
    if float_ap - ap > max_drop:
        raise ExportError(
            f"int8 has AP {ap:.4f} where float32 has {float_ap:.4f} on {len(table)} calibration pictures, more than "
            f"--max-drop {max_drop:g} below; nothing was kept: allow more, or calibrate on more and likelier pictures"
        )
    return made, measured


def float_share(model: onnx.ModelProto, made: onnx.ModelProto) -> str:
    """How many convolutions of a float model its int8 model left float."""
    convolutions = sum(node.op_type == "Conv" for node in model.graph.node)
    dequantized = {node.output[0] for node in made.graph.node if node.op_type == "DequantizeLinear"}
    in_bytes = sum(node.op_type in ("Conv", "MatMul") and node.input[1] in dequantized for node in made.graph.node)
    return f"{convolutions - in_bytes} of {convolutions} convolutions float"
