"""The network of each detector family as ONNX nodes: NanoDet-Plus, the first NanoDet, ResNet with FPN."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from nanogfl.deploy.backbone import write_backbone
from nanogfl.deploy.graph import Graph, Maps
from nanogfl.deploy.layers import Value, write_layers
from nanogfl.deploy.network import add, write_double, write_head, write_neck
from nanogfl.model.detector import Detector
from nanogfl.model.head import TowerHead
from nanogfl.model.pan import PlainPAN
from nanogfl.model.resnet import FPN, ResidualBlock, ResNet


def write_network(graph: Graph, detector: Detector, image: str) -> Maps:
    """Write the nodes from a normalised image [B, 3, H, W] to the maps of each level.

    Returns:
        Names of the class maps [B, C, h, w] and of the side maps [B, 4 * (R + 1), h, w].
    """
    backbone, neck, head = detector.backbone, detector.neck, detector.head
    if isinstance(backbone, ResNet):
        assert isinstance(neck, FPN) and isinstance(head, TowerHead)
        return write_towers(graph, head, write_fpn(graph, neck, write_resnet(graph, backbone, image)))
    assert not isinstance(neck, FPN) and not isinstance(head, TowerHead)
    features = write_backbone(graph, backbone, image)
    plain = isinstance(neck, PlainPAN)
    return write_head(graph, head, write_pan(graph, neck, features) if plain else write_neck(graph, neck, features))


def write_pan(graph: Graph, neck: PlainPAN, features: Sequence[Value]) -> list[Value]:
    """Write the first NanoDet's neck and return its three maps."""
    x8, x16, x32 = (write_layers(graph, lateral, f) for lateral, f in zip(neck.lateral, features, strict=True))
    t16 = add(graph, x16, write_double(graph, x32))
    t8 = add(graph, x8, write_double(graph, t16))
    p16 = add(graph, t16, _halve(graph, t8))
    return [t8, p16, add(graph, x32, _halve(graph, p16))]


def _halve(graph: Graph, value: Value) -> Value:
    window = {"kernel_shape": [2, 2], "strides": [2, 2]}
    return Value(graph.node("AveragePool", [value.name], attributes=window), value.order)


def write_resnet(graph: Graph, backbone: ResNet, image: str) -> list[Value]:
    """Write a ResNet and return its three maps."""
    stem = _write(graph, backbone.conv1, Value(image, (0, 1, 2)))
    pool = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    value, maps = Value(graph.node("MaxPool", [stem.name], attributes=pool), stem.order), []
    for stage in (backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4):
        for block in stage:
            assert isinstance(block, ResidualBlock)
            total = add(graph, _write(graph, block.branch, value), _write(graph, block.shortcut, value))
            value = Value(graph.node("Relu", [total.name]), total.order)
        maps.append(value)
    return maps[1:]


def write_fpn(graph: Graph, neck: FPN, features: Sequence[Value]) -> list[Value]:
    """Write the feature pyramid network and return its five maps."""
    x8, x16, x32 = (write_layers(graph, lateral, f) for lateral, f in zip(neck.lateral, features, strict=True))
    x16 = add(graph, x16, write_double(graph, x32, "nearest"))
    x8 = add(graph, x8, write_double(graph, x16, "nearest"))
    p8, p16, p32 = (write_layers(graph, smooth, x) for smooth, x in zip(neck.smooth, (x8, x16, x32), strict=True))
    p64 = write_layers(graph, neck.extra[0], p32)
    return [p8, p16, p32, p64, write_layers(graph, neck.extra[1], p64)]


def write_towers(graph: Graph, head: TowerHead, features: Sequence[Value]) -> Maps:
    """Write the paper's head and return its maps; each level's scale is folded into a copy of the side convolution."""
    classes, sides = [], []
    for feature, scale in zip(features, head.scales, strict=True):
        classes.append(write_layers(graph, head.classify, _write(graph, head.class_tower, feature)).name)
        measure = copy.deepcopy(head.measure)
        with torch.no_grad():
            for parameter in measure.parameters():
                parameter.mul_(scale)
        sides.append(write_layers(graph, measure, _write(graph, head.side_tower, feature)).name)
    return classes, sides


def _write(graph: Graph, layers: nn.Module, value: Value) -> Value:
    """Write a Sequential that may contain ReLU and GroupNorm besides the layers that ``write_layers`` supports."""
    for layer in layers.modules():
        if isinstance(layer, nn.ReLU):
            value = Value(graph.node("Relu", [value.name]), value.order)
        elif isinstance(layer, nn.GroupNorm):
            value = _write_group_norm(graph, layer, value)
        elif not isinstance(layer, nn.Sequential):
            value = write_layers(graph, layer, value)
    return value


def _write_group_norm(graph: Graph, norm: nn.GroupNorm, value: Value) -> Value:
    """Write a group norm as an instance norm with one channel per group; ONNX has no group norm before opset 21."""
    groups = graph.node("Reshape", [value.name, graph.constant([0, norm.num_groups, -1], np.int64)])
    ends = [graph.weight(np.full(norm.num_groups, v, np.float32)) for v in (1, 0)]
    made = graph.node("InstanceNormalization", [groups, *ends], attributes={"epsilon": norm.eps})
    back = graph.node("Reshape", [made, graph.node("Shape", [value.name])])
    weight, bias = (graph.weight(p.detach().numpy().reshape(-1, 1, 1)) for p in (norm.weight, norm.bias))
    return Value(graph.node("Add", [graph.node("Mul", [back, weight]), bias]), value.order)
