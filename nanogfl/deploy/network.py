"""NanoDet-Plus' neck and head as ONNX nodes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import nn

from nanogfl.deploy.graph import Graph, Maps
from nanogfl.deploy.layers import Value, convolutions, parameters, write_conv, write_layers
from nanogfl.model.ghost_pan import GhostBlock, GhostModule, GhostPAN
from nanogfl.model.head import GFLHead


def write_neck(graph: Graph, neck: GhostPAN, features: Sequence[Value]) -> list[Value]:
    """Write a GhostPAN and return its four maps."""
    x8, x16, x32 = (write_layers(graph, r, f) for r, f in zip(neck.reduce, features, strict=True))
    t16 = write_ghost(graph, neck.top_down[0], _join(graph, write_double(graph, x32), x16))
    t8 = write_ghost(graph, neck.top_down[1], _join(graph, write_double(graph, t16), x8))
    p16 = write_ghost(graph, neck.bottom_up[0], _join(graph, write_layers(graph, neck.downsample[0], t8), t16))
    p32 = write_ghost(graph, neck.bottom_up[1], _join(graph, write_layers(graph, neck.downsample[1], p16), x32))
    extra = [write_layers(graph, layers, x) for layers, x in ((neck.extra_in, x32), (neck.extra_out, p32))]
    return [t8, p16, p32, add(graph, *extra)]


def write_ghost(graph: Graph, block: nn.Module, value: Value) -> Value:
    """Write a ghost block: two ghost modules in parallel with the shortcut."""
    assert isinstance(block, GhostBlock)
    made = value
    for module in (block.ghost1, block.ghost2):
        made = _write_ghost_module(graph, module, made)
    depthwise, pointwise = convolutions(block.shortcut)
    shortcut = write_layers(graph, depthwise, value)
    return add(graph, made, write_conv(graph, shortcut, *parameters(pointwise), pointwise, made.order))


def _write_ghost_module(graph: Graph, module: GhostModule, value: Value) -> Value:
    primary = write_layers(graph, module.primary, value, fill=True)
    return _join(graph, primary, write_layers(graph, module.cheap, primary))


def _join(graph: Graph, first: Value, second: Value) -> Value:
    width = max(first.order) + 1
    order = first.order + tuple(i + width if i >= 0 else i for i in second.order)
    return Value(graph.node("Concat", [first.name, second.name], attributes={"axis": 1}), order)


def add(graph: Graph, first: Value, second: Value) -> Value:
    """Add two tensors with the same channel order."""
    assert first.order == second.order
    return Value(graph.node("Add", [first.name, second.name]), first.order)


def write_double(graph: Graph, value: Value, mode: str = "linear") -> Value:
    """Upsample by two; ``mode`` is ``linear`` or ``nearest``."""
    scales = graph.constant([1, 1, 2, 2], np.float32)
    attributes = {"mode": mode, "coordinate_transformation_mode": "half_pixel"}
    if mode == "nearest":
        attributes |= {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return Value(graph.node("Resize", [value.name, "", scales], attributes=attributes), value.order)


def write_head(graph: Graph, head: GFLHead, features: Sequence[Value]) -> Maps:
    """Write the GFL head; classes and sides become two convolutions, so that they do not share a quantisation scale."""
    last, classes, sides = len(head.towers) - 1, [], []
    for i, feature in enumerate(features):
        tower = write_layers(graph, head.towers[min(i, last)], feature)
        predict = head.predict[min(i, last)]
        if head.side_towers:
            own = write_layers(graph, head.side_towers[min(i, last)], feature)
            classes.append(write_layers(graph, predict, tower).name)
            sides.append(write_layers(graph, head.measure[min(i, last)], own).name)
            continue
        assert isinstance(predict, nn.Conv2d)
        ends = (0, head.classes, predict.out_channels)
        for names, start, stop in ((classes, *ends[:2]), (sides, *ends[1:])):
            made = write_conv(graph, tower, *parameters(predict), predict, tuple(range(start, stop)))
            names.append(made.name)
    return classes, sides
