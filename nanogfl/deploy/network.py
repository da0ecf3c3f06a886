"""The fused network as ONNX nodes.

Channel shuffles cost nothing here: instead of moving channels, the writer remembers where each one lies and permutes
the weights of whoever reads it. A shuffle unit keeps half of its channels untouched; these are never copied until a
convolution reads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from nanogfl.deploy.graph import Graph
from nanogfl.model.ghost_pan import GhostBlock, GhostModule, GhostPAN
from nanogfl.model.head import GFLHead
from nanogfl.model.shufflenet import ShuffleBlock, ShuffleNetV2

Channel = tuple[str, int]  # a tensor, and a channel of it


@dataclass(frozen=True)
class Value:
    """A tensor in the graph.

    Attributes:
        name: in the graph.
        order: which channel of the network lies at each place; None where they lie in order.
    """

    name: str
    order: tuple[int, ...] | None = None


def write_backbone(graph: Graph, backbone: ShuffleNetV2, image: str) -> list[Value]:
    """ShuffleNetV2: three maps."""
    stem = write_layers(graph, backbone.conv1, Value(image))
    pool = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    value, maps = Value(graph.node("MaxPool", [stem.name], attributes=pool)), []
    for stage in (backbone.stage2, backbone.stage3, backbone.stage4):
        first, *rest = stage
        channels = _shuffled(*(_channels(graph, b, value) for b in (first.branch1, first.branch2)))  # type: ignore[union-attr]
        for block in rest:
            channels = write_unit(graph, block, channels)  # type: ignore[arg-type]
        value = collect(graph, channels)
        maps.append(value)
    return maps


def write_unit(graph: Graph, block: ShuffleBlock, channels: list[Channel]) -> list[Channel]:
    """One shuffle unit of stride 1: half of the channels passes by."""
    half = len(channels) // 2
    changed = collect(graph, channels[half:])
    return _shuffled(channels[:half], _channels(graph, block.branch2, changed))


def collect(graph: Graph, channels: list[Channel]) -> Value:
    """One tensor that holds these channels, as few and as long pieces as possible, and their order in it."""
    order = sorted(range(len(channels)), key=lambda i: channels[i])
    parts = []
    for tensor, group in groupby(order, key=lambda i: channels[i][0]):
        places = [channels[i][1] for i in group]
        parts.append(_slice(graph, tensor, places[0], places[-1] + 1))
        assert places == list(range(places[0], places[-1] + 1))
    name = parts[0] if len(parts) == 1 else graph.node("Concat", parts, attributes={"axis": 1})
    return Value(name, tuple(order))


def _slice(graph: Graph, tensor: str, start: int, stop: int) -> str:
    if (start, stop) == (0, graph.widths[tensor]):
        return tensor
    ends = [graph.constant([v], np.int64) for v in (start, stop, 1)]
    return graph.node("Slice", [tensor, *ends])


def _channels(graph: Graph, layers: nn.Module, value: Value) -> list[Channel]:
    made = write_layers(graph, layers, value)
    width = [layer for layer in layers.modules() if isinstance(layer, nn.Conv2d)][-1].out_channels
    graph.widths[made.name] = width
    return [(made.name, i) for i in range(width)]


def _shuffled(first: list[Channel], second: list[Channel]) -> list[Channel]:
    return [channel for pair in zip(first, second, strict=True) for channel in pair]


def write_neck(graph: Graph, neck: GhostPAN, features: Sequence[Value]) -> list[Value]:
    """GhostPAN: four maps."""
    x8, x16, x32 = (write_layers(graph, r, f) for r, f in zip(neck.reduce, features, strict=True))
    t16 = write_ghost(graph, neck.top_down[0], _join(graph, write_double(graph, x32), x16))
    t8 = write_ghost(graph, neck.top_down[1], _join(graph, write_double(graph, t16), x8))
    p16 = write_ghost(graph, neck.bottom_up[0], _join(graph, write_layers(graph, neck.downsample[0], t8), t16))
    p32 = write_ghost(graph, neck.bottom_up[1], _join(graph, write_layers(graph, neck.downsample[1], p16), x32))
    extra = [write_layers(graph, layers, x) for layers, x in ((neck.extra_in, x32), (neck.extra_out, p32))]
    return [t8, p16, p32, Value(graph.node("Add", [v.name for v in extra]))]


def write_ghost(graph: Graph, block: nn.Module, value: Value) -> Value:
    """A ghost block: two ghost modules beside the shortcut."""
    assert isinstance(block, GhostBlock)
    made = value
    for module in (block.ghost1, block.ghost2):
        made = _write_ghost_module(graph, module, made)
    shortcut = write_layers(graph, block.shortcut, value)
    return Value(graph.node("Add", [made.name, shortcut.name]))


def _write_ghost_module(graph: Graph, module: GhostModule, value: Value) -> Value:
    primary = write_layers(graph, module.primary, value)
    return _join(graph, primary, write_layers(graph, module.cheap, primary))


def _join(graph: Graph, first: Value, second: Value) -> Value:
    return Value(graph.node("Concat", [first.name, second.name], attributes={"axis": 1}))


def write_double(graph: Graph, value: Value, mode: str = "linear") -> Value:
    """Twice as high and wide; ``linear`` or ``nearest``."""
    scales = graph.constant([1, 1, 2, 2], np.float32)
    attributes = {"mode": mode, "coordinate_transformation_mode": "half_pixel"}
    if mode == "nearest":
        attributes |= {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return Value(graph.node("Resize", [value.name, "", scales], attributes=attributes))


def write_head(graph: Graph, head: GFLHead, features: Sequence[Value]) -> tuple[list[str], list[str]]:
    """The GFL head; class and sides as two convolutions, so that they never share a quantization scale."""
    last, classes, sides = len(head.towers) - 1, [], []
    for i, feature in enumerate(features):
        tower = write_layers(graph, head.towers[min(i, last)], feature)
        predict = head.predict[min(i, last)]
        if head.side_towers:
            own = write_layers(graph, head.side_towers[min(i, last)], feature)
            classes.append(write_layers(graph, predict, tower).name)
            sides.append(write_layers(graph, head.measure[min(i, last)], own).name)
            continue
        assert isinstance(predict, nn.Conv2d) and predict.bias is not None
        weight, bias = (_array(p) for p in (predict.weight, predict.bias))
        for names, rows in ((classes, slice(None, head.classes)), (sides, slice(head.classes, None))):
            names.append(write_conv(graph, tower, weight[rows], bias[rows], predict).name)
    return classes, sides


def write_layers(graph: Graph, layers: nn.Module, value: Value) -> Value:
    """A Sequential of convolutions, activations and identities, however nested."""
    for layer in layers.modules():
        if isinstance(layer, nn.Conv2d):
            bias = np.zeros(layer.out_channels, np.float32) if layer.bias is None else _array(layer.bias)
            value = write_conv(graph, value, _array(layer.weight), bias, layer)
        elif isinstance(layer, nn.LeakyReLU):
            attributes = {"alpha": layer.negative_slope}
            value = Value(graph.node("LeakyRelu", [value.name], attributes=attributes), value.order)
        elif not isinstance(layer, nn.Sequential | nn.Identity):
            raise TypeError(f"no ONNX form is written for {type(layer).__name__}")
    return value


def write_conv(graph: Graph, value: Value, weight: NDArray, bias: NDArray, conv: nn.Conv2d) -> Value:
    """A convolution whose weights follow the order of the channels that it reads."""
    order = value.order
    if order is not None:
        places = list(order)
        if conv.groups == 1:
            weight, order = weight[:, places], None
        else:
            weight, bias = weight[places], bias[places]
    attributes = {
        "kernel_shape": list(conv.kernel_size),
        "strides": list(conv.stride),
        "pads": [*conv.padding, *conv.padding],
        "group": conv.groups,
    }
    inputs = [value.name, graph.constant(weight), graph.constant(bias)]
    return Value(graph.node("Conv", inputs, attributes=attributes), order)


def _array(parameter: Tensor) -> NDArray:
    return parameter.detach().float().cpu().numpy()
