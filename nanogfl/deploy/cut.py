"""Extraction of the network (the core form) from a file of any form, for other runtimes and for timing it alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from nanogfl.errors import ModelError
from nanogfl.runtime.card import FileCard

BEFORE = {"Sub", "Div", "Cast", "QuantizeLinear", "DequantizeLinear"}  # before the first convolution; Div in old files


def cut_core(path: Path, card: FileCard) -> onnx.ModelProto:
    """Return the core form of a file: ``image`` float32 [1, 3, H, W] 0 to 255 in, ``classes_8 .. sides_64`` out.

    Raises:
        ModelError: the start or the end of the network cannot be found in the file.
    """
    model = onnx.load(str(path), load_external_data=False)
    if card.form == "core":
        return model
    graph = Producers(model.graph)
    names = [f"{kind}_{stride}" for kind in ("classes", "sides") for stride in card.strides]
    maps = [*graph.maps("class_logits"), *graph.maps("side_logits")]
    if graph.has_quality() or len(maps) != len(names):
        why = "it has the quality predictor" if graph.has_quality() else "its maps are not named"
        raise ModelError(f"{path}: the network cannot be extracted, {why}")
    nodes, start = graph.between(maps)
    new_names = dict(zip(maps, names, strict=True)) | {start: "image"}
    return _model(model, card, nodes, new_names)


class Producers:
    """A graph with a map from tensors to the nodes that produce them, for walking it backwards."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.of = {output: node for node in graph.node for output in node.output}
        self.order = {id(self.of[node.output[0]]): i for i, node in enumerate(graph.node)}

    def maps(self, joined: str) -> list[str]:
        """Return the names of the maps that are flattened and joined to this tensor."""
        node = self.of.get(joined)
        flat = [self.of.get(name) for name in node.input] if node else []
        return [reshape.input[0] for reshape in flat if reshape is not None and reshape.op_type == "Reshape"]

    def has_quality(self) -> bool:
        """Return whether scores are not just the sigmoid of the class logits."""
        chosen = next((n for n in self.of.values() if n.op_type == "NonMaxSuppression"), None)
        scores = self.of.get(chosen.input[1]) if chosen else None
        return scores is None or scores.op_type != "Sigmoid"

    def between(self, maps: list[str]) -> tuple[list[onnx.NodeProto], str]:
        """Return the nodes that compute these maps, in order, and the name of the resized image that they read."""
        start = self.before_normalising(self.stem(maps))
        found: dict[int, onnx.NodeProto] = {}
        waiting = list(maps)
        while waiting:
            name = waiting.pop()
            node = self.of.get(name)
            if name == start or node is None or id(node) in found:
                continue
            found[id(node)] = node
            waiting += node.input
        return sorted(found.values(), key=lambda n: self.order[id(n)]), start

    def stem(self, maps: list[str]) -> str:
        """Return the input of the first convolution."""
        name, first = maps[0], ""
        while (node := self.of.get(name)) is not None:
            if node.op_type == "Conv":
                first = node.input[0]
            name = node.input[0]
        return first

    def before_normalising(self, name: str) -> str:
        """Walk back over mean, cast and quantisation nodes; return the tensor with values 0 to 255."""
        while (node := self.of.get(name)) is not None and node.op_type in BEFORE:
            name = node.input[0]
        return name


def _model(
    model: onnx.ModelProto, card: FileCard, nodes: list[onnx.NodeProto], new_names: dict[str, str]
) -> onnx.ModelProto:
    for node in nodes:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = new_names.get(name, name)
    used = {name for node in nodes for name in node.input}
    kept = [c for c in model.graph.initializer if c.name in used]
    height, width = card.input_size
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, height, width])
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in new_names.values() if n != "image"]
    graph = helper.make_graph(nodes, "nanogfl", [image], outputs, kept)
    made = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    made = onnx.shape_inference.infer_shapes(made)
    helper.set_model_props(made, replace(card, form="core").to_metadata())
    return made
