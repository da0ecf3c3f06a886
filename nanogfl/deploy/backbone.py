"""ShuffleNetV2 as ONNX nodes, without nodes that only move channels.

Instead of moving channels, the writer records the position of each channel and permutes the weights of the convolution
that reads it. The half of the channels that a shuffle unit leaves unchanged is not copied until a convolution reads it.

Widths are padded with channels of zeros to multiples of eight if that costs little: onnxruntime's blocked kernels
(eight channels with AVX2) accept only such widths, and its plain kernels take longer for 58 channels than these for 64.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np
from torch import nn

from nanogfl.deploy.graph import Graph
from nanogfl.deploy.layers import Order, Value, convolutions, filled, parameters, write_conv, write_layers
from nanogfl.model.shufflenet import ShuffleBlock, ShuffleNetV2

Channel = tuple[str, int]  # name of a tensor, and index of a channel in it
MAX_PADDING = 1.15  # largest padded width / width at which splitting a tensor into parts is worthwhile


def write_backbone(graph: Graph, backbone: ShuffleNetV2, image: str) -> list[Value]:
    """Write a ShuffleNetV2 and return its three maps."""
    convolution, *rest = backbone.conv1
    stem = write_layers(graph, convolution, Value(image, (0, 1, 2)))
    pool = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    pooled = Value(graph.node("MaxPool", [stem.name], attributes=pool), stem.order)
    # the activation is monotonic, so applying it after pooling gives the same values on a quarter of the data
    value, maps = write_layers(graph, nn.Sequential(*rest), pooled), []
    for stage in (backbone.stage2, backbone.stage3, backbone.stage4):
        value = write_stage(graph, stage.blocks(), value)
        maps.append(value)
    return maps


def write_stage(graph: Graph, blocks: list[ShuffleBlock], value: Value) -> Value:
    """Write a stage: a unit of stride 2, then units that leave half of the channels unchanged; return its map."""
    first, *rest = blocks
    half = convolutions(first.branch1)[-1].out_channels
    parts = readers(half, len(rest))
    branches = (first.branch1, first.branch2)
    channels = _shuffled(*(write_branch(graph, b, value, p) for b, p in zip(branches, parts[:2], strict=True)))
    for block, part in zip(rest, parts[2:], strict=True):
        changed = collect(graph, channels[half:])
        channels = _shuffled(channels[:half], write_branch(graph, block.branch2, changed, part))
    return collect(graph, channels)


def readers(half: int, units: int) -> list[list[Order]]:
    """Return, for each branch of a stage, its output channels grouped by the unit that reads them.

    Each group becomes a separate tensor, so that it need not be sliced. If padding the groups to whole blocks would
    cost more than this saves, each branch stays one group.
    """
    made = [[(str(branch), i) for i in range(half)] for branch in range(units + 2)]
    now, reader = _shuffled(made[0], made[1]), {}
    for unit in range(units):
        reader |= dict.fromkeys(now[half:], unit)
        now = _shuffled(now[:half], made[unit + 2])
    reader |= dict.fromkeys(now, units)
    parts = []
    for branch in made:
        groups = [tuple(i for b, i in branch if reader[b, i] == unit) for unit in range(units + 1)]
        parts.append([filled(group) for group in groups if group])
    written = sum(len(group) for groups in parts for group in groups)
    return parts if written <= MAX_PADDING * half * len(made) else [[tuple(range(half))] for _ in made]


def write_branch(graph: Graph, layers: nn.Module, value: Value, parts: Sequence[Order]) -> list[Channel]:
    """Write a branch of a unit, its last convolution once per part; return where each of its output channels is."""
    leaves = [layer for layer in layers.modules() if not isinstance(layer, nn.Sequential)]
    last = convolutions(layers)[-1]
    at = leaves.index(last)
    for layer in leaves[:at]:
        value = write_layers(graph, layer, value, fill=True)
    places: list[Channel] = [("", 0)] * last.out_channels
    for order in parts:
        made = write_conv(graph, value, *parameters(last), last, order)
        for layer in leaves[at + 1 :]:
            made = write_layers(graph, layer, made)
        used = [channel for channel in order if channel >= 0]
        graph.widths[made.name] = (len(used), len(order))
        for place, channel in enumerate(used):
            places[channel] = (made.name, place)
    return places


def collect(graph: Graph, channels: list[Channel]) -> Value:
    """Return one tensor that holds these channels, joined from as few and as long pieces as possible."""
    order = sorted(range(len(channels)), key=lambda i: channels[i])
    parts, lies = [], []
    for tensor, group in groupby(order, key=lambda i: channels[i][0]):
        members = list(group)
        places = [channels[i][1] for i in members]
        assert places == list(range(places[0], places[-1] + 1))
        used, width = graph.widths[tensor]
        whole = len(places) == used
        parts.append(tensor if whole else _slice(graph, tensor, places[0], places[-1] + 1))
        lies += members + [-1] * (width - used) * whole
    name = parts[0] if len(parts) == 1 else graph.node("Concat", parts, attributes={"axis": 1})
    return Value(name, tuple(lies))


def _slice(graph: Graph, tensor: str, start: int, stop: int) -> str:
    ends = [graph.constant([v], np.int64) for v in (start, stop, 1)]
    return graph.node("Slice", [tensor, *ends])


def _shuffled(first: list[Channel], second: list[Channel]) -> list[Channel]:
    return [channel for pair in zip(first, second, strict=True) for channel in pair]
