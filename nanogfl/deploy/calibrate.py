"""What int8 needs to know of a network before: the ranges of its activations, and weights of even ranges."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, numpy_helper
from onnxruntime import InferenceSession

from nanogfl.data.readers import read_table
from nanogfl.data.table import Table
from nanogfl.deploy.inner import Network, activations, byte_tensors, network_of
from nanogfl.deploy.pictures import spread
from nanogfl.deploy.quantize import Range, to_bytes, weight_scales
from nanogfl.errors import DataError
from nanogfl.members import is_file
from nanogfl.pictures import Picture
from nanogfl.runtime.session import OnnxDetector, open_session

METHODS = ("minmax", "percentile", "mse")
JUDGED = 160  # pictures for AP
SAMPLES = 500  # values of each tensor and picture
TAILS = (0.01, 99.99)  # percentiles
SHARES = (1.0, 0.85, 0.7, 0.55, 0.4, 0.25, 0.1)  # of the extremes, tried for the least square error


def calibration_table(calib: str | Path) -> Table:
    """The training pictures of a set, or all where it has no parts; at most JUDGED, spread over it."""
    table = read_table(calib)
    train = [e for e in table.examples if e.split == "train"] or list(table.examples)
    there = [e for e in train if is_file(e.path)]
    if not there:
        raise DataError(f"--calib {calib} holds no pictures; give a set with pictures like those to come")
    return replace(table, examples=tuple(spread(there, JUDGED)))


@dataclass
class Statistics:
    """What was seen of each activation.

    Attributes:
        low, high: extremes.
        samples: some of the values.
        means: mean of each channel.
        slopes: of the LeakyReLU that reads an activation, on its negative side; 1 where there is none.
    """

    low: dict[str, float] = field(default_factory=dict)
    high: dict[str, float] = field(default_factory=dict)
    samples: dict[str, list[NDArray[np.float32]]] = field(default_factory=dict)
    means: dict[str, list[NDArray[np.float32]]] = field(default_factory=dict)
    slopes: dict[str, float] = field(default_factory=dict)
    _ranges: dict[str, dict[str, Range]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def add(self, name: str, values: NDArray[np.float32], picks: np.random.Generator) -> None:
        """One picture's activation [B, C, h, w]."""
        self.low[name] = min(self.low.get(name, 0.0), float(values.min()))
        self.high[name] = max(self.high.get(name, 0.0), float(values.max()))
        flat = values.reshape(-1)
        self.samples.setdefault(name, []).append(flat[picks.integers(flat.size, size=SAMPLES)])
        self.means.setdefault(name, []).append(values.mean(axis=(0, 2, 3)))
        self._ranges.clear()

    def ranges(self, method: str) -> dict[str, Range]:
        """Lowest and highest value to keep of each activation; taken once, for many candidates share them."""
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
    """Mean square error of these values in bytes from low to high; below zero it counts less, by the slope."""
    step = max(high - low, 1e-6) / 255
    error = np.rint(values.clip(low, high) / step) * step - values
    return float(np.square(np.where(values < 0, slope * error, error)).mean())


def observe(model: onnx.ModelProto, detector: OnnxDetector, pictures: Iterable[Picture]) -> Statistics:
    """Run the network on pictures and note its activations; ``detector`` knows how the model wants them."""
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
    """The model, opened so that it gives these tensors."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    del shown.graph.output[:]
    shown.graph.output.extend(onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in names)
    return open_session(shown.SerializeToString())


def equalise(model: onnx.ModelProto, rounds: int = 3) -> onnx.ModelProto:
    """The same function with even weight ranges: cross-layer equalisation (Nagel et al., ICCV 2019, section 4.1).

    A channel between two convolutions may be scaled down by the first and up again by the second; LeakyReLU lets
    positive factors pass. Only channels that nobody else reads are touched.
    """
    network = network_of(model)
    weights, changed = dict(network.weights), set()
    chains = _chains(network)
    for _ in range(rounds):
        for first, seconds in chains:
            factor = _factor(weights, first, seconds)
            for name in first.input[1:3]:
                weights[name] = weights[name] / factor.reshape(-1, *[1] * (weights[name].ndim - 1))
            for second in seconds:
                name = second.input[1]
                across = factor.reshape(-1, 1, 1, 1) if _depthwise(second) else factor.reshape(1, -1, 1, 1)
                weights[name] = weights[name] * across
            changed |= {*first.input[1:3], *(s.input[1] for s in seconds)}
    return with_weights(model, {name: weights[name] for name in changed})


def correct_biases(model: onnx.ModelProto, seen: Statistics, floats: Collection[str] = ()) -> onnx.ModelProto:
    """Take what rounding the weights adds to the mean of each output channel out of the bias (same paper, 4.2).

    Convolutions that stay float, and biases that several share, are left alone.
    """
    network = network_of(model)
    read = byte_tensors(network, floats)
    nodes = [*network.nodes, *(node for node in network.last if node.input[0] in read)]
    uses = Counter(name for node in [*network.nodes, *network.last] for name in node.input)
    biases = {}
    for node in nodes:
        if node.op_type != "Conv" or node.name in floats or uses[node.input[2]] > 1:
            continue
        weight, bias = (network.weights[name] for name in node.input[1:3])
        scales = weight_scales(weight)
        error = (to_bytes(weight, scales) * scales[:, None, None, None] - weight).sum(axis=(2, 3))
        mean = np.mean(seen.means[node.input[0]], axis=0)
        biases[node.input[2]] = bias - (error[:, 0] * mean if _depthwise(node) else error @ mean)
    return with_weights(model, biases)


def with_weights(model: onnx.ModelProto, changed: dict[str, NDArray]) -> onnx.ModelProto:
    """A copy with other values of some constants."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for tensor in made.graph.initializer:
        if tensor.name in changed:
            tensor.CopyFrom(numpy_helper.from_array(changed[tensor.name].astype(np.float32), tensor.name))
    return made


def _chains(network: Network) -> list[tuple[NodeProto, list[NodeProto]]]:
    """Convolutions, each with the convolutions that alone read what it gives, through an activation or not."""
    nodes = [*network.nodes, *network.last]
    uses = Counter(name for node in nodes for name in node.input)
    readers: dict[str, list[NodeProto]] = {}
    for node in nodes:
        for name in activations(node, network.weights):
            readers.setdefault(name, []).append(node)
    chains = []
    for first in network.nodes:
        end = first.output[0]
        if first.op_type == "Conv" and [r.op_type for r in readers[end]] == ["LeakyRelu"]:
            end = readers[end][0].output[0]
        seconds = readers[end]
        kinds = {node.op_type for node in [first, *seconds]}
        read = [*first.input[1:3], *(second.input[1] for second in seconds if second.op_type == "Conv")]
        shared = any(uses[name] > 1 for name in read)
        if kinds == {"Conv"} and not shared:
            chains.append((first, seconds))
    return chains


def _factor(weights: dict[str, NDArray], first: NodeProto, seconds: list[NodeProto]) -> NDArray[np.float64]:
    """By how much each channel between them is too large in the first: sqrt(range of the first / of the second)."""
    before = np.abs(weights[first.input[1]]).max(axis=(1, 2, 3)).astype(np.float64)
    axes = [(1, 2, 3) if _depthwise(s) else (0, 2, 3) for s in seconds]
    after = np.max([np.abs(weights[s.input[1]]).max(axis=a) for s, a in zip(seconds, axes, strict=True)], axis=0)
    sound = (before > 1e-8) & (after > 1e-8)
    return np.where(sound, np.sqrt(np.where(sound, before, 1) / np.where(sound, after, 1)), 1.0).clip(1e-2, 1e2)


def _depthwise(node: NodeProto) -> bool:
    return next(a.i for a in node.attribute if a.name == "group") > 1
