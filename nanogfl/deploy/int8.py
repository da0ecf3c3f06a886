"""``--int8``: conversion of a float model to int8, and measurements of both."""

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
OBSERVED, MIN_AP_PICTURES = 48, 20  # pictures for ranges; pictures for AP below which a warning is logged


@dataclass(frozen=True)
class Measured:
    """Measurements of an int8 model and its float32 model on the calibration pictures, on this machine.

    Attributes:
        pictures: number of pictures.
        fp32_ap, int8_ap: AP on these pictures.
        fp32_ms, int8_ms: CPU time per frame on one thread, from interleaved runs.
        fp32_mb, int8_mb: sizes of the files in MB.
        method: range method, and corrections applied to weights and biases.
        floats: how many of all convolutions are float, as text.
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
        """Return the measurements, rounded, as they are stored in the file."""
        return {k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(self).items()}

    def to_text(self) -> str:
        """Return the measurements as a readable table with notes."""
        rows = [
            f"{name}  {ap:6.4f}  {ms:7.2f}  {mb:5.2f}"
            for name, ap, ms, mb in (
                ("fp32", self.fp32_ap, self.fp32_ms, self.fp32_mb),
                ("int8", self.int8_ap, self.int8_ms, self.int8_mb),
            )
        ]
        notes = (
            f"AP on {self.pictures} calibration pictures; CPU ms per frame, one thread; {self.method}; {self.floats}"
        )
        notes += "\nint8 was selected by this AP, which is optimistic: measure it with nanogfl eval on val"
        return "\n".join(["          AP       ms     MB", *rows, notes])


def to_int8(model: onnx.ModelProto, calib: str | Path, max_drop: float) -> tuple[onnx.ModelProto, Measured]:
    """Return the best int8 model of a float model made by ``deploy.build``, and measurements of both.

    Raises:
        UsageError: the network contains layers that cannot be quantised.
        DataError: there are no calibration pictures, or the float model finds nothing labelled on them.
        ExportError: AP drops by more than ``max_drop``.
    """
    network, detector = network_of(model), opened(model)
    if len(network.last) < 2 * len(detector.card.strides):
        raise UsageError("--int8 supports mobile networks only, not model.family=resnet; omit it, or use --fp16")
    table = calibration_table(calib)
    pictures = [e.picture() for e in spread(table.examples, OBSERVED)]
    judge = Judge(model, detector, table, pictures)
    float_ap = judge.average_precision(model)
    if not float_ap:
        raise DataError(
            f"--calib {calib}: the float model detects none of the labelled objects (AP 0), so int8 "
            "cannot be judged; use labelled pictures of its classes"
        )
    if len(table) < MIN_AP_PICTURES:
        log.warning(
            "--calib %s: %d pictures are too few to measure AP; use at least %d", calib, len(table), MIN_AP_PICTURES
        )
    # the stem stays float: in int8 it causes half of the error and is no faster
    stem = next(node.name for node in network.nodes if node.op_type == "Conv")
    plain = Candidate(model, observe(model, detector, pictures), "mse", floats=(stem,))
    best, ap = choose(plain, judge, pictures, float_ap)
    made = best.make()
    fp32_ms, int8_ms = latencies([model, made], pictures[0])
    fp32_mb, int8_mb = (len(m.SerializeToString()) / 1e6 for m in (model, made))
    floats = float_share(model, made)
    measured = Measured(len(table), float_ap, ap, fp32_ms, int8_ms, fp32_mb, int8_mb, str(best), floats)
    if float_ap - ap > max_drop:
        raise ExportError(
            f"int8 has AP {ap:.4f}, float32 {float_ap:.4f} on {len(table)} calibration pictures: it drops by "
            f"more than --max-drop {max_drop:g}; nothing was kept: raise it, or use more, representative pictures"
        )
    return made, measured


def float_share(model: onnx.ModelProto, made: onnx.ModelProto) -> str:
    """Return, as text, how many convolutions of a float model are still float in its int8 model."""
    convolutions = sum(node.op_type == "Conv" for node in model.graph.node)
    dequantized = {node.output[0] for node in made.graph.node if node.op_type == "DequantizeLinear"}
    in_bytes = sum(node.op_type in ("Conv", "MatMul") and node.input[1] in dequantized for node in made.graph.node)
    return f"{convolutions - in_bytes} of {convolutions} convolutions float"
