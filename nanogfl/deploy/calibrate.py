"""Calibration for int8: choice of the pictures, and statistics and ranges of the network's activations."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime import InferenceSession

from nanogfl.data.readers import read_table
from nanogfl.data.table import Table
from nanogfl.deploy.inner import network_of
from nanogfl.deploy.pictures import spread
from nanogfl.deploy.quantize import Range
from nanogfl.errors import DataError
from nanogfl.members import is_file
from nanogfl.pictures import Picture
from nanogfl.runtime.session import OnnxDetector, open_session

METHODS = ("minmax", "percentile", "mse")
AP_PICTURES = 160  # pictures on which AP is measured
SAMPLES = 500  # values sampled from each tensor for each picture
TAILS = (0.01, 99.99)  # percentiles kept by method "percentile"
SHARES = (1.0, 0.85, 0.7, 0.55, 0.4, 0.25, 0.1)  # fractions of the extremes tried by method "mse"


def calibration_table(calib: str | Path) -> Table:
    """Return at most AP_PICTURES of the training pictures, evenly spread; of all pictures without a train split."""
    table = read_table(calib)
    train = [e for e in table.examples if e.split == "train"] or list(table.examples)
    there = [e for e in train if is_file(e.path)]
    if not there:
        raise DataError(f"--calib {calib} contains no pictures; use a dataset with representative pictures")
    return replace(table, examples=tuple(spread(there, AP_PICTURES)))


@dataclass
class Statistics:
    """The statistics of each activation, by name.

    Attributes:
        low, high: smallest value (at most 0) and largest value (at least 0).
        samples: random values of each picture.
        means: mean of each channel in each picture.
        slopes: negative slope of the LeakyReLU that reads an activation; missing (taken as 1) if none does.
    """

    low: dict[str, float] = field(default_factory=dict)
    high: dict[str, float] = field(default_factory=dict)
    samples: dict[str, list[NDArray[np.float32]]] = field(default_factory=dict)
    means: dict[str, list[NDArray[np.float32]]] = field(default_factory=dict)
    slopes: dict[str, float] = field(default_factory=dict)
    _ranges: dict[str, dict[str, Range]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def add(self, name: str, values: NDArray[np.float32], picks: np.random.Generator) -> None:
        """Add one picture's activation [B, C, h, w] to the statistics."""
        self.low[name] = min(self.low.get(name, 0.0), float(values.min()))
        self.high[name] = max(self.high.get(name, 0.0), float(values.max()))
        flat = values.reshape(-1)
        self.samples.setdefault(name, []).append(flat[picks.integers(flat.size, size=SAMPLES)])
        self.means.setdefault(name, []).append(values.mean(axis=(0, 2, 3)))
        self._ranges.clear()

    def ranges(self, method: str) -> dict[str, Range]:
        """Return the lowest and highest value to keep of each activation; cached, as many candidates share them."""
        if method not in self._ranges:
            self._ranges[method] = {name: self._range(name, method) for name in self.low}
        return self._ranges[method]

    def _range(self, name: str, method: str) -> Range:
        low, high = self.low[name], self.high[name]
        if method == "minmax":
            return low, high
        values = np.concatenate(self.samples[name])
        if method == "percentile":
            tails = np.percentile(values, TAILS)
            return max(low, float(tails[0])), min(high, float(tails[1]))
        slope = self.slopes.get(name, 1.0)
        tried = [(low * a, high * b) for a in SHARES for b in SHARES]
        return min(tried, key=lambda ends: _error(values, *ends, slope))


def _error(values: NDArray[np.float32], low: float, high: float, slope: float) -> float:
    """Return the mean square error of quantising values to low .. high; errors below zero are scaled by the slope."""
    step = max(high - low, 1e-6) / 255
    error = np.rint(values.clip(low, high) / step) * step - values
    return float(np.square(np.where(values < 0, slope * error, error)).mean())


def observe(model: onnx.ModelProto, detector: OnnxDetector, pictures: Iterable[Picture]) -> Statistics:
    """Run the network on pictures and return statistics of its activations; ``detector`` prepares the pictures."""
    network = network_of(model)
    names = network.tensors
    session = showing(model, names)
    slopes = {n.input[0]: n.attribute[0].f for n in network.nodes if n.op_type == "LeakyRelu"}
    seen, picks = Statistics(slopes=slopes), np.random.default_rng(0)
    for picture in pictures:
        image = detector.prepare([picture] * detector.batch)
        for name, values in zip(names, session.run(names, {"image": image}), strict=True):
            seen.add(name, np.asarray(values), picks)
    return seen


def showing(model: onnx.ModelProto, names: Iterable[str]) -> InferenceSession:
    """Open the model with these tensors as its outputs."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    del shown.graph.output[:]
    shown.graph.output.extend(onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in names)
    return open_session(shown.SerializeToString())
