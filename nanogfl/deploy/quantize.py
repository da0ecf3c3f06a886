"""Conversion of a float model to int8 by pairs of QuantizeLinear and DequantizeLinear nodes.

Activations are unsigned bytes with one zero point per tensor; weights are signed bytes with one scale per output
channel. A tensor and its parts (a concatenation and its inputs) share a scale, so that bytes are copied instead of
rescaled. Convolutions that stay float also store their weights as bytes, followed by a cast that every runtime folds
when it loads the file. Classes and sides are floats whose range no scale limits: their convolutions become matrix
products of bytes, for which onnxruntime has a kernel with a float result.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from nanogfl.deploy.inner import Weights, activations, byte_tensors, groups_of, network_of

Range = tuple[float, float]


def quantize(model: onnx.ModelProto, ranges: dict[str, Range], floats: Collection[str] = ()) -> onnx.ModelProto:
    """Return the model in int8.

    Args:
        model: a float model made by ``deploy.build``.
        ranges: lowest and highest value of each activation, from calibration.
        floats: names of the convolutions that stay float.
    """
    network = network_of(model)
    writer = _Writer(ranges, groups_of(network))
    quantized = {node.name for node in network.nodes if node.name not in floats}
    in_bytes = byte_tensors(network, floats)
    products = {node.name for node in network.last if node.input[0] in in_bytes}
    for node in model.graph.node:
        if node.name in products:
            writer.product(node, network.weights)
        elif node.op_type == "Conv":
            writer.convolution(node, network.weights, node.name in quantized)
        elif node.name in quantized:
            writer.other(node, activations(node, network.weights))
        else:
            writer.plain(node)
    made = onnx.ModelProto()
    made.CopyFrom(model)
    del made.graph.node[:], made.graph.initializer[:]
    # an activation that only products read is read by its pixels, so its own DequantizeLinear is unused
    read = {name for node in writer.nodes for name in node.input}
    made.graph.node.extend(n for n in writer.nodes if n.op_type != "DequantizeLinear" or n.output[0] in read)
    kept = [t for t in model.graph.initializer if t.name in read]
    made.graph.initializer.extend([*kept, *writer.constants.values()])
    next(p for p in made.metadata_props if p.key == "nanogfl.precision").value = "int8"
    onnx.checker.check_model(made, full_check=True)
    return made


def weight_scales(weight: NDArray) -> NDArray[np.float32]:
    """Return a scale for each output channel such that products with bytes cannot overflow in any runtime.

    CPUs without VNNI add two products of neighbouring input channels in 16 bits: 255 x (|a| + |b|) must stay below
    32768, so the magnitudes of two neighbours may sum up to 128. Depthwise convolutions are summed in 32 bits in all
    runtimes.
    """
    outputs, inputs = weight.shape[:2]
    magnitude = np.abs(weight)
    if inputs == 1:
        largest = magnitude.reshape(outputs, -1).max(axis=1)
    else:
        # neighbours in either memory layout: positions of one channel, and channels at one position
        rows = [magnitude.reshape(outputs, -1), magnitude.transpose(0, 2, 3, 1).reshape(outputs, -1)]
        rows = [np.pad(row, ((0, 0), (0, row.shape[1] % 2))).reshape(outputs, -1, 2) for row in rows]
        largest = np.maximum(*(row.sum(axis=2).max(axis=1) for row in rows))
    return np.where(largest > 0, largest / 127, 1).astype(np.float32)


def to_bytes(weight: NDArray, scales: NDArray[np.float32]) -> NDArray[np.int8]:
    """Round a weight [O, I, kh, kw], divided by its scales, to signed bytes."""
    return np.rint(weight / scales[:, None, None, None]).clip(-127, 127).astype(np.int8)


class _Writer:
    """Nodes and constants of the int8 model; ``read_as`` maps an activation to the name by which nodes read it."""

    def __init__(self, ranges: dict[str, Range], groups: dict[str, list[str]]) -> None:
        self.ranges = ranges
        self.groups = groups
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, TensorProto] = {}
        self.read_as: dict[str, str] = {}
        self.moved: dict[str, str] = {}

    def constant(self, name: str, value: NDArray) -> str:
        self.constants[name] = numpy_helper.from_array(value, name)
        return name

    def plain(self, node: NodeProto) -> None:
        """Append a copy of a node; inputs that have been quantised are read in quantised form."""
        copied = NodeProto()
        copied.CopyFrom(node)
        copied.input[:] = [self.read_as.get(name, name) for name in node.input]
        self.nodes.append(copied)

    def other(self, node: NodeProto, read: list[str]) -> None:
        """Append a node without weights, and quantise its output if all its inputs are quantised."""
        self.plain(node)
        if all(name in self.read_as for name in read):
            self.pair(node.output[0])

    def convolution(self, node: NodeProto, weights: Weights, quantized: bool) -> None:
        weight, bias = (weights[name] for name in node.input[1:3])
        if not quantized:
            name = self.folded(node, weight)
            self.plain(node)
            self.nodes[-1].input[1] = name
            return
        image = self.pair(node.input[0])
        step = self.scale(node.input[0])[2]
        # the second term keeps biases within 32 bits
        scales = np.maximum(weight_scales(weight), np.abs(bias) / step / 2**30).astype(np.float32)
        steps = scales * step
        inputs = [
            image,
            self.dequantized(f"{node.name}_weight", to_bytes(weight, scales), scales, 0),
            self.dequantized(f"{node.name}_bias", np.rint(bias / steps).astype(np.int32), steps, 0),
        ]
        self.plain(node)
        self.nodes[-1].input[:] = inputs
        self.pair(node.output[0])

    def product(self, node: NodeProto, weights: Weights) -> None:
        """Append a 1x1 convolution as the product of its pixels [B, h, w, C] and a matrix [C, K]."""
        weight, bias = (weights[name] for name in node.input[1:3])
        scales, matrix = weight_scales(weight), f"{node.name}_matrix"
        self.dequantized(matrix, to_bytes(weight, scales)[:, :, 0, 0].T.copy(), scales, 1)
        product, moved = f"{node.name}_product", f"{node.name}_pixels"
        self.nodes.append(helper.make_node("MatMul", [self.pixels(node.input[0]), matrix], [product]))
        # not Add, which onnxruntime fuses with the product to a float Gemm before it searches for int8 patterns
        less = self.constant(f"{node.name}_bias_less", -bias)
        self.nodes.append(helper.make_node("Sub", [product, less], [moved]))
        self.nodes.append(helper.make_node("Transpose", [moved], [node.output[0]], name=node.name, perm=[0, 3, 1, 2]))

    def pixels(self, tensor: str) -> str:
        """Transpose a quantised activation [B, C, h, w] to [B, h, w, C], once and as bytes; return its name."""
        if tensor not in self.moved:
            moved, self.moved[tensor] = f"{tensor}_pixels_bytes", f"{tensor}_pixels"
            perm = [0, 2, 3, 1]
            self.nodes.append(helper.make_node("Transpose", [f"{tensor}_bytes"], [moved], perm=perm))
            inputs = [moved, *self.scale(tensor)[:2]]
            self.nodes.append(helper.make_node("DequantizeLinear", inputs, [self.moved[tensor]]))
        return self.moved[tensor]

    def folded(self, node: NodeProto, weight: NDArray) -> str:
        """Store a weight as bytes that runtimes fold to float on loading; return its name.

        Nothing is summed in 16 bits here, so the scales use the whole range up to 127.
        """
        largest = np.abs(weight).max(axis=(1, 2, 3))
        scales = np.where(largest > 0, largest / 127, 1).astype(np.float32)
        stored = self.constant(f"{node.name}_weight_bytes", to_bytes(weight, scales))
        step = self.constant(f"{node.name}_weight_scale", scales[:, None, None, None])
        cast, name = f"{node.name}_weight_cast", f"{node.name}_weight"
        self.nodes.append(helper.make_node("Cast", [stored], [cast], name=cast, to=TensorProto.FLOAT))
        self.nodes.append(helper.make_node("Mul", [cast, step], [name], name=name))
        return name

    def dequantized(self, name: str, stored: NDArray, scales: NDArray[np.float32], axis: int) -> str:
        inputs = [
            self.constant(f"{name}_bytes", stored),
            self.constant(f"{name}_scale", scales),
            self.constant(f"zeros_{stored.dtype}_{len(scales)}", np.zeros(len(scales), stored.dtype)),
        ]
        self.nodes.append(helper.make_node("DequantizeLinear", inputs, [name], axis=axis))
        return name

    def scale(self, tensor: str) -> tuple[str, str, np.float32]:
        """Return the names of a tensor's step and zero point, which its group shares, and the step."""
        group = self.groups[tensor]
        low = min(0.0, *(self.ranges[name][0] for name in group))
        high = max(1e-6, *(self.ranges[name][1] for name in group))
        step = np.float32((high - low) / 255)
        zero = np.uint8(np.clip(np.rint(-low / step), 0, 255))
        names = (f"{group[0]}_scale", f"{group[0]}_zero")
        return self.constant(names[0], np.array(step)), self.constant(names[1], np.array(zero)), step

    def pair(self, tensor: str) -> str:
        """Append QuantizeLinear and DequantizeLinear after a tensor, once; return the name to read it by."""
        if tensor not in self.read_as:
            both = self.scale(tensor)[:2]
            stored, read = f"{tensor}_bytes", f"{tensor}_read"
            self.nodes.append(helper.make_node("QuantizeLinear", [tensor, *both], [stored]))
            self.nodes.append(helper.make_node("DequantizeLinear", [stored, *both], [read]))
            self.read_as[tensor] = read
        return self.read_as[tensor]
