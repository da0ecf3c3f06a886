"""Layers of the fused network as ONNX nodes, for any order of the channels in memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from nanogfl.deploy.graph import Graph

Order = tuple[int, ...]
BLOCK = 8  # channels in a block of onnxruntime's kernels


@dataclass(frozen=True)
class Value:
    """A tensor in the graph and the order of its channels.

    Attributes:
        name: name in the graph.
        order: channel of the network at each position; -1 for a channel of zeros.
    """

    name: str
    order: Order


def write_layers(graph: Graph, layers: nn.Module, value: Value, fill: bool = False) -> Value:
    """Write nested Sequentials of convolutions, activations and identities; ``fill`` pads widths to whole blocks."""
    for layer in layers.modules():
        if isinstance(layer, nn.Conv2d):
            order = tuple(range(layer.out_channels))
            value = write_conv(graph, value, *parameters(layer), layer, filled(order) if fill else order)
        elif isinstance(layer, nn.LeakyReLU):
            attributes = {"alpha": layer.negative_slope}
            value = Value(graph.node("LeakyRelu", [value.name], attributes=attributes), value.order)
        elif not isinstance(layer, nn.Sequential | nn.Identity):
            raise TypeError(f"ONNX export does not support {type(layer).__name__}")
    return value


def write_conv(graph: Graph, value: Value, weight: NDArray, bias: NDArray, conv: nn.Conv2d, order: Order) -> Value:
    """Write a convolution with weights permuted to its input's channel order and outputs in ``order``.

    A depthwise convolution keeps the channel order of its input.
    """
    if conv.groups == 1:
        weight = _taken(weight, value.order, 1)
    else:
        order = value.order
    attributes = {
        "kernel_shape": list(conv.kernel_size),
        "strides": list(conv.stride),
        "pads": [*conv.padding, *conv.padding],
        "group": 1 if conv.groups == 1 else len(order),
    }
    inputs = [value.name, graph.weight(_taken(weight, order, 0)), graph.weight(_taken(bias, order, 0))]
    return Value(graph.node("Conv", inputs, attributes=attributes), order)


def _taken(array: NDArray, order: Order, axis: int) -> NDArray:
    """Return the channels ``order`` of an axis, with zeros for -1."""
    if order == tuple(range(array.shape[axis])):
        return array
    with_zeros = np.concatenate([array, np.zeros_like(array.take([0], axis))], axis)
    return with_zeros.take(order, axis)


def parameters(conv: nn.Conv2d) -> tuple[NDArray, NDArray]:
    """Return weight and bias of a convolution; the bias is zeros if it has none."""
    bias = np.zeros(conv.out_channels, np.float32) if conv.bias is None else _array(conv.bias)
    return _array(conv.weight), bias


def _array(parameter: Tensor) -> NDArray:
    return parameter.detach().float().cpu().numpy()


def convolutions(layers: nn.Module) -> list[nn.Conv2d]:
    """Return all convolutions of a module in order."""
    return [layer for layer in layers.modules() if isinstance(layer, nn.Conv2d)]


def filled(order: Order) -> Order:
    """Append channels of zeros (-1) up to a whole block."""
    return order + (-1,) * (-len(order) % BLOCK)
