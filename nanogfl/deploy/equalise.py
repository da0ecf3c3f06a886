"""Weights with less quantisation error: equalised ranges and biases corrected for rounding (arXiv 1906.04721)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, numpy_helper

from nanogfl.deploy.calibrate import Statistics
from nanogfl.deploy.inner import Network, activations, byte_tensors, network_of
from nanogfl.deploy.quantize import to_bytes, weight_scales

ROUNDS = 3  # passes over all chains


def equalise(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model of the same function with equalised weight ranges (Nagel et al., ICCV 2019, section 4.1).

    In this cross-layer equalisation, the first of two convolutions scales a channel down and the second scales it up
    again; LeakyReLU commutes with positive factors. Only channels that no other node reads are changed.
    """
    network = network_of(model)
    weights, changed = dict(network.weights), set()
    chains = _chains(network)
    for _ in range(ROUNDS):
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
    """Subtract from biases the mean that rounding the weights adds to each output channel (same paper, section 4.2).

    Convolutions that stay float, and biases shared by several convolutions, are not changed.
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
    """Return a copy of the model with new values for some constants."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for tensor in made.graph.initializer:
        if tensor.name in changed:
            tensor.CopyFrom(numpy_helper.from_array(changed[tensor.name].astype(np.float32), tensor.name))
    return made


def _chains(network: Network) -> list[tuple[NodeProto, list[NodeProto]]]:
    """Return convolutions whose output only convolutions read, directly or after an activation, with these readers."""
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
    """Return the divisor for each channel of the first convolution: sqrt(range of the first / range of the second)."""
    before = np.abs(weights[first.input[1]]).max(axis=(1, 2, 3)).astype(np.float64)
    axes = [(1, 2, 3) if _depthwise(s) else (0, 2, 3) for s in seconds]
    after = np.max([np.abs(weights[s.input[1]]).max(axis=a) for s, a in zip(seconds, axes, strict=True)], axis=0)
    sound = (before > 1e-8) & (after > 1e-8)
    return np.where(sound, np.sqrt(np.where(sound, before, 1) / np.where(sound, after, 1)), 1.0).clip(1e-2, 1e2)


def _depthwise(node: NodeProto) -> bool:
    return next(a.i for a in node.attribute if a.name == "group") > 1
