"""Layers of the fused network as ONNX nodes, whatever the order in which its channels lie."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from nanogfl.deploy.graph import Graph

Order = tuple[int, ...]
BLOCK = 8  # channels


@dataclass(frozen=True)
class Value:
    """A tensor in the graph.

    Attributes:
        name: in the graph.
        order: which channel of the network lies at each place; -1 for channels of zeros.
    """

    name: str
    order: Order


def write_layers(graph: Graph, layers: nn.Module, value: Value, fill: bool = False) -> Value:
    """A Sequential of convolutions, activations and identities, however nested; ``fill`` widths to whole blocks."""
    for layer in layers.modules():
        if isinstance(layer, nn.Conv2d):
            order = tuple(range(layer.out_channels))
            value = write_conv(graph, value, *parameters(layer), layer, filled(order) if fill else order)
        elif isinstance(layer, nn.LeakyReLU):
            attributes = {"alpha": layer.negative_slope}
            value = Value(graph.node("LeakyRelu", [value.name], attributes=attributes), value.order)
        elif not isinstance(layer, nn.Sequential | nn.Identity):
            raise TypeError(f"no ONNX form is written for {type(layer).__name__}")
    return value


def write_conv(graph: Graph, value: Value, weight: NDArray, bias: NDArray, conv: nn.Conv2d, order: Order) -> Value:
    """A convolution whose weights follow the channels that it reads, and whose outputs lie in this order.

    A convolution of each channel by itself keeps the order that it reads.
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
    """These channels of an axis, zeros for -1."""
    if order == tuple(range(array.shape[axis])):
        return array
    with_zeros = np.concatenate([array, np.zeros_like(array.take([0], axis))], axis)
    return with_zeros.take(order, axis)


def parameters(conv: nn.Conv2d) -> tuple[NDArray, NDArray]:
    """Weight and bias."""
    bias = np.zeros(conv.out_channels, np.float32) if conv.bias is None else _array(conv.bias)
    return _array(conv.weight), bias


def _array(parameter: Tensor) -> NDArray:
    return parameter.detach().float().cpu().numpy()


def convolutions(layers: nn.Module) -> list[nn.Conv2d]:
    """All of a module, in order."""
    return [layer for layer in layers.modules() if isinstance(layer, nn.Conv2d)]


def filled(order: Order) -> Order:
    """Channels of zeros behind, up to a whole block."""
    return order + (-1,) * (-len(order) % BLOCK)
