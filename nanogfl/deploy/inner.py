"""The part of a finished model that can be quantised, and which of its tensors share a scale."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import onnx
from numpy.typing import NDArray
from onnx import NodeProto, numpy_helper

PASSING = ("MaxPool", "Slice", "Resize", "Concat")  # input and output share one scale
KINDS = ("Conv", "LeakyRelu", "Add", "AveragePool", *PASSING)
Weights = dict[str, NDArray]


@dataclass(frozen=True)
class Network:
    """The part of a model that can be quantised.

    Attributes:
        nodes: its nodes in order, without the last convolutions.
        last: the last convolutions, whose outputs are the class maps and side maps.
        tensors: names of the activations that ``nodes`` and ``last`` read, the network's input first.
        weights: all constants of the model, by name.
    """

    nodes: list[NodeProto]
    last: list[NodeProto]
    tensors: list[str]
    weights: Weights


def network_of(model: onnx.ModelProto) -> Network:
    """Return the network of a model made by ``deploy.build``: from the first convolution's input to the maps."""
    weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    first = next(node for node in model.graph.node if node.op_type == "Conv")
    inside, nodes = {first.input[0]: None}, []
    for node in model.graph.node:
        read = activations(node, weights)
        if node.op_type in KINDS and read and all(name in inside for name in read):
            nodes.append(node)
            inside[node.output[0]] = None
    read_again = {name for node in nodes for name in node.input}
    last = [node for node in nodes if node.output[0] not in read_again]
    nodes = [node for node in nodes if node.output[0] in read_again]
    return Network(nodes, last, [name for name in inside if name in read_again], weights)


def activations(node: NodeProto, weights: Collection[str]) -> list[str]:
    """Return the inputs of a node that are not constants."""
    return [name for name in node.input if name and name not in weights]


def byte_tensors(network: Network, floats: Collection[str]) -> set[str]:
    """Return the activations that are read as bytes if the convolutions in ``floats`` stay float."""
    known: set[str] = set()
    for node in network.nodes:
        read = activations(node, network.weights)
        if node.op_type == "Conv" and node.name not in floats:
            known |= {*read, node.output[0]}
        elif node.op_type != "Conv" and known.issuperset(read):
            known.add(node.output[0])
    return known


def groups_of(network: Network) -> dict[str, list[str]]:
    """Return, for each activation, the list of all activations that share its scale."""
    groups = {name: [name] for name in network.tensors}
    for node in network.nodes:
        if node.op_type in PASSING:
            for name in activations(node, network.weights):
                ours, theirs = groups[node.output[0]], groups[name]
                if ours is not theirs:
                    ours += theirs
                    groups |= dict.fromkeys(theirs, ours)
    return groups
